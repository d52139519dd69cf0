"""The jobs a person submits, one module each, and how they start."""
