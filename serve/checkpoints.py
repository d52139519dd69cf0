"""Which weights a run directory, or a folder of checkpoints, offers for serving.

Invariant: a `Checkpoint` was checked against its manifest, and its base model is there.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

from actors.adapters import WEIGHTS
from dermo_ray.checkpoints import read_state, verify
from dermo_ray.config.model import ModelSettings
from dermo_ray.config.serve import NAME_PATTERN
from dermo_ray.errors import UserError
from dermo_ray.run_directory import CHECKPOINTS, CONFIG

ADAPTER = "adapter"
FULL_WEIGHTS = "model"
_ADAPTER_CONFIG = "adapter_config.json"
_MATRIX = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<side>[AB])\.weight")
"""How peft names a matrix of an adapter."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights to serve: a base model and, unless it was trained as a whole, an adapter on it."""

    label: str
    """The folder's name, such as `step_000040`."""
    version: int
    """Learner updates that the weights have seen."""
    model: ModelSettings
    adapter: Path | None
    lora_rank: int | None


def resolve(run: Path, name: str = "latest") -> Checkpoint:
    """The checkpoint called `name` (`latest`, `step_000040`) of the run directory `run`.

    Raises `UserError` where the run, the checkpoint, its weights or the base model are missing or damaged.
    """
    settings = _run_settings(run)
    folder = run / CHECKPOINTS / name
    if not folder.is_dir():
        there = sorted(path.name for path in (run / CHECKPOINTS).glob("step_*"))
        raise UserError(f"{run} has no checkpoint {name!r}; it has {', '.join(there) or 'none yet'}")
    folder = folder.resolve()  # `latest` may move on while this one is being served
    verify(folder)
    model = ModelSettings.model_validate(settings["model"])
    adapter = rank = None
    if (folder / FULL_WEIGHTS).is_dir():
        model = model.model_copy(update={"path": folder / FULL_WEIGHTS})
    elif (folder / ADAPTER).is_dir():
        adapter, rank = folder / ADAPTER, settings["lora"]["rank"]
    else:
        raise UserError(f"{folder} has nothing to serve: neither {ADAPTER}/ nor {FULL_WEIGHTS}/ is there")
    if not (model.path / "config.json").is_file():
        raise UserError(f"the base model of {run} is not at {model.path}: put it back, or correct {run / CONFIG}")
    return Checkpoint(folder.name, read_state(folder)["version"], model, adapter, rank)


def inspect(folder: Path, serving: Checkpoint) -> Checkpoint:
    """The checkpoint in `folder`, as one that can take the place of `serving` in a running engine.

    Raises `UserError` where it is incomplete or damaged, holds no adapter, or one of another base model or of a rank
    that the engine was not started for.
    """
    try:
        return _inspect(folder, serving)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        SafetensorError,
    ) as error:  # of files that are cut off, or say something else
        raise UserError(f"{folder} is damaged: {' '.join(str(error).split())} ({type(error).__name__})") from error


def _inspect(folder: Path, serving: Checkpoint) -> Checkpoint:
    if not re.fullmatch(NAME_PATTERN, folder.name):
        raise UserError(f"a checkpoint can't be called {folder.name!r}: letters, digits, dots, dashes and underscores")
    if not folder.is_dir():
        raise UserError(f"there is no checkpoint at {folder}")
    verify(folder)
    if not (folder / ADAPTER).is_dir():
        raise UserError(f"{folder} has no {ADAPTER}/: only adapters are exchanged while the service runs")
    if serving.lora_rank is None:
        raise UserError("the service was started with full weights, which take no adapter: start it with an adapter")
    described = _adapter_settings(folder / ADAPTER)
    if described["r"] > serving.lora_rank:
        raise UserError(f"{folder} has rank {described['r']}; the engines take up to {serving.lora_rank}")
    base = Path(described["base_model_name_or_path"])
    if base.resolve() != serving.model.path.resolve():
        raise UserError(f"{folder} belongs to the base model {base}; served here is {serving.model.path}")
    _check_shapes(folder / ADAPTER, described["r"], serving.model.path)
    version = read_state(folder)["version"]
    return Checkpoint(folder.name, version, serving.model, folder / ADAPTER, serving.lora_rank)


def _adapter_settings(adapter: Path) -> dict[str, Any]:
    path = adapter / _ADAPTER_CONFIG
    if not path.is_file():
        raise UserError(f"{adapter} is no adapter: {_ADAPTER_CONFIG} is missing")
    settings: dict[str, Any] = json.loads(path.read_text())
    return settings


def _check_shapes(adapter: Path, rank: int, base: Path) -> None:
    """Raise `UserError` for matrices that don't fit their rank or their layer; vLLM takes them as they are."""
    layers = {name: shape for file in base.glob("*.safetensors") for name, shape in _shapes(file).items()}
    for name, shape in _shapes(adapter / WEIGHTS).items():
        found = _MATRIX.fullmatch(name)
        if found is None:
            continue
        weight = layers.get(f"{found['layer']}.weight")
        outputs, inputs = weight if weight is not None else (shape[0], shape[1])
        expected = [rank, inputs] if found["side"] == "A" else [outputs, rank]
        if shape != expected:
            raise UserError(f"{adapter} fits no engine: {name} has the shape {shape}, not {expected}")


def _shapes(file: Path) -> dict[str, list[int]]:
    """The shape of each tensor in a safetensors file, by its header alone."""
    with safe_open(file, framework="numpy") as tensors:
        return {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118  # no mapping


def _run_settings(run: Path) -> dict[str, Any]:
    path = run / CONFIG
    if not path.is_file():
        raise UserError(f"{run} is no run directory: {CONFIG} is missing")
    settings: dict[str, Any] = yaml.safe_load(path.read_text())
    return settings
