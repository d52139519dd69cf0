"""Settings of `jobs.sft`."""

from typing import Annotated

from pydantic import Field, model_validator

from dermo_ray.config.base import AbsolutePath, Settings
from dermo_ray.config.model import LoraSettings, ModelSettings, Vision, check_vision
from dermo_ray.config.pools import PoolSettings
from dermo_ray.config.training import OptimizerSettings, ShardingSettings


class ValidationSettings(Settings):
    """How the run is measured on the validation split."""

    every: int = Field(default=50, ge=0)
    """Updates between validations, and one after the last update; 0 leaves them out."""
    records: int = Field(default=256, ge=1)
    """How many conversations of the validation split, always the same ones, chosen by the seed."""


class SftConfig(Settings):
    """Settings of the job: supervised fine-tuning on the assistant's tokens of prepared conversations."""

    run: AbsolutePath
    """Run directory, on a file system that all nodes share."""
    data: AbsolutePath
    """Prepared folder, as jobs.prepare writes it, on a file system that all nodes share."""
    model: ModelSettings
    """The policy to start from."""
    lora: LoraSettings | None = None
    """Train an adapter with these settings; null trains the model itself."""
    vision: Vision = "frozen"
    """What becomes of the vision tower: it stays as it is, gets an adapter too (with `lora`), or is trained whole
    (without)."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """The optimizer and its schedule."""
    sharding: ShardingSettings = ShardingSettings()
    """How the model is spread over the ranks."""
    pool: PoolSettings = PoolSettings()
    """The ranks: one DeepSpeed rank a worker."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the training split, rounded up to whole updates."""
    steps: int | None = Field(default=None, ge=1)
    """Updates; where it is set, `epochs` does not count."""
    batch_size: int = Field(default=32, ge=1)
    """Conversations in one update, over all ranks."""
    mixture: dict[str, Annotated[float, Field(gt=0)]] = Field(default={})
    """Weight of each format of conversations, by its name: formats come in these proportions, each in epochs of its
    own, and those without a weight not at all. Empty takes the conversations as they are."""
    augment: bool = False
    """Flip and turn the images of every training conversation by one of the eight symmetries of a square, a new one
    every time. Not for texts that speak of left and right, or of above and below."""
    max_length: int = Field(default=4096, ge=16)
    """Longest conversation in tokens, image tokens included; a longer one stops the run and is named."""
    checkpoint_every: int = Field(default=100, ge=1)
    """Updates between checkpoints; the last update always makes one."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """How many checkpoints stay."""
    validation: ValidationSettings = ValidationSettings()
    """How the run is measured on the validation split."""
    seed: int = Field(default=0, ge=0)
    """Seed of the order of conversations, of the adapter's first weights and of dropout."""
    resume: bool = True
    """Go on from the latest checkpoint in `run`; false refuses a run directory that has one."""

    @model_validator(mode="after")
    def _vision_goes_with_lora(self) -> "SftConfig":
        check_vision(self.vision, self.lora)
        return self

    @model_validator(mode="after")
    def _every_rank_has_a_share(self) -> "SftConfig":
        if self.batch_size < self.pool.workers:
            raise ValueError(
                f"batch_size={self.batch_size} leaves some of pool.workers={self.pool.workers} without a conversation"
            )
        return self
