"""What every node of the cluster sees: versions, files, room, memory. One short task a node finds it out."""

import ctypes.util
import hashlib
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dermo_ray.errors import UserError
from dermo_ray.versions import installed_versions

DEADLINE = 60.0
"""Seconds within which every node must answer: the first task on one unpacks the working directory and imports
packages, from a slow file system perhaps."""

DRIVER = "driver"
"""What the process that asks is called among those that are asked."""

_HEAD_BYTES = 2**20
"""How much of a file its fingerprint covers, beside its size."""


@dataclass(frozen=True)
class Errand:
    """What a node is asked to look at."""

    files: Sequence[Path]
    """Files to take the fingerprint of."""
    writes: Sequence[Path]
    """Folders to leave a file in."""
    marker: str
    """How the names of such files begin; the driver's own ends in `DRIVER`."""


@dataclass(frozen=True)
class NodeFacts:
    """What one node found."""

    name: str
    versions: Mapping[str, str]
    fingerprints: Mapping[Path, str | None]
    """By file; None where the node can't read it."""
    unwritable: Mapping[Path, str]
    """Why a folder can't be written to, by folder."""
    strangers: Sequence[Path]
    """Folders in which the driver's file is not to be seen: the node has another folder there, or none."""
    free_gib: Mapping[Path, float]
    """Room on the file system of each folder."""
    memory_gib: float
    shared_memory_gib: float
    has_libnuma: bool
    has_compiler: bool


def ask_nodes(files: Sequence[Path], writes: Sequence[Path]) -> list[NodeFacts]:
    """The facts of every node that is alive, the driver's own first; leaves nothing behind in `writes`.

    Raises `UserError` where a node does not answer within `DEADLINE`, or can't import DermoRay.
    """
    errand = Errand(files, writes, f".preflight-{uuid.uuid4().hex}")
    made = [folder for path in writes for folder in _missing(path)]
    try:
        own = look(errand, DRIVER)
        nodes = {node["NodeID"]: f"node {node['NodeManagerAddress']}" for node in ray.nodes() if node["Alive"]}
        remote = ray.remote(num_cpus=0, max_retries=0)(look)
        pending = {
            remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
                errand, name
            ): name
            for node, name in nodes.items()
        }
        done, late = ray.wait(list(pending), num_returns=len(pending), timeout=DEADLINE)
        if late:
            names = ", ".join(sorted(pending[task] for task in late))
            raise UserError(f"{names} did not answer within {DEADLINE:g} s: look at it with `ray status`, or remove it")
        return [own, *_answers(done)]
    finally:
        for path in writes:
            for left in path.glob(f"{errand.marker}*"):
                left.unlink(missing_ok=True)
        for folder in reversed(made):
            with suppress(OSError):  # it could not be made, or is not empty any more
                folder.rmdir()


def look(errand: Errand, name: str) -> NodeFacts:
    """What this process sees, which is called `name`."""
    strangers, unwritable = [], {}
    for folder in errand.writes:
        if name != DRIVER and not (folder / f"{errand.marker}-{DRIVER}").exists():
            strangers.append(folder)
        elif (reason := _cannot_write(folder, f"{errand.marker}-{name}")) is not None:
            unwritable[folder] = reason
    return NodeFacts(
        name=name,
        versions=installed_versions(),
        fingerprints={path: fingerprint(path) for path in errand.files},
        unwritable=unwritable,
        strangers=strangers,
        free_gib={path: _free_gib(path) for path in errand.writes},
        memory_gib=psutil.virtual_memory().total / 2**30,
        shared_memory_gib=shutil.disk_usage("/dev/shm").total / 2**30,
        has_libnuma=ctypes.util.find_library("numa") is not None,
        has_compiler=shutil.which("gcc") is not None or shutil.which("cc") is not None,
    )


def _answers(tasks: Sequence[ray.ObjectRef]) -> list[NodeFacts]:
    try:
        answers: list[NodeFacts] = ray.get(tasks)
    except ModuleNotFoundError as error:
        raise UserError(
            f"a node can't import {error.name}: submit with --working-dir . from DermoRay's folder, "
            "or install DermoRay on every node"
        ) from error
    return answers


def fingerprint(path: Path) -> str | None:
    """Size and hash of a file's beginning; None where it can't be read."""
    try:
        with path.open("rb") as file:
            return f"{os.fstat(file.fileno()).st_size}:{hashlib.sha256(file.read(_HEAD_BYTES)).hexdigest()}"
    except OSError:
        return None


def _cannot_write(folder: Path, name: str) -> str | None:
    """Leave a file in `folder`, which is made where it isn't there; the reason where that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    except OSError as error:
        return error.strerror or str(error)
    return None


def _free_gib(folder: Path) -> float:
    there = next(path for path in (folder, *folder.parents) if path.is_dir())
    return shutil.disk_usage(there).free / 2**30


def _missing(folder: Path) -> list[Path]:
    """The folders on the way to `folder` that are not there yet, outermost first."""
    return [path for path in reversed((folder, *folder.parents)) if not path.exists()]
