"""Settings of `jobs.evaluate`."""

from pydantic import Field, model_validator

from dermo_ray.config.base import AbsolutePath, Settings
from dermo_ray.config.bench import BenchSettings
from dermo_ray.config.mavic import RolloutSettings
from dermo_ray.config.reward import RewardConfig
from dermo_ray.records import Split


class EvaluateConfig(Settings):
    """Settings of the job: the held-out reward of a run (`run`, `data`), DermoBench (`bench`), or both."""

    run: AbsolutePath | None = None
    """Run directory of jobs.mavic; its checkpoint is compared with the policy it started from."""
    checkpoint: str = "latest"
    """Folder below `checkpoints/`: `latest`, or one such as `step_000040`."""
    data: AbsolutePath | None = None
    """Prepared folder, as jobs.prepare writes it."""
    sources: list[str] | None = None
    """Prompts of these data sets alone; null takes all that the folder holds."""
    split: Split = "test"
    """Split to measure on."""
    prompts: int | None = Field(default=None, ge=1)
    """Measure on the first so many prompts of a fixed shuffle; null takes them all."""
    seed: int = Field(default=0, ge=0)
    """Seed of that shuffle, of sampling and of the bootstrap."""
    reward: RewardConfig = RewardConfig()
    """The reward to measure."""
    rollout: RolloutSettings = RolloutSettings(group_size=4)
    """The engines; `group_size` completions are sampled for each prompt, beside a greedy one."""
    bench: BenchSettings | None = None
    """DermoBench; null leaves it out."""
    compat: bool = False
    """Score the benchmark by the authors' scripts' rules too, defects included, for comparison with the paper."""

    @property
    def left_out(self) -> tuple[str, ...]:
        """The pools that don't open at the beginning, by their settings: the benchmark comes second."""
        return ("bench.pool",) if self.run is not None else ("rollout",)

    @model_validator(mode="after")
    def _something_to_measure(self) -> "EvaluateConfig":
        if (self.run is None) != (self.data is None):
            raise ValueError("the held-out reward needs both run=DIR and data=DIR")
        if self.run is None and self.bench is None:
            raise ValueError("nothing to measure: give run=DIR and data=DIR, or the settings of bench, or both")
        if self.compat and self.bench is None:
            raise ValueError("compat is about the benchmark: give the settings of bench")
        return self
