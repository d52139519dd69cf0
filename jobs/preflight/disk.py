"""Whether there is room for what a job keeps."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from dermo_ray.config.mavic import MavicConfig
from dermo_ray.config.sft import SftConfig
from jobs.preflight.finding import Finding, Status
from jobs.preflight.model import lora_parameters, parameters, read_config, weight_files
from jobs.preflight.nodes import NodeFacts
from jobs.preflight.plan import Plan

CHECK = "disk space"

_LEAST_GIB = 1.0
"""Metrics, completions, logs and reports."""
_TRAINING_BYTES = 12
"""Of each trained number in a checkpoint: its float32 value and the two moments of Adam."""
_NUMBER_BYTES = 4
"""Of each number in an adapter's file."""


def check_disk(folders: Sequence[Path], driver: NodeFacts, needed_gib: float) -> Iterator[Finding]:
    """Room on the file system of each folder, as the driver sees it; a warning where it is less than twice the need."""
    for folder in folders:
        free = driver.free_gib[folder]
        said = f"{free:.1f} GiB free at {folder}, about {needed_gib:.1f} GiB needed"
        if free >= 2 * needed_gib:
            yield Finding(CHECK, "pass", said)
        else:
            status: Status = "fail" if free < needed_gib else "warn"
            yield Finding(CHECK, status, said, "make room, or keep fewer checkpoints (keep_checkpoints)")


def needed_gib(plan: Plan) -> float:
    """What the job's checkpoints take at most, one that is being written included, and a little for the rest."""
    config, model = plan.config, plan.model
    if model is None or not isinstance(config, SftConfig | MavicConfig):
        return _LEAST_GIB
    if config.lora is None:
        files = sum(path.stat().st_size for path in weight_files(model.path) if path.is_file())
        one = files + _TRAINING_BYTES * parameters(model.path)
    else:
        shape = read_config(model.path)
        one = (_TRAINING_BYTES + _NUMBER_BYTES) * lora_parameters(shape, config.lora) if shape is not None else 0
    return _LEAST_GIB + (config.keep_checkpoints + 1) * one / 2**30
