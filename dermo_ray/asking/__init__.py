"""Asking a language model many questions: over HTTP, each once, every answer kept, within a budget."""
