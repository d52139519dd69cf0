"""What the pools hand to each other: a prompt becomes a group, a group becomes a scored group.

These classes import neither an engine nor a trainer, so that each pool loads only its own part of the stack.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any

from dermo_ray.records import RLPrompt
from rewards import Reward


class PromptRefused(ValueError):
    """An engine can't answer this prompt, and is as ready for others as before; the message says why."""


@dataclass(frozen=True)
class Sampling:
    """How to sample: `n` completions of at most `max_tokens` tokens; temperature 0 is greedy."""

    n: int = 1
    temperature: float = 1.0
    max_tokens: int = 512
    seed: int | None = None
    json_schema: str | None = None
    """What the completions must fit; None leaves them free."""
    top_logprobs: int = 0
    """How many of the likeliest tokens to report at each place, 20 at most."""


@dataclass(frozen=True)
class Sampled:
    """One completion as the engine wrote it; `logprobs` are of `token_ids`, `text` ends before the end of the turn."""

    token_ids: list[int]
    logprobs: list[float]
    text: str
    finish_reason: str
    """`stop` where the policy ended its turn, `length` where it was cut."""
    top_logprobs: list[dict[int, float]] = field(default_factory=list)
    """For each of `token_ids` the likeliest tokens and the one that was sampled; empty where none were asked for."""
    versions: list[int] = field(default_factory=list)
    """The policy version that sampled each token; empty where it was that of the group."""

    @property
    def truncated(self) -> bool:
        """Whether it was cut before the policy ended its turn."""
        return self.finish_reason == "length"


@dataclass(frozen=True)
class Prompt:
    """An RL prompt at its place in the stream of a run; no two prompts of a run share an `index`."""

    index: int
    record: RLPrompt
    stored: Any = field(default=None, compare=False)
    """A reference to its image files in the object store; None where they are to be read from the prepared folder."""


@dataclass(frozen=True)
class Group:
    """The completions sampled for one prompt."""

    prompt: Prompt
    version: int
    """The oldest policy version that sampled a token of it; with adapters the only one."""
    prompt_ids: list[int]
    """The prompt as the engine saw it, image placeholders expanded."""
    completions: list[Sampled]


@dataclass(frozen=True)
class ScoredGroup:
    """A group and the reward of each of its completions, in order."""

    group: Group
    rewards: list[Reward]

    def __post_init__(self) -> None:
        if len(self.rewards) != len(self.group.completions):
            raise ValueError(
                f"prompt {self.group.prompt.record.id}: {len(self.rewards)} rewards for "
                f"{len(self.group.completions)} completions"
            )


@dataclass(frozen=True)
class TrainingGroup:
    """A scored group with the advantage of each completion, as the learners take it."""

    scored: ScoredGroup
    advantages: list[float]


CompletionName = tuple[int, int]
"""What a completion goes by within a batch: the index of its prompt, and which of the group's it is."""


def sampling_seed(seed: int, prompt_index: int) -> int:
    """A seed for each prompt of a run, the same whichever worker samples it and whenever."""
    digest = hashlib.blake2b(f"{seed}:{prompt_index}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1
