"""Settings of the watch on the reward while a policy is trained."""

from pydantic import Field

from dermo_ray.config.base import Settings


class WatchSettings(Settings):
    """When the watch raises its alarm, and what it compares lengths with."""

    window: int = Field(default=20, ge=4)
    """Updates over which trends are tested, and the first updates whose mean length is the baseline of the drift."""
    significance: float = Field(default=0.01, gt=0, lt=1)
    """Both trends must be this improbable, as one-sided p-values, for an alarm."""
