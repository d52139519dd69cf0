"""Settings of what watches over a training run: validation, early stopping and the stop at anomalies."""

from pydantic import Field

from dermo_ray.config.base import Settings
from dermo_ray.records import Split


class HeldoutSettings(Settings):
    """The reward on held-out prompts, measured on the rollout pool while training goes on."""

    every: int = Field(default=0, ge=0)
    """Updates between validations, a multiple of checkpoint_every; 0 leaves them out. Training goes on meanwhile, but
    without an adapter (`lora: null`), or with merged ones, the next weights wait until a validation is done."""
    split: Split = "val"
    """The split whose prompts are asked."""
    prompts: int = Field(default=64, ge=1)
    """How many of them, always the same ones, chosen by the seed."""
    samples: int = Field(default=2, ge=1)
    """Completions for each prompt, at the rollout temperature and with the same seeds every time."""
    min_gain: float = Field(default=0.0, ge=0)
    """A checkpoint is the best only if its reward exceeds that of the last best one by more than this."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many validations in a row without a best one; null never stops early."""


class AnomalySettings(Settings):
    """When an update is so unlike those before it that the run stops, leaving its batch for a person to look at."""

    window: int = Field(default=20, ge=2)
    """Updates that an update is compared with; the first so many of a run, or of a resumed one, are not judged."""
    grad_norm_factor: float | None = Field(default=None, gt=1)
    """Stop where the gradient's norm exceeds the window's median so many times; null never does."""
    reward_drop: float | None = Field(default=None, gt=0)
    """Stop where the mean reward falls so far below the window's median; null never does."""
