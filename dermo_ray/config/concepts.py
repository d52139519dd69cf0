"""Settings of `jobs.concepts`."""

from pydantic import Field, model_validator

from dermo_ray.config.base import AbsolutePath, Settings
from dermo_ray.config.pools import PoolSettings
from dermo_ray.config.training import OptimizerSettings


class EncoderSettings(Settings):
    """The image encoder of the concept model."""

    path: AbsolutePath | None = None
    """Folder of an image encoder in Hugging Face format with its image processor; of a model of images and texts, the
    image half is taken. null starts a small ResNet from random weights, which the other settings here describe."""
    size: int = Field(default=96, ge=32)
    """Images are scaled to this many pixels a side."""
    widths: tuple[int, ...] = (32, 64, 128, 256)
    """Channels of each stage; every stage but the first halves the resolution."""
    depths: tuple[int, ...] = (1, 1, 1, 1)
    """Residual blocks of each stage."""

    @model_validator(mode="after")
    def _every_stage_has_a_depth(self) -> "EncoderSettings":
        if not self.widths or len(self.widths) != len(self.depths):
            raise ValueError(f"widths and depths need one number a stage, not {self.widths} and {self.depths}")
        return self


class EarlyStoppingSettings(Settings):
    """How the run is measured on the validation split, and when that ends it."""

    every: int | None = Field(default=None, ge=1)
    """Updates between validations; null validates after every epoch. Each validation makes a checkpoint."""
    patience: int = Field(default=5, ge=1)
    """The run ends after this many validations in a row without a new lowest loss."""


class ConceptsConfig(Settings):
    """Settings of the job: the concept model, trained on what annotators wrote about the images."""

    run: AbsolutePath
    """Run directory, on a file system that all nodes share."""
    data: AbsolutePath
    """Prepared folder, as jobs.prepare writes it, on a file system that all nodes share."""
    encoder: EncoderSettings = EncoderSettings()
    """The image encoder."""
    optimizer: OptimizerSettings = OptimizerSettings(
        learning_rate=2e-3, warmup_steps=50, schedule="cosine", weight_decay=0.05, max_grad_norm=5.0
    )
    """The optimizer of the encoder and of the heads of concepts."""
    diagnosis_learning_rate: float = Field(default=0.02, gt=0)
    """Peak learning rate of the linear head from concepts to diagnosis; it follows the same schedule."""
    balance_cap: float = Field(default=5.0, ge=1)
    """Rare features, values and diagnoses count up to this many times as much as frequent ones; 1 counts all alike."""
    machine_annotations: bool = False
    """Learn from annotations that a machine made as well (a `teacher`, or drafts by `concepts`, of jobs.prepare).
    Validation, calibration and measurement never use them."""
    augment: bool = True
    """Flip and turn every training image by one of the eight symmetries of a square."""
    pool: PoolSettings = PoolSettings()
    """The ranks: one data-parallel rank a worker."""
    epochs: float = Field(default=20.0, gt=0)
    """Passes over the training split, rounded up to whole updates."""
    steps: int | None = Field(default=None, ge=1)
    """Updates; where it is set, `epochs` does not count."""
    batch_size: int = Field(default=64, ge=1)
    """Images in one update, over all ranks."""
    validation: EarlyStoppingSettings = EarlyStoppingSettings()
    """How the run is measured on the validation split, and when that ends it."""
    keep_checkpoints: int = Field(default=1, ge=1)
    """How many checkpoints stay; each holds the best model so far beside the newest weights."""
    seed: int = Field(default=0, ge=0)
    """Seed of the first weights, of the order of images and of their turns."""
    resume: bool = True
    """Go on from the latest checkpoint in `run`; false refuses a run directory that has one."""

    @model_validator(mode="after")
    def _every_rank_has_a_share(self) -> "ConceptsConfig":
        if self.batch_size < self.pool.workers:
            raise ValueError(
                f"batch_size={self.batch_size} leaves some of pool.workers={self.pool.workers} without an image"
            )
        return self
