"""Whether a run directory has the checkpoint that is to be measured or served, whole and with its base model."""

from collections.abc import Iterator
from pathlib import Path

from dermo_ray.errors import UserError
from jobs.preflight.finding import Finding
from serve.checkpoints import resolve

CHECK = "checkpoint"


def check_checkpoint(run: Path, name: str) -> Iterator[Finding]:
    """Read its manifest and hash its files, as the job does."""
    try:
        checkpoint = resolve(run, name)
    except UserError as error:
        yield Finding(CHECK, "fail", str(error))
    else:
        base = f", on {checkpoint.model.path}" if checkpoint.adapter is not None else ""
        yield Finding(CHECK, "pass", f"{run}: {checkpoint.label}, version {checkpoint.version}{base}")
