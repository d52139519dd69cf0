"""Settings of `jobs.demo`."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from dermo_ray.config.base import AbsolutePath, Settings
from dermo_ray.phantom.settings import PhantomSettings
from dermo_ray.phantom.tiny_model import TinyModelSettings


class BaseModelSettings(TinyModelSettings):
    """The tiny model to start from, its vision tower trained on phantoms of its own."""

    images: int = Field(default=4096, ge=32)
    """Phantoms that the vision tower is trained on; none of them is in the prepared data."""
    phantom: PhantomSettings = PhantomSettings()
    """The population of those phantoms."""
    steps: int = Field(default=1000, ge=0)
    """Updates of the vision tower, 32 images each."""
    seed: int = Field(default=0, ge=0)
    """Seed of the weights and of the phantoms."""


class DemoConfig(Settings):
    """Settings of the job: which data, and the settings file of each stage."""

    out: AbsolutePath = Path("runs/demo")
    """Folder for everything the demo writes; stages that are done in it are not done again."""
    source: Literal["phantoms", "ham10000"] = "phantoms"
    """Which data to learn from."""
    root: AbsolutePath | None = None
    """Folder of HAM10000, in the layout in which it is distributed."""
    seed: int = Field(default=0, ge=0)
    """Seed of every stage."""
    base: BaseModelSettings = BaseModelSettings()
    """The tiny model."""
    stages: Path = Path("configs/demo")
    """Folder with the settings file of each stage: prepare, sft, mavic, evaluate, serve."""

    @model_validator(mode="after")
    def _root_where_needed(self) -> "DemoConfig":
        if self.source == "ham10000" and self.root is None:
            raise ValueError("source=ham10000 needs root=DIR, the folder of the data set")
        if self.source == "phantoms" and self.root is not None:
            raise ValueError("phantoms are drawn, they have no root: remove it, or give source=ham10000")
        return self
