"""DermoRay's library: everything here runs in one process and imports neither Ray nor an engine."""

__version__ = "0.1.0"
