"""Settings of the teacher: who writes the annotations that images lack, at what cost, and what is refused."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from dermo_ray.config.base import AbsolutePath, Settings
from dermo_ray.config.model import ModelSettings
from dermo_ray.config.pools import EngineSettings, PoolSettings

Part = Literal["morphology", "description", "reasoning"]
"""What a teacher can add to an image."""
Backend = Literal["endpoint", "pool"]
"""Who answers: a server, or engines of our own."""


class EndpointSettings(Settings):
    """An HTTP server that speaks OpenAI's chat completions."""

    base_url: str = Field(pattern=r"^https?://")
    """Its address up to the version, such as http://localhost:8000/v1."""
    model: str = Field(min_length=1)
    """What the server calls the model."""
    api_key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the environment variable that holds the key; null for a server that asks for none."""
    extra_body: dict[str, Any] = Field(default={})
    """Further fields of every request; null leaves one of ours out, as in {temperature: null} where it is refused."""


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


class TeacherSettings(Settings):
    """The teacher: an `endpoint`, or a `pool` of engines of our own."""

    endpoint: EndpointSettings | None = None
    """A server to ask. The images are sent to it."""
    pool: TeacherPoolSettings | None = None
    """A local model to ask."""
    cache: AbsolutePath
    """File that keeps every answer; what stands in it is never asked for again."""
    fields: list[Part] = Field(default=["morphology", "description", "reasoning"], min_length=1)
    """What to add where an image lacks it; reasoning needs a label and a morphology."""
    max_side: int = Field(default=1024, ge=16)
    """Larger images are scaled down to this many pixels before they are sent."""
    temperature: float = Field(default=0.2, ge=0)
    """Sampling temperature; at 0 an answer that doesn't fit its schema is likely to come again when it is repeated."""
    max_tokens: int = Field(default=1024, ge=1)
    """Longest answer."""
    concurrency: int = Field(default=32, ge=1)
    """Images that are worked on at once."""
    max_retries: int = Field(default=4, ge=0)
    """How often a question is repeated: after rate limits, server errors and timeouts, and for an unfit answer."""
    timeout: float = Field(default=120, gt=0)
    """Seconds within which one request must be answered."""
    deadline: float = Field(default=600, gt=0)
    """Seconds within which a question must be answered, its repetitions and the waits between them included."""
    give_up_after: int = Field(default=20, ge=1)
    """Questions without an answer in a row after which the run stops."""
    budget_requests: int | None = Field(default=None, ge=0)
    """Ask for at most this many answers; 0 uses the cache alone, null sets no limit."""
    budget_tokens: int | None = Field(default=None, ge=0)
    """Stop asking once answers have taken this many tokens, read and written; requests under way are still finished."""
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
