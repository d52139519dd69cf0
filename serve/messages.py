"""What the ingress and the policy replicas hand to each other; imports neither Ray nor vLLM."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

from dermo_ray.cct import Sample
from serve.catalogue import Release


@dataclass(frozen=True)
class Usage:
    """What an answer cost, image placeholders expanded."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens)

    def to_json(self) -> dict[str, int]:
        """OpenAI's names for it."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


@dataclass(frozen=True)
class Answer:
    """An HTTP answer as the engine's OpenAI classes gave it: JSON, or the reason why there is none."""

    status: int
    content: bytes
    usage: Usage = Usage()

    @property
    def ok(self) -> bool:
        """Whether it is what was asked for."""
        return self.status == 200


@dataclass(frozen=True)
class Completed(Sample):
    """One completion with its tokens, for CCT and for diagnoses."""

    finish_reason: str = "stop"
    """`stop`, or `length` where it was cut."""


class Policies(Protocol):
    """The policy replicas as the ingress sees them: each request names the release that is to answer it.

    All raise `Refused` (503) where no replica can answer now, streams also in the midst of an answer. `body` is that of
    a chat completion request; `model` and what training bans are filled in by the replica.
    """

    async def complete(self, release: Release, body: dict[str, Any]) -> Answer:
        """The answer to a request that does not stream."""
        ...

    def stream(self, release: Release, body: dict[str, Any]) -> AsyncIterator[str | Usage | Answer]:
        """The server-sent events of a stream, some at a time, and its usage; an `Answer` comes alone, in its place."""
        ...

    async def rollout(self, release: Release, body: dict[str, Any], top_logprobs: int) -> Completed | Answer:
        """One completion with its tokens, or the reason why there is none."""
        ...

    def stream_rollout(self, release: Release, body: dict[str, Any]) -> AsyncIterator[str | Completed | Answer]:
        """Pieces of one completion's text as they are written, and the whole at the end."""
        ...

    async def ready(self) -> None:
        """Return if a replica could answer."""
        ...
