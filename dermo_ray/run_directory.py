"""A run directory belongs to one run.

Invariants: one live process at a time holds it; once it has a checkpoint, its settings are those of the run that made
it, but for the few that a resumed run may change.
"""

import fcntl
import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dermo_ray import checkpoint_copies, checkpoints
from dermo_ray.config.base import Settings, dump, load
from dermo_ray.errors import UserError
from dermo_ray.staging import staged_file

CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"
ROLLOUTS = "rollouts"
TOKENIZER = "tokenizer.json"
"""The policy's tokenizer, in the format of the `tokenizers` library: what the token ids of the rollouts mean."""
STOP = ".stop"
"""A file that is there while a training run's ranks are asked to end, with a checkpoint, after the update under way."""


_log = logging.getLogger(__name__)


@contextmanager
def claimed(
    run: Path, config: Settings, changeable: Collection[str], copies: str | None = None
) -> Iterator[Path | None]:
    """Hold `run` for the body of a `with` and write its `config.yaml`; yields the checkpoint to go on from, or None.

    `changeable` names the settings, or groups of settings, that may differ from those the run began with; `copies` is
    where to look for a checkpoint if `run` has no whole one. Raises `UserError` where another live process holds `run`,
    where it has a checkpoint of a run with other settings, or only damaged ones.
    """
    run.mkdir(parents=True, exist_ok=True)
    with (run / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel lets go of it when the process ends, however
        except BlockingIOError as error:
            raise UserError(
                f"two runs in one run directory: another live run holds {run}; choose another run"
            ) from error
        checkpoint = _recovered(run, copies)
        if checkpoint is not None:
            _check_same(run, config, changeable)
        with staged_file(run / CONFIG) as aside:
            dump(config, aside)
        yield checkpoint


def _recovered(run: Path, copies: str | None) -> Path | None:
    """The newest whole checkpoint of `run`, or else of its `copies`; None where there is none."""
    try:
        checkpoint = checkpoints.recover(run / CHECKPOINTS)
    except UserError as damage:
        checkpoint = checkpoint_copies.restore(run, CHECKPOINTS, copies) if copies is not None else None
        if checkpoint is None:
            raise
        _log.warning("%s; the copy of %s at %s is taken instead", damage, checkpoint.name, copies)
        return checkpoint
    if checkpoint is None and copies is not None:
        return checkpoint_copies.restore(run, CHECKPOINTS, copies)
    return checkpoint


def _check_same(run: Path, config: Settings, changeable: Collection[str]) -> None:
    changeable = {*changeable, "run"}  # a run may have moved, or be brought back from its copies elsewhere
    before, now = load(type(config), run / CONFIG).model_dump(mode="json"), config.model_dump(mode="json")
    if (difference := _first_difference(before, now, changeable)) is not None:
        name, old, new = difference
        raise UserError(
            f"two runs in one run directory: {run} has checkpoints of a run with {name}={old}, not {new}; "
            "choose another run, or remove it"
        )


def _first_difference(
    old: dict[str, Any], new: dict[str, Any], changeable: Collection[str], prefix: str = ""
) -> tuple[str, Any, Any] | None:
    for key, value in new.items():
        if f"{prefix}{key}" in changeable:
            continue
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            if (below := _first_difference(old[key], value, changeable, f"{prefix}{key}.")) is not None:
                return below
        elif old.get(key) != value:
            return f"{prefix}{key}", old.get(key), value
    return None
