"""Policies: loading, batches of images and text, log-probabilities."""
