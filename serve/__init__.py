"""The serving application: policy replicas on Ray Serve behind an OpenAI-compatible API."""
