"""The settings of every stage, as pydantic models; one file a stage."""

from dermo_ray.config.base import Settings, describe, dump, load
from dermo_ray.config.reward import RewardConfig

__all__ = ["RewardConfig", "Settings", "describe", "dump", "load"]
