"""What the pools hand to each other: a prompt becomes a group, a group becomes a scored group.

These classes import neither an engine nor a trainer, so that each pool loads only its own part of the stack.
"""

import hashlib
from dataclasses import dataclass, field

import ray

from dermo_ray.records import RLPrompt
from rewards import Reward


@dataclass(frozen=True)
class Sampling:
    """How to sample: `n` completions of at most `max_tokens` tokens; temperature 0 is greedy."""

    n: int = 1
    temperature: float = 1.0
    max_tokens: int = 512
    seed: int | None = None
    json_schema: str | None = None
    """What the completions must fit; None leaves them free."""


@dataclass(frozen=True)
class Sampled:
    """One completion as the engine wrote it; `logprobs` are of `token_ids`, `text` ends before the end of the turn."""

    token_ids: list[int]
    logprobs: list[float]
    text: str
    finish_reason: str
    """`stop` where the policy ended its turn, `length` where it was cut."""

    @property
    def truncated(self) -> bool:
        """Whether it was cut before the policy ended its turn."""
        return self.finish_reason == "length"


@dataclass(frozen=True)
class Prompt:
    """An RL prompt at its place in the stream of a run; no two prompts of a run share an `index`."""

    index: int
    record: RLPrompt
    stored: "ray.ObjectRef[list[bytes]] | None" = field(default=None, compare=False)
    """Its image files in the object store; None where they are to be read from the prepared folder."""


@dataclass(frozen=True)
class Group:
    """The completions sampled for one prompt, all by one policy version."""

    prompt: Prompt
    version: int
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


def sampling_seed(seed: int, prompt_index: int) -> int:
    """A seed for each prompt of a run, the same whichever worker samples it and whenever."""
    digest = hashlib.blake2b(f"{seed}:{prompt_index}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1
