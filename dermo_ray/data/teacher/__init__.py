"""Annotation by a teacher: a larger model writes the morphology, description and reasoning that images lack."""
