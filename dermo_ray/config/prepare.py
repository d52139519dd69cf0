"""Settings of `jobs.prepare`."""

from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, model_validator

from dermo_ray.config.base import AbsolutePath, Settings
from dermo_ray.config.duplicates import DuplicateSettings
from dermo_ray.config.sources import SourceConfig, SourceName, SourceOptions
from dermo_ray.config.teacher import TeacherSettings
from dermo_ray.prompts import Style
from dermo_ray.records import Format, Task


class ImageSettings(Settings):
    """How images are checked and stored."""

    max_side: int | None = Field(default=None, ge=16)
    """Scale images down until their longer side is at most this many pixels; null keeps their size."""
    min_side: int = Field(default=32, ge=1)
    """Drop images whose shorter side is smaller than this."""
    max_aspect: float = Field(default=8, ge=1)
    """Drop images whose longer side is more than this many times the shorter one: scaled, little would be left."""
    max_pixels: int = Field(default=80_000_000, ge=1)
    """Drop images that announce more pixels than this, without decoding them."""
    encoding: Literal["png", "jpeg"] = "jpeg"
    """File format of the stored images; png is lossless and larger."""
    jpeg_quality: int = Field(default=92, ge=1, le=95)
    """JPEG quality, 1 to 95."""


class SplitSettings(Settings):
    """Shares of lesions (or patients) kept out of training."""

    val: float = Field(default=0.1, ge=0, lt=1)
    """Share of groups in the validation split."""
    test: float = Field(default=0.1, ge=0, lt=1)
    """Share of groups in the test split."""

    @model_validator(mode="after")
    def _something_left(self) -> "SplitSettings":
        if self.val + self.test >= 1:
            raise ValueError("split.val and split.test leave nothing to train on: their sum must be below 1")
        return self


class PrepareConfig(SourceOptions):
    """Settings of the job: either one source (`source` and what it needs) or a mixture (`sources`)."""

    source: SourceName | None = None
    """The data set, where there is one alone; `root`, `count`, `phantom` and `noise` belong to it."""
    sources: list[SourceConfig] = Field(default=[])
    """A mixture of data sets, each with a name and what it needs."""
    out: AbsolutePath
    """Folder to write; it must not exist, or hold what the same settings wrote."""
    replace: bool = False
    """Let `out` take the place of what other settings wrote there. What did not change is not read again."""
    cache: AbsolutePath | None = None
    """Folder of what was read already, on the file system of `out` to save space; null: `out` with .cache added."""
    dry_run: bool = False
    """Only say what would be read, in seconds, without opening an image."""
    export: Literal["llava"] | None = None
    """Write the records in the released JSON formats as well, into a folder of `out`."""
    seed: int = Field(default=0, ge=0)
    """Seed of the splits, of the phantoms and of their annotators."""
    prompts: Style = "full"
    """Wording of the prompts: full spells out the contract for pretrained models, brief is for the tiny model."""
    formats: list[Format] = Field(default=list(get_args(Format)))
    """Task formats of the trajectories to make, each where an image has the annotations for it."""
    tasks: list[Task] = Field(default=["task1", "task3"])
    """Tasks of the reinforcement-learning prompts to make: task3 needs a diagnosis, task1 a morphology."""
    features_per_image: int = Field(default=2, ge=1)
    """How many questions of `attribute_choice` to ask about one clinical image."""
    taxonomy: AbsolutePath | None = None
    """A tree of diagnoses of your own; null: the default tree."""
    unmapped: Literal["drop", "stop"] = "drop"
    """What a label that the tree doesn't know does: its image is dropped and counted, or the run stops at once."""
    duplicates: DuplicateSettings = DuplicateSettings()
    """Which images count as the same picture."""
    teacher: TeacherSettings | None = None
    """A larger model that writes what images lack; null: nobody does."""
    concepts: AbsolutePath | None = None
    """A concept model (`jobs.concepts`) that drafts the morphology of images without one; null: nobody does.

    Conversations are written from the drafts, references of rewards are not.
    """
    balance: bool = False
    """Repeat training records of rare labels until labels are about equally frequent."""
    max_repeat: int = Field(default=10, ge=1)
    """With `balance`, how often one record may appear at most."""
    images: ImageSettings = ImageSettings()
    """How images are checked and stored."""
    split: SplitSettings = SplitSettings()
    """Shares of lesions kept out of training."""
    min_images: int = Field(default=10, ge=1)
    """Stop if fewer usable images than this are left."""

    @model_validator(mode="after")
    def _one_source_or_several(self) -> "PrepareConfig":
        if (self.source is None) == (not self.sources):
            raise ValueError("name one data set with source=NAME, or several under sources, not both")
        if self.sources and (stray := sorted(self.model_fields_set & SourceOptions.model_fields.keys())):
            raise ValueError(f"{stray[0]} belongs to one source: move it to its entry under sources")
        titles = [source.title for source in self.mixture]
        if len(set(titles)) < len(titles):
            raise ValueError("sources names a data set twice: give one of them an alias")
        return self

    @property
    def cache_folder(self) -> Path:
        """Where what was read is kept."""
        return self.cache or self.out.with_name(f"{self.out.name}.cache")

    @property
    def mixture(self) -> list[SourceConfig]:
        """The sources, whether one was given or several."""
        if self.source is None:
            return self.sources
        options = {name: getattr(self, name) for name in self.model_fields_set & SourceOptions.model_fields.keys()}
        return [SourceConfig(name=self.source, **options)]
