"""Writes the page that lists every setting of every job: `docs/configuration.md`, or `out=FILE`."""

import importlib

from dermo_ray.config.reference import ReferenceConfig, page
from jobs.cli import JOBS
from jobs.command import main

CONFIG = ReferenceConfig


def run(config: ReferenceConfig) -> None:
    """Write the page."""
    config.out.write_text(reference(), encoding="utf-8")
    print(config.out)


def reference() -> str:
    """The page as it should be."""
    modules = {name: importlib.import_module(f"jobs.{name}") for name in JOBS}
    return page({name: (module.CONFIG, module.__doc__ or "") for name, module in modules.items()})


if __name__ == "__main__":
    main(CONFIG, run, __doc__)
