"""Settings of the MAVIC run."""

from pydantic import Field, model_validator

from dermo_ray.config.algorithm import AlgorithmSettings
from dermo_ray.config.base import AbsolutePath, Settings
from dermo_ray.config.model import LoraSettings, ModelSettings, Vision, check_vision
from dermo_ray.config.pools import EngineSettings, PoolSettings
from dermo_ray.config.reward import RewardConfig
from dermo_ray.config.training import OptimizerSettings, ShardingSettings
from dermo_ray.config.watch import WatchSettings


class RolloutSettings(PoolSettings):
    """The rollout pool and how it samples."""

    group_size: int = Field(default=8, ge=2)
    """Completions sampled for one prompt; their advantages are relative to each other."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature; log-probabilities everywhere are those at this temperature."""
    max_tokens: int = Field(default=512, ge=1)
    """Longest completion."""
    max_concurrent: int = Field(default=64, ge=1)
    """Groups under way at once, over all workers."""
    timeout: float = Field(default=600, gt=0)
    """Seconds within which a worker must answer a group."""
    engine: EngineSettings = EngineSettings()
    """The engine of each worker."""


class RewardPoolSettings(PoolSettings):
    """The reward pool."""

    timeout: float = Field(default=120, gt=0)
    """Seconds within which a worker must score a group."""


class LearnerSettings(PoolSettings):
    """The learner pool: one DeepSpeed rank a worker."""

    optimizer: OptimizerSettings = OptimizerSettings(learning_rate=1e-5)
    """The optimizer and its schedule."""
    sharding: ShardingSettings = ShardingSettings()
    """How the model is spread over the ranks."""
    timeout: float = Field(default=1800, gt=0)
    """Seconds within which an update, and every collective in it, must end."""


class MavicConfig(Settings):
    """Settings of `jobs.mavic`."""

    run: AbsolutePath
    """Run directory; a run that was cut off goes on from its latest checkpoint."""
    data: AbsolutePath
    """Prepared folder, as jobs.prepare writes it."""
    sources: list[str] | None = None
    """Prompts of these data sets alone; null takes all that the folder holds."""
    model: ModelSettings
    """The policy to start from, usually the result of supervised fine-tuning."""
    lora: LoraSettings = LoraSettings()
    """The adapter that is trained; the engines load it by policy version."""
    vision: Vision = "frozen"
    """What becomes of the vision tower: it stays as it is, or gets an adapter as well."""
    steps: int = Field(default=100, ge=1)
    """Learner updates."""
    batch_groups: int = Field(default=64, ge=1)
    """Groups in one update."""
    max_staleness: int = Field(default=0, ge=0)
    """How many updates old a completion may be when it is trained on; 0 is on-policy."""
    checkpoint_every: int = Field(default=20, ge=1)
    """Updates between checkpoints; the last update always makes one."""
    keep_checkpoints: int = Field(default=3, ge=1)
    """How many checkpoints stay."""
    seed: int = Field(default=0, ge=0)
    """Seed of the order of prompts, of the adapter's first weights and of sampling."""
    reward: RewardConfig = RewardConfig()
    """The MAVIC reward."""
    watch: WatchSettings = WatchSettings()
    """The watch for a policy that games its reward."""
    algorithm: AlgorithmSettings = AlgorithmSettings()
    """The objective."""
    rollout: RolloutSettings = RolloutSettings()
    """The rollout pool."""
    rewards: RewardPoolSettings = RewardPoolSettings()
    """The reward pool."""
    learner: LearnerSettings = LearnerSettings()
    """The learner pool."""

    @model_validator(mode="after")
    def _engines_load_what_is_trained(self) -> "MavicConfig":
        check_vision(self.vision, self.lora)
        if self.vision == "lora" and not self.rollout.engine.vision_adapters:
            raise ValueError("vision=lora needs rollout.engine.vision_adapters=true, or engines would leave it out")
        return self

    @model_validator(mode="after")
    def _room_for_versions(self) -> "MavicConfig":
        if self.rollout.max_tokens >= self.rollout.engine.max_model_len:
            raise ValueError("rollout.max_tokens must leave room for the prompt within rollout.engine.max_model_len")
        return self
