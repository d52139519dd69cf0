"""Checkpoints on another file system: a folder, or whatever fsspec reaches by URL (s3://, gs://, memory:// and so on).

`URL/step_000020/...` are the files of a checkpoint; beside them lie the run's settings and its ledger of then.
Invariants: object stores can't rename, so `MANIFEST.json` is written last and removed first, and a folder without it is
no checkpoint; old copies go only when a newer one is whole.
"""

import json
import logging
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from dermo_ray import checkpoints
from dermo_ray.checkpoints import MANIFEST, STATE
from dermo_ray.errors import UserError

BESIDE = ("config.yaml", "ledger.jsonl")
"""Files of the run directory that a run needs to go on elsewhere."""

_log = logging.getLogger(__name__)


def upload(run: Path, checkpoint: Path, url: str, keep: int, keep_best: int) -> None:
    """Copy `checkpoint` of `run` to `url`, and let the copies go that are one too many. Raises `OSError`."""
    system, root = _open(url)
    for name in BESIDE:
        if (run / name).is_file():
            system.makedirs(root, exist_ok=True)
            system.put_file(str(run / name), f"{root}/{name}")
    target = f"{root}/{checkpoint.name}"
    files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file()]
    for path in sorted(files, key=lambda path: path.name == MANIFEST):
        place = f"{target}/{PurePosixPath(path.relative_to(checkpoint))}"
        system.makedirs(place.rpartition("/")[0], exist_ok=True)
        system.put_file(str(path), place)
    steps = _steps(system, root)
    scores = {step: _score(system, folder) for step, folder in steps.items()}
    for step in checkpoints.surplus(scores, keep, keep_best):
        system.rm_file(f"{steps[step]}/{MANIFEST}")
        system.rm(steps[step], recursive=True)


def restore(run: Path, folder: str, url: str) -> Path | None:
    """Bring the newest whole checkpoint at `url` into `run/folder`, with what lies beside it; None where there is none.

    A copy that turns out to be damaged is left out, which is said in the log. Raises `UserError` where none is whole.
    """
    system, root = _open(url)
    error: UserError | None = None
    for step, source in sorted(_steps(system, root).items(), reverse=True):
        partial = checkpoints.begin(run / folder, step)
        system.get(f"{source}/", f"{partial}/", recursive=True)
        try:
            checkpoints.verify(partial)
        except UserError as damage:
            shutil.rmtree(partial)
            _log.warning("the copy %s/%s is damaged (%s)", url, checkpoints.step_name(step), damage)
            error = error or damage
            continue
        for name in BESIDE:
            if system.exists(f"{root}/{name}"):
                system.get_file(f"{root}/{name}", str(run / name))
        return checkpoints.adopt(partial)
    if error is not None:
        raise error
    return None


def _open(url: str) -> tuple[Any, str]:
    try:
        system, root = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise UserError(f"checkpoint_copy={url} can't be opened: {error}") from error
    return system, root.rstrip("/")


def _score(system: Any, folder: str) -> float | None:
    """What a copy was scored with; None where that can't be read."""
    try:
        score: float | None = json.loads(system.cat_file(f"{folder}/{STATE}")).get("score")
    except (OSError, ValueError):
        return None
    return score


def _steps(system: Any, root: str) -> dict[int, str]:
    """The whole copies by step."""
    found = [manifest.rpartition("/")[0] for manifest in system.glob(f"{root}/step_*/{MANIFEST}")]
    return {int(folder.rpartition("step_")[2]): folder for folder in found}
