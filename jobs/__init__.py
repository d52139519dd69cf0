"""What a person submits: each module is a job, run by `python -m jobs.NAME` or `dermo-ray NAME`."""

import os

# Before anything imports torch: a driver shares its cores with the actors it starts, and threads that spin at a barrier
# would starve them, or be starved by them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
