"""What a run directory says of itself, as far as the viewer needs it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from dermo_ray.config import RewardConfig
from dermo_ray.errors import UserError
from dermo_ray.run_directory import CONFIG


@dataclass(frozen=True)
class RunSettings:
    """The settings of a run that explain its completions."""

    data: Path
    """The prepared folder of its prompts."""
    reward: RewardConfig
    shown: dict[str, Any]
    """The few that its page begins with, by dotted name."""


_SHOWN = (
    "model.path",
    "steps",
    "batch_groups",
    "rollout.group_size",
    "max_staleness",
    "algorithm.estimator",
    "learner.optimizer.learning_rate",
    "reward.gate",
    "seed",
)


def run_settings(run: Path) -> RunSettings:
    """Read `config.yaml`. Raises `UserError` where it is missing or not that of a run with a reward."""
    path = run / CONFIG
    if not path.is_file():
        raise UserError(f"{run} is no run directory: {CONFIG} is missing; give the folder that jobs.mavic wrote")
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(settings, dict) or not {"data", "reward"} <= settings.keys():
        raise UserError(f"{path} is not of a run of jobs.mavic: it has no data and reward to explain completions with")
    try:
        reward = RewardConfig.model_validate(settings["reward"])
    except ValidationError as error:
        raise UserError(f"{path}: reward.{'.'.join(map(str, error.errors()[0]['loc']))} is unknown or wrong") from error
    shown = {name: value for name in _SHOWN if (value := _at(settings, name)) is not None}
    return RunSettings(Path(settings["data"]), reward, shown)


def _at(settings: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        settings = settings.get(name) if isinstance(settings, dict) else None
    return settings
