"""Settings of `jobs.prepare`."""

from typing import Literal

from pydantic import Field, model_validator

from dermo_ray.config.base import AbsolutePath, Settings
from dermo_ray.phantom.settings import AnnotationNoise, PhantomSettings
from dermo_ray.prompts import Style
from dermo_ray.records import Task

SourceName = Literal["phantoms", "ham10000"]
Format = Literal["morph_reasoning", "morph_description", "diagnosis"]


class ImageSettings(Settings):
    """How images are checked and stored."""

    max_side: int | None = Field(default=None, ge=16)
    """Scale images down until their longer side is at most this many pixels; null keeps their size."""
    min_side: int = Field(default=32, ge=1)
    """Drop images whose shorter side is smaller than this."""
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


class SourceOptions(Settings):
    """What a source needs; which of them apply depends on the source."""

    root: AbsolutePath | None = None
    """Folder of a published data set, in the layout in which it is distributed."""
    count: int = Field(default=0, ge=0, le=10_000_000)
    """Phantoms: how many to draw."""
    phantom: PhantomSettings = PhantomSettings()
    """Phantoms: the population that is drawn."""
    noise: AnnotationNoise = AnnotationNoise()
    """Phantoms: how the simulated annotators err. Only supervised targets have their errors; rewards know the truth."""


class SourceConfig(SourceOptions):
    """One source of a mixture."""

    name: SourceName
    """Which data set it is."""

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> "SourceConfig":
        given = self.model_fields_set
        if self.name == "phantoms":
            if self.count == 0:
                raise ValueError("phantoms need count=NUMBER, how many to draw")
            if "root" in given:
                raise ValueError("phantoms are drawn, they have no root: remove it")
        else:
            if self.root is None:
                raise ValueError(f"{self.name} needs root=DIR, the folder of the data set")
            if unused := sorted(given & {"count", "phantom", "noise"}):
                raise ValueError(f"{unused[0]} is for phantoms alone: remove it, or use source=phantoms")
        return self


class PrepareConfig(SourceOptions):
    """Settings of the job: either one source (`source` and what it needs) or a mixture (`sources`)."""

    source: SourceName | None = None
    """The data set, where there is one alone; `root`, `count`, `phantom` and `noise` belong to it."""
    sources: list[SourceConfig] = Field(default=[])
    """A mixture of data sets, each with a name and what it needs."""
    out: AbsolutePath
    """Folder to write; it must not exist, or hold what the same settings wrote."""
    seed: int = Field(default=0, ge=0)
    """Seed of the splits, of the phantoms and of their annotators."""
    prompts: Style = "full"
    """Wording of the prompts: full spells out the contract for pretrained models, brief is for the tiny model."""
    formats: list[Format] = Field(default=["morph_reasoning", "morph_description", "diagnosis"])
    """Task formats of the trajectories to make, each where an image has the annotations for it."""
    tasks: list[Task] = Field(default=["task1", "task3"])
    """Tasks of the reinforcement-learning prompts to make: task3 needs a diagnosis, task1 a morphology."""
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
        names = [source.name for source in self.mixture]
        if len(set(names)) < len(names):
            raise ValueError("sources names a data set twice")
        return self

    @property
    def mixture(self) -> list[SourceConfig]:
        """The sources, whether one was given or several."""
        if self.source is None:
            return self.sources
        options = {name: getattr(self, name) for name in self.model_fields_set & SourceOptions.model_fields.keys()}
        return [SourceConfig(name=self.source, **options)]
