"""Weights on their way from the learners to the engines as files: one immutable folder per policy version.

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
from typing import Self, TypeVar

from safetensors import safe_open

ADAPTERS = "adapters"
"""The folder of a run where its policy versions lie, whole models as well."""
WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Published:
    """The weights after `version` updates, where they lie, and the SHA-256 of their files."""

    version: int
    path: Path
    checksum: str

    @classmethod
    def at(cls, path: Path, version: int) -> Self:
        """The weights that lie in `path`."""
        return cls(version, path, checksum(path))


class Adapter(Published):
    """A published adapter, in PEFT's format."""


class FullWeights(Published):
    """A whole model that was published, in Hugging Face's format."""


@dataclass(frozen=True)
class Sent:
    """Whole weights that went straight from the learners' memory to the engines', where they are policy `version`."""

    version: int


PublishedT = TypeVar("PublishedT", bound=Published)


def checksum(path: Path) -> str:
    """SHA-256 of the weights in `path`: of its safetensors files, one after the other in the order of their names.

    Raises `FileNotFoundError` where there is none.
    """
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{path} holds no weights")
    digest = hashlib.sha256()
    for name in files:
        with name.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def adapts_vision(path: Path) -> bool:
    """Whether the adapter in `path` changes the vision tower; only the head of its weights file is read."""
    with safe_open(path / WEIGHTS, "pt") as file:
        return any(re.search(r"\.(visual|vision\w*)\.", name) for name in file.keys())  # noqa: SIM118


def publish(folder: Path, version: int, save: Callable[[Path], None], kind: type[PublishedT]) -> PublishedT:
    """Let `save` write the weights aside, then give them their final name `v000042`.

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
    return kind.at(final, version)


def retire(folder: Path, keep: set[int]) -> None:
    """Remove published versions other than those in `keep`."""
    for path in folder.glob("v[0-9]*"):
        if int(path.name[1:]) not in keep:
            shutil.rmtree(path)
