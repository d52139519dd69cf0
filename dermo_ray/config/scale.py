"""Settings of `jobs.scale`."""

from typing import ClassVar, Self

from pydantic import Field, model_validator

from dermo_ray.config.base import AbsolutePath, Settings


class ScaleConfig(Settings):
    """Settings of `jobs.scale`."""

    words: ClassVar[tuple[str, ...]] = ("run",)

    run: AbsolutePath
    """Run directory of the live run."""
    rollout: int | None = Field(default=None, ge=0)
    """Rollout workers to have from now on; 0 pauses sampling."""
    reward: int | None = Field(default=None, ge=0)
    """Reward workers to have from now on."""
    drain: bool = False
    """Workers that are too many finish their groups before they leave; so it is unless `now` is set."""
    now: bool = False
    """Workers that are too many leave at once, and others sample their groups again."""
    timeout: float = Field(default=30, gt=0)
    """Seconds within which the run must take the command."""

    @model_validator(mode="after")
    def _one_way_to_leave(self) -> Self:
        if self.drain and self.now:
            raise ValueError("drain and now exclude each other")
        return self

    @property
    def targets(self) -> dict[str, int]:
        """The pools to scale, and to how many workers."""
        pools = {"rollout": self.rollout, "reward": self.reward}
        return {name: workers for name, workers in pools.items() if workers is not None}
