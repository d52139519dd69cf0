"""Settings of the MAVIC run."""

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from dermo_ray.config.algorithm import AlgorithmSettings
from dermo_ray.config.base import AbsolutePath, Settings
from dermo_ray.config.control import AnomalySettings, HeldoutSettings
from dermo_ray.config.model import LoraSettings, ModelSettings, Vision, check_vision
from dermo_ray.config.pools import ElasticPoolSettings, EngineSettings, PoolSettings
from dermo_ray.config.reward import RewardConfig
from dermo_ray.config.tracking import TrackingSettings
from dermo_ray.config.training import OptimizerSettings, ShardingSettings
from dermo_ray.config.watch import WatchSettings


class RolloutSettings(ElasticPoolSettings):
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
    merge_adapters: bool = False
    """Engines add each version's adapter to the model's own weights: they sample faster, but hold their requests
    meanwhile, and a completion that is under way goes on with the newer version. false keeps versions apart."""

    @property
    def groups_per_worker(self) -> int:
        """Groups that an engine is given at once: twice what it decodes, so that it never waits for the next."""
        return max(1, 2 * self.engine.max_num_seqs // self.group_size)

    @model_validator(mode="after")
    def _engine_within_worker(self) -> Self:
        if self.on_gpu and math.ceil(self.gpus_per_worker) < self.engine.tensor_parallel_size:
            raise ValueError(
                "gpus_per_worker must be at least engine.tensor_parallel_size: an engine lives on the GPUs of one node"
            )
        return self


class RewardPoolSettings(ElasticPoolSettings):
    """The reward pool."""

    timeout: float = Field(default=120, gt=0)
    """Seconds within which a worker must score a group, from when it is done with the one before."""
    max_unscored: int = Field(default=0, ge=0)
    """Groups that a run may give up because their reward could not be computed; one more ends it."""


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
    mode: Literal["train", "rollout_only", "train_only", "replay"] = "train"
    """`rollout_only` samples and scores, and no learner starts; `train_only` trains on the completions and rewards that
    `replay_from` holds; `replay` scores these completions anew and trains on them. The last two start no engine."""
    replay_from: AbsolutePath | None = None
    """The `rollouts` folder of an earlier run on the same data, for `train_only` and `replay`."""
    lora: LoraSettings | None = LoraSettings()
    """The adapter that is trained; the engines load it by policy version. null trains the model itself."""
    vision: Vision = "frozen"
    """What becomes of the vision tower: it stays as it is, gets an adapter as well, or is trained with the model."""
    transport: Literal["files", "nccl"] | None = None
    """How the weights of a model that is trained itself reach the engines: through a folder that all nodes share, or
    from GPU to GPU. null takes nccl where engines and learners have GPUs, else files; adapters always go as files."""
    steps: int = Field(default=100, ge=1)
    """Learner updates."""
    batch_groups: int = Field(default=64, ge=1)
    """Groups in one update."""
    max_staleness: int = Field(default=0, ge=0)
    """How many updates old a completion may be when it is trained on; 0 is on-policy."""
    checkpoint_every: int = Field(default=20, ge=1)
    """Updates between checkpoints; the last update always makes one."""
    keep_checkpoints: int = Field(default=3, ge=1)
    """How many of the newest checkpoints stay."""
    keep_best: int = Field(default=0, ge=0)
    """How many more stay for their score: the mean reward of the update before them."""
    checkpoint_copy: str | None = None
    """Where else checkpoints go: a folder or an fsspec URL, such as s3://bucket/run. A run without any starts there."""
    checkpoint_copy_timeout: float = Field(default=1800, gt=0)
    """Seconds that such a copy may take; training waits for it, and goes on without it after that."""
    preemption_deadline: float = Field(default=60, gt=0)
    """Seconds that a run has for a last checkpoint once it gets SIGTERM."""
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
    tracking: TrackingSettings = TrackingSettings()
    """Experiment tracking by a service, beside the run directory."""
    validation: HeldoutSettings = HeldoutSettings()
    """The held-out reward while training goes on, the best checkpoint by it, and early stopping."""
    anomaly: AnomalySettings = AnomalySettings()
    """When an update is so far off that the run stops."""

    @property
    def samples(self) -> bool:
        """Whether engines sample."""
        return self.mode in ("train", "rollout_only")

    @property
    def engine_lora_rank(self) -> int | None:
        """Rank of the adapters that engines keep apart; None where their own weights are replaced."""
        return self.lora.rank if self.lora is not None and not self.rollout.merge_adapters else None

    @property
    def left_out(self) -> tuple[str, ...]:
        """The pools that the mode does without, by their settings."""
        return {
            "train": (),
            "rollout_only": ("learner",),
            "train_only": ("rollout", "rewards"),
            "replay": ("rollout",),
        }[self.mode]

    @property
    def sends_weights(self) -> bool:
        """Whether weights go to the engines over NCCL."""
        on_gpus = self.rollout.on_gpu and self.learner.on_gpu
        return self.mode == "train" and self.lora is None and (self.transport or ("files", "nccl")[on_gpus]) == "nccl"

    @model_validator(mode="after")
    def _engines_load_what_is_trained(self) -> Self:
        check_vision(self.vision, self.lora)
        if self.lora is not None and self.lora.dropout > 0:
            raise ValueError("lora.dropout must be 0: with it the learner's log-probabilities are not the engine's")
        merges, apart = self.rollout.merge_adapters, self.rollout.engine.vision_adapters
        if merges and self.lora is None:
            raise ValueError("rollout.merge_adapters needs an adapter: give lora, or false")
        if merges and apart:
            raise ValueError("rollout.engine.vision_adapters keeps apart what rollout.merge_adapters merges: give one")
        if self.vision == "lora" and not (merges or apart):
            raise ValueError(
                "vision=lora needs rollout.engine.vision_adapters=true or rollout.merge_adapters=true, "
                "or engines would leave it out"
            )
        return self

    @model_validator(mode="after")
    def _room_for_versions(self) -> Self:
        if self.rollout.max_tokens >= self.rollout.engine.max_model_len:
            raise ValueError("rollout.max_tokens must leave room for the prompt within rollout.engine.max_model_len")
        return self

    @model_validator(mode="after")
    def _services_answer_before_the_pool_gives_up(self) -> Self:
        together = sum(service.timeout for service in self.reward.services)
        if together >= self.rewards.timeout:
            raise ValueError(
                f"rewards.timeout={self.rewards.timeout:g} must be above the timeouts of reward.services together "
                f"({together:g} s), or a slow service costs its worker"
            )
        return self

    @model_validator(mode="after")
    def _weights_can_be_handed_over(self) -> "MavicConfig":
        if self.lora is None and self.algorithm.kl_coefficient > 0:
            raise ValueError(
                "algorithm.kl_coefficient needs an adapter, whose base model is the reference: give lora, or 0"
            )
        if self.transport == "nccl" and self.lora is not None:
            raise ValueError("transport=nccl is for lora=null: adapters go as files")
        if self.transport == "nccl" and not (self.rollout.on_gpu and self.learner.on_gpu):
            raise ValueError("transport=nccl needs rollout.gpus_per_worker and learner.gpus_per_worker above 0")
        return self

    @model_validator(mode="after")
    def _mode_has_what_it_needs(self) -> "MavicConfig":
        replays = self.mode in ("train_only", "replay")
        if replays and self.replay_from is None:
            raise ValueError(f"mode={self.mode} needs replay_from, the rollouts folder of an earlier run")
        if not replays and self.replay_from is not None:
            raise ValueError(f"replay_from is for mode=train_only and mode=replay, not {self.mode}")
        if self.mode != "train" and self.validation.every:
            raise ValueError(f"validation.every needs mode=train: {self.mode} has no engines with the trained weights")
        if self.mode == "rollout_only" and self.algorithm.kl_in_reward:
            raise ValueError("algorithm.kl_place=reward needs learners, and mode=rollout_only starts none")
        return self

    @model_validator(mode="after")
    def _validated_weights_are_kept(self) -> "MavicConfig":
        every = self.validation.every
        if every % self.checkpoint_every:
            raise ValueError(
                f"validation.every={every} must be a multiple of checkpoint_every={self.checkpoint_every}, "
                "so that the best weights are in a checkpoint"
            )
        if self.validation.patience is not None and not every:
            raise ValueError("validation.patience needs validation.every above 0")
        return self
