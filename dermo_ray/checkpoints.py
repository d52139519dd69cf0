"""Checkpoints that are whole or not there: written aside, hashed, renamed, and only then pointed at.

Invariants: `checkpoints/latest` always points at a folder with a manifest that was right when it was written; a killed
writer leaves nothing but a `.step_*.partial` folder, which the next writer of that step removes.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from dermo_ray.errors import UserError

MANIFEST = "MANIFEST.json"
STATE = "state.json"
LATEST = "latest"


def begin(checkpoints: Path, step: int) -> Path:
    """An empty folder to write the checkpoint of `step` into; `commit` makes it one."""
    partial = checkpoints / f".{step_name(step)}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def commit(partial: Path, state: dict[str, Any]) -> Path:
    """Write `state.json` and the manifest of hashes, give the folder its final name and point `latest` at it."""
    (partial / STATE).write_text(json.dumps(state, indent=2))
    files = {str(path.relative_to(partial)): _sha256(path) for path in sorted(partial.rglob("*")) if path.is_file()}
    (partial / MANIFEST).write_text(json.dumps({"files": files}, indent=2))
    final = partial.with_name(partial.name.removeprefix(".").removesuffix(".partial"))
    if final.exists():
        shutil.rmtree(final)
    os.rename(partial, final)
    link = final.with_name(f".{LATEST}.partial")
    link.unlink(missing_ok=True)
    link.symlink_to(final.name)
    os.replace(link, final.with_name(LATEST))
    return final


def verify(checkpoint: Path) -> None:
    """Check a checkpoint against its manifest. Raises `UserError` naming the first file that is missing or changed."""
    manifest = checkpoint / MANIFEST
    if not manifest.is_file():
        raise UserError(f"{checkpoint} is no complete checkpoint: {MANIFEST} is missing")
    for name, digest in json.loads(manifest.read_text())["files"].items():
        path = checkpoint / name
        if not path.is_file():
            raise UserError(f"{checkpoint} is damaged: {name} is missing")
        if _sha256(path) != digest:
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


def retain(checkpoints: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints."""
    steps = sorted(checkpoints.glob("step_*"))
    for old in steps[:-keep]:
        shutil.rmtree(old)


def step_name(step: int) -> str:
    """The folder's name, `step_000020`."""
    return f"step_{step:06d}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
