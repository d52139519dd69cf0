"""Whether a run directory has the checkpoint that is to be measured or served, whole and with its base model."""

from pathlib import Path

from dermo_ray.config.model import ModelSettings
from dermo_ray.errors import UserError
from jobs.preflight.finding import Finding
from serve.checkpoints import resolve

CHECK = "checkpoint"


def find_checkpoint(run: Path, name: str) -> tuple[Finding, ModelSettings | None]:
    """Read its manifest and hash its files, as the job does; with the model that it stands on, or None."""
    try:
        checkpoint = resolve(run, name)
    except UserError as error:
        return Finding(CHECK, "fail", str(error)), None
    said = f"{run}: {checkpoint.label}, version {checkpoint.version}"
    return Finding(CHECK, "pass", said), checkpoint.model
