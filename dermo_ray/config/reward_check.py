"""Settings of `jobs.reward_check`."""

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from dermo_ray.config.base import Settings
from dermo_ray.config.evaluate import EvaluateConfig
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.config.reward import RewardConfig


class RewardCheckConfig(Settings):
    """Settings of the job. What the settings files of jobs.mavic and jobs.evaluate hold beside these is left aside."""

    completions: Path
    """JSONL or Parquet with `text` (or `completion`) and `ground_truth`, or the folder of a run's rollouts."""
    data: Path | None = None
    """Prepared folder that the completions' `image` is relative to; needed for consistency alone."""
    limit: int | None = Field(default=None, ge=1)
    """Score the first so many; null scores them all."""
    show: int = Field(default=20, ge=0)
    """Print the first so many one by one; the summary covers all that were scored."""
    reward: RewardConfig = RewardConfig()
    """The reward to score by."""

    @model_validator(mode="before")
    @classmethod
    def _reward_of_another_job(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        others = (MavicConfig.model_fields.keys() | EvaluateConfig.model_fields.keys()) - cls.model_fields.keys()
        return {name: setting for name, setting in value.items() if name not in others}
