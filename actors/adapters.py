"""Adapters on their way from the learners to the engines: one immutable folder per policy version.

Invariants: a folder that carries its final name is complete and never changes; versions only grow; name, path and id
are new for every version, since vLLM's prefix cache tells adapters apart by name and path alone.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Adapter:
    """A published adapter: the weights after `version` updates, where they lie, and the SHA-256 of the weights file."""

    version: int
    path: Path
    checksum: str

    @classmethod
    def at(cls, path: Path, version: int) -> "Adapter":
        """The adapter that lies in `path`."""
        return cls(version, path, checksum(path))


def checksum(path: Path) -> str:
    """SHA-256 of the weights file of the adapter in `path`."""
    with (path / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def adapts_vision(path: Path) -> bool:
    """Whether the adapter in `path` changes the vision tower; only the head of its weights file is read."""
    with safe_open(path / WEIGHTS, "pt") as file:
        return any(re.search(r"\.(visual|vision\w*)\.", name) for name in file.keys())  # noqa: SIM118


def publish(folder: Path, version: int, save: Callable[[Path], None]) -> Adapter:
    """Let `save` write the adapter aside, then give it its final name `v000042`.

    A folder of that name that a killed run left behind is replaced: no engine of this run can have read it.
    """
    final = folder / f"v{version:06d}"
    partial = folder / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save(partial)
    if final.exists():
        shutil.rmtree(final)
    os.rename(partial, final)
    return Adapter.at(final, version)


def retire(folder: Path, keep: set[int]) -> None:
    """Remove published versions other than those in `keep`."""
    for path in folder.glob("v[0-9]*"):
        if int(path.name[1:]) not in keep:
            shutil.rmtree(path)
