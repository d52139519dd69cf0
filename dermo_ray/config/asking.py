"""Settings of asking a language model many questions: where it is, how persistently it is asked, and at what cost."""

from typing import Any, Literal

from pydantic import Field

from dermo_ray.config.base import AbsolutePath, Settings

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


class AskingSettings(Settings):
    """How questions are asked, kept and paid for."""

    cache: AbsolutePath
    """File that keeps every answer; what stands in it is never asked for again."""
    concurrency: int = Field(default=32, ge=1)
    """How much is worked on at once: images of a teacher, questions of a judge."""
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
