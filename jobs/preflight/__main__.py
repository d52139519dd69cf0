"""Lets `python -m jobs.preflight` run the job."""

from jobs.command import main
from jobs.preflight import CONFIG, __doc__, run

main(CONFIG, run, __doc__)
