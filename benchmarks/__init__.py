"""Measurements that are committed: each module is one, and names the command that repeats it."""
