"""Settings of the teacher: who writes the annotations that images lack, at what cost, and what is refused."""

from typing import Literal, Self

from pydantic import Field, model_validator

from dermo_ray.config.asking import AskingSettings, Backend, EndpointSettings
from dermo_ray.config.base import Settings
from dermo_ray.config.model import ModelSettings
from dermo_ray.config.pools import EngineSettings, PoolSettings

Part = Literal["morphology", "description", "reasoning"]
"""What a teacher can add to an image."""


class TeacherPoolSettings(PoolSettings):
    """A local model on vLLM engines."""

    model: ModelSettings
    """The model that annotates."""
    engine: EngineSettings = EngineSettings()
    """The engine of each worker."""


class FilterSettings(Settings):
    """Which texts are refused."""

    min_words: int = Field(default=15, ge=1)
    """A description or reasoning with fewer words is dropped."""
    max_words: int = Field(default=400, ge=1)
    """A description or reasoning with more words is dropped."""

    @model_validator(mode="after")
    def _some_length_passes(self) -> Self:
        if self.min_words > self.max_words:
            raise ValueError("no text has min_words or more and max_words or fewer: lower min_words")
        return self


class TeacherSettings(AskingSettings):
    """The teacher: an `endpoint`, or a `pool` of engines of our own."""

    endpoint: EndpointSettings | None = None
    """A server to ask. The images are sent to it."""
    pool: TeacherPoolSettings | None = None
    """A local model to ask."""
    fields: list[Part] = Field(default=["morphology", "description", "reasoning"], min_length=1)
    """What to add where an image lacks it; reasoning needs a label and a morphology."""
    max_side: int = Field(default=1024, ge=16)
    """Larger images are scaled down to this many pixels before they are sent."""
    temperature: float = Field(default=0.2, ge=0)
    """Sampling temperature; at 0 an answer that doesn't fit its schema is likely to come again when it is repeated."""
    max_tokens: int = Field(default=1024, ge=1)
    """Longest answer."""
    filters: FilterSettings = FilterSettings()
    """Which texts are refused."""

    @model_validator(mode="after")
    def _one_teacher(self) -> Self:
        if (self.endpoint is None) == (self.pool is None):
            raise ValueError("name one teacher: endpoint (base_url and model) or pool (model.path)")
        return self

    @property
    def model(self) -> str:
        """What records call the model: its name at the endpoint, or the name of its folder."""
        if self.endpoint is not None:
            return self.endpoint.model
        assert self.pool is not None  # the validator saw to it
        return self.pool.model.path.name

    @property
    def backend(self) -> Backend:
        """Who answers."""
        return "pool" if self.endpoint is None else "endpoint"
