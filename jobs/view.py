"""Shows what a policy wrote, step by step, and why it was rewarded as it was: `python -m jobs.view RUN`.

Serves a page on this machine over the run directory of jobs.mavic, finished or under way: groups of completions side by
side with their image, token by token, reward terms and faults with their reasons, filters, changes of a prompt's
completions from step to step, curves. It only reads, needs no Ray, and runs until it is interrupted.

`python -m jobs.view ledger RUN` prints instead whether every prompt was trained on exactly once.
"""

import sys
from pathlib import Path

import uvicorn

from dermo_ray import ledger
from dermo_ray.config.view import ViewConfig
from dermo_ray.view.api import build_app
from jobs.command import main
from jobs.ports import check_port

CONFIG = ViewConfig


def run(config: ViewConfig) -> None:
    """Serve until SIGINT or SIGTERM, or check the ledger.

    Raises `UserError` for what is no run directory and for a port in use, `SystemExit` where the ledger has problems.
    """
    if config.show == "ledger":
        print_ledger(config.run)
        return
    check_port(config.host, config.port)
    app = build_app(config.run, config.data, config.host)
    print(f"viewing {config.run} at http://{config.host}:{config.port}", flush=True)
    uvicorn.run(app, host=config.host, port=config.port, log_level="warning")


def print_ledger(run: Path) -> None:
    """Print what a run's ledger proves; exits with 1 where it does not prove that every prompt was used once."""
    report = ledger.check(run)
    for problem in report.problems:
        print(problem)
    print(report.summary)
    if not report.ok:
        sys.exit(1)


if __name__ == "__main__":
    main(CONFIG, run, __doc__)
