"""The `dermo-ray` command: `dermo-ray NAME [CONFIG.yaml] [key.sub=value ...]` starts the job `jobs.NAME`."""

import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from jobs import command

JOBS = (
    *("prepare", "sft", "concepts", "mavic", "evaluate", "serve", "demo"),
    *("preflight", "reward_check", "keys", "merge", "reference", "release", "scale", "view"),
)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the job named first on the command line; the rest is the job's."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: dermo-ray NAME [CONFIG.yaml] [key.sub=value ...]\n\njobs: {', '.join(JOBS)}")
        print("`dermo-ray NAME --help` lists a job's settings")
        sys.exit(0 if arguments else command.USER_MISTAKE)
    name, *rest = arguments
    if name not in JOBS:
        near = difflib.get_close_matches(name, JOBS, n=1, cutoff=0.0)[0]
        command.complain(f"there is no job {name!r}; did you mean {near!r}? All jobs: {', '.join(JOBS)}")
    job = importlib.import_module(f"jobs.{name}")  # only now: each job brings a heavy part of the stack with it
    command.main(job.CONFIG, job.run, job.__doc__, rest)


if __name__ == "__main__":
    main()
