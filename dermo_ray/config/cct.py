"""Settings of confidence-consistency test-time inference (CCT)."""

from pydantic import Field

from dermo_ray.config.base import Settings


class CCTConfig(Settings):
    """How several rollouts about one image become one answer."""

    alpha: float = Field(default=1.0, ge=0)
    """Exponent of a rollout's confidence in its weight; 0 ignores confidence."""
    beta: float = Field(default=1.0, ge=0)
    """Exponent of a rollout's consistency with the others in its weight; 0 ignores consistency. With alpha 0 as well
    the result is a plain majority vote."""
    tau: float = Field(default=0.5, ge=0, le=1)
    """Abstain where the posterior of the leading answer is below this; 0 never abstains."""
