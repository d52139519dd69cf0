"""Settings of the judge: a language model that grades what no closed set of answers can."""

from pydantic import Field

from dermo_ray.config.asking import AskingSettings, EndpointSettings
from dermo_ray.config.base import Settings


class VoteSettings(Settings):
    """How often each answer is judged; its score is the mean. The defaults are DermoBench's."""

    t1_1: int = Field(default=3, ge=1)
    """Description of the image."""
    t1_2: int = Field(default=3, ge=1)
    """Morphology and description."""
    t3_1: int = Field(default=1, ge=1)
    """Reasoning and diagnosis."""
    t3_2: int = Field(default=1, ge=1)
    """Reasoning, morphology and diagnosis."""


class JudgeSettings(AskingSettings):
    """The judge: any model behind an OpenAI-compatible server."""

    endpoint: EndpointSettings
    """The server to ask. References and answers are sent to it as text, images are not."""
    temperature: float = Field(default=0.0, ge=0)
    """Sampling temperature; at 0, as in DermoBench, votes differ only as far as the server isn't deterministic."""
    max_tokens: int = Field(default=8192, ge=1)
    """Longest verdict, a thinking model's thoughts included."""
    votes: VoteSettings = VoteSettings()
    """How often each answer is judged."""
    price_input: float | None = Field(default=None, ge=0)
    """Price of a million tokens that the judge reads, in any currency; null estimates tokens alone."""
    price_output: float | None = Field(default=None, ge=0)
    """Price of a million tokens that the judge writes."""
    characters_per_token: float = Field(default=4.0, gt=0)
    """For the estimate: characters of English text to a token of the judge's."""
