"""Checkpoints that are whole or not there: written aside, hashed, renamed, and only then pointed at.

Invariants: `checkpoints/latest` always points at a folder with a manifest that was right when it was written; a writer
that is killed, or finds the disk full, leaves nothing but folders whose names begin with a dot; an old checkpoint goes
only when a newer one is whole.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from dermo_ray.errors import UserError

MANIFEST = "MANIFEST.json"
STATE = "state.json"
LATEST = "latest"
BEST = "best"
"""The link beside `latest` at the checkpoint with the best validation."""

_log = logging.getLogger(__name__)


def begin(checkpoints: Path, step: int) -> Path:
    """An empty folder to write the checkpoint of `step` into; `commit` makes it one."""
    partial = checkpoints / f".{step_name(step)}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def commit(partial: Path, state: dict[str, Any]) -> Path:
    """Write `state.json` and the manifest of hashes, give the folder its final name and point `latest` at it."""
    (partial / STATE).write_text(json.dumps(state, indent=2))
    files = {str(path.relative_to(partial)): file_sha256(path) for path in sorted(partial.rglob("*")) if path.is_file()}
    (partial / MANIFEST).write_text(json.dumps({"files": files}, indent=2))
    for path in (*partial.rglob("*"), partial):  # a node that is lost takes along what was not yet on the disk
        _to_disk(path)
    return adopt(partial)


def adopt(partial: Path) -> Path:
    """Give a folder that has all its files and its manifest its final name, and point `latest` at it."""
    final = partial.with_name(partial.name.removeprefix(".").removesuffix(".partial"))
    replaced = final.with_name(f".{final.name}.replaced")
    if final.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        os.rename(final, replaced)
    os.rename(partial, final)
    shutil.rmtree(replaced, ignore_errors=True)
    point_at(final)
    _to_disk(final.parent)
    return final


def _to_disk(path: Path) -> None:
    """Returns once the file, or the names in the folder, would outlast a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # what some file systems say of folders
            raise
    finally:
        os.close(descriptor)


def discard(checkpoints: Path, step: int) -> None:
    """Remove what `begin` made for `step` and could not be finished."""
    shutil.rmtree(checkpoints / f".{step_name(step)}.partial", ignore_errors=True)


def point_at(checkpoint: Path, name: str = LATEST) -> None:
    """Let the link `name` beside a checkpoint point at it."""
    link = checkpoint.with_name(f".{name}.partial")
    link.unlink(missing_ok=True)
    link.symlink_to(checkpoint.name)
    os.replace(link, checkpoint.with_name(name))


def verify(checkpoint: Path) -> None:
    """Check a checkpoint against its manifest. Raises `UserError` naming the first file that is missing or changed."""
    manifest = checkpoint / MANIFEST
    if not manifest.is_file():
        raise UserError(f"{checkpoint} is no complete checkpoint: {MANIFEST} is missing")
    try:
        files = json.loads(manifest.read_text())["files"]
    except (ValueError, KeyError) as error:
        raise UserError(f"{checkpoint} is damaged: {MANIFEST} can't be read") from error
    for name, digest in files.items():
        path = checkpoint / name
        if not path.is_file():
            raise UserError(f"{checkpoint} is damaged: {name} is missing")
        if file_sha256(path) != digest:
            raise UserError(f"{checkpoint} is damaged: {name} is not what was written")


def latest(checkpoints: Path) -> Path | None:
    """The newest checkpoint, resolved and verified; None where there is none yet."""
    link = checkpoints / LATEST
    if not link.exists():
        return None
    checkpoint = link.resolve()
    verify(checkpoint)
    return checkpoint


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What `commit` was given."""
    state: dict[str, Any] = json.loads((checkpoint / STATE).read_text())
    return state


def recover(checkpoints: Path) -> Path | None:
    """The newest checkpoint that is whole, None where there is none yet; for the run that owns the folder.

    `latest` points at it afterwards, and damaged ones are put aside under a name that begins with a dot, which is said
    in the log; `best` goes with the one that it points at. What a writer that was killed left unfinished is removed.
    Raises `UserError`, the first damage, where there are checkpoints and none of them is whole.
    """
    for partial in checkpoints.glob(".step_*.partial"):  # a disk that they fill has no room for the next one
        shutil.rmtree(partial, ignore_errors=True)
    for replaced in checkpoints.glob(".step_*.replaced"):  # a writer was killed before the new one took its name
        final = replaced.with_name(replaced.name.removeprefix(".").removesuffix(".replaced"))
        if not final.exists():
            os.rename(replaced, final)
    damaged: list[tuple[Path, UserError]] = []
    for checkpoint in sorted(checkpoints.glob("step_*"), reverse=True):
        try:
            verify(checkpoint)
        except UserError as error:
            damaged.append((checkpoint, error))
            continue
        for other, damage in damaged:
            aside = other.with_name(f".{other.name}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(other, aside)
            _log.warning("%s; it is put aside as %s, and %s is taken instead", damage, aside.name, checkpoint.name)
        best = checkpoints / BEST
        if best.is_symlink() and not best.exists():  # it was one of them, and a link to nothing helps nobody
            best.unlink()
            _log.warning("%s was among them: there is none until a validation finds a better one", BEST)
        point_at(checkpoint)
        return checkpoint
    if damaged:
        raise damaged[0][1]
    return None


def retain(checkpoints: Path, keep: int, keep_best: int = 0, spare: Collection[int] = ()) -> None:
    """Remove all but the newest `keep` checkpoints, the `keep_best` others with the highest `score`, and `spare`."""
    steps = {int(path.name.removeprefix("step_")): path for path in checkpoints.glob("step_*")}
    scores = {step: _score(path) if keep_best else None for step, path in steps.items()}
    for step in surplus(scores, keep, keep_best):
        if step not in spare:
            shutil.rmtree(steps[step])


def _score(checkpoint: Path) -> float | None:
    """What it was scored with; None where that can't be read, as a kill in the midst of its removal leaves it."""
    try:
        score: float | None = read_state(checkpoint).get("score")
    except (OSError, ValueError):
        return None
    return score


def surplus(scores: Mapping[int, float | None], keep: int, keep_best: int) -> list[int]:
    """Which steps go where the newest `keep` stay, and of the others the `keep_best` that scored highest, if at all."""
    old = sorted(scores)[:-keep]
    scored = {step: score for step in old if (score := scores[step]) is not None}
    best = sorted(scored, key=lambda step: (scored[step], step), reverse=True)[:keep_best]
    return [step for step in old if step not in best]


def step_name(step: int) -> str:
    """The folder's name, `step_000020`."""
    return f"step_{step:06d}"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
