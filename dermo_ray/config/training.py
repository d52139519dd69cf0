"""Settings that every training job shares: the optimizer, its schedule and how it is spread over ranks."""

import math
from typing import Literal

from pydantic import Field

from dermo_ray.config.base import Settings


class OptimizerSettings(Settings):
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101) and its schedule."""

    learning_rate: float = Field(default=1e-4, gt=0)
    """Peak learning rate."""
    warmup_steps: int = Field(default=0, ge=0)
    """Updates over which the learning rate rises from 0 in a straight line."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """What follows the warm-up: the peak rate, or a straight line or a cosine down to `final_share` of it at the last
    step."""
    final_share: float = Field(default=0.05, ge=0, le=1)
    """Where the line or the cosine ends, as a share of the peak."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Decay rates of the first and second moment."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""

    def rate_at(self, step: int, steps: int) -> float:
        """Learning rate of update `step` (from 0) of `steps`."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return self.learning_rate
        done = min(1.0, (step - self.warmup_steps) / max(1, steps - self.warmup_steps))
        left = 1 - done if self.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
        return self.learning_rate * (self.final_share + (1 - self.final_share) * left)


class ShardingSettings(Settings):
    """How DeepSpeed spreads a model over ranks, and how a rank cuts its share of a batch."""

    zero_stage: Literal[0, 1, 2, 3] = 0
    """ZeRO (Rajbhandari et al., arXiv 1910.02054): 0 replicates; 1, 2 and 3 shard optimizer, gradients, parameters.
    With bfloat16, 0 and 1 are 2: DeepSpeed adds gradients up in 32 bits there."""
    micro_batch_tokens: int = Field(default=8192, ge=1)
    """Padded tokens of one forward and backward pass on a rank; the gradient does not depend on it."""

    def stage_of(self, dtype: str) -> int:
        """The ZeRO stage that weights of `dtype` are trained under."""
        return max(2, self.zero_stage) if dtype == "bfloat16" else self.zero_stage
