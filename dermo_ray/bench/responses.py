"""What a policy answered to an item by one method, and what it cost; one record a response, kept as JSON.

Invariants: a response holds all that scoring needs, so that figures are made again without asking; its key covers all
that it depends on (question, pixels, weights, method, seed, and the tree that diagnoses are read by), so that a kept
response is never that of another question.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import Field

from dermo_ray.bench.tasks import TASKS, Answer, BenchItem, TaskId
from dermo_ray.cct import plan
from dermo_ray.checkpoints import file_sha256
from dermo_ray.config.bench import BenchSettings, Method
from dermo_ray.records import Record
from dermo_ray.taxonomy import Taxonomy

FORMAT = 1
"""Part of every key: raised where responses come to mean something else."""


class Vote(Record):
    """One rollout behind a step."""

    view: str
    answer: str | None
    """As read in the completion; None where it gives none or several."""
    confidence: float | None
    weight: float
    """Its share of all votes' weight."""


class Step(Record):
    """The answer to one question, and what it took."""

    answer: str | None
    """The option's text or the diagnosis; None where no rollout gave one, and where the question has no such answer."""
    confidence: float | None
    """How sure the method is of it, in [0, 1]: greedy the probability of its tokens, others their posterior."""
    posterior: dict[str, float] = Field(default={})
    """Of the answers, in falling order; empty for a greedy answer."""
    abstain: bool = False
    votes: tuple[Vote, ...] = ()
    planned: int
    """Rollouts that would have been sampled without stopping early."""
    prompt_tokens: int
    """Tokens read, images included; over all rollouts."""
    completion_tokens: int
    """Tokens written by all rollouts."""
    seconds: float
    """Wall time from asking to answer, among all that was asked at once."""


class Response(Record):
    """A policy's answer to an item by one method."""

    item: str
    method: Method
    texts: tuple[str, ...]
    """What is scored: one text for each question. Of several rollouts the one that speaks for the answer."""
    steps: tuple[Step, ...]

    @property
    def scored_answer(self) -> Answer:
        """What the tasks' scoring takes."""
        return Answer(item=self.item, texts=self.texts)

    @property
    def completion_tokens(self) -> int:
        """Tokens written over all steps and rollouts."""
        return sum(step.completion_tokens for step in self.steps)

    @property
    def prompt_tokens(self) -> int:
        """Tokens read over all steps and rollouts."""
        return sum(step.prompt_tokens for step in self.steps)


def methods_of(task: TaskId, settings: BenchSettings) -> tuple[Method, ...]:
    """The methods by which items of a task are answered: a free description has no answer to vote on."""
    return ("greedy",) if task in ("t1.1", "t1.2") else settings.methods


def key(item: BenchItem, method: Method, policy: str, settings: BenchSettings) -> str:
    """What a response is kept under; `policy` is a fingerprint of the weights, or of a server and its model's name."""
    depends_on: dict[str, Any] = {
        "format": FORMAT,
        "policy": policy,
        "item": item.id,
        "questions": [question.model_dump(mode="json") for question in item.questions],
        "modality": item.facts.modality,
        "images": [_image_hash(path) for path in item.images],
        "method": method,
        "instruct": settings.instruct,
        "max_tokens": settings.max_tokens.choice if item.questions[0].options else settings.max_tokens.open,
        "seed": settings.items.seed,
    }
    if settings.max_pixels is not None:
        depends_on["max_pixels"] = settings.max_pixels
    if TASKS[item.task].axis == "reasoning":
        depends_on["taxonomy"] = _tree_hash(settings.items.taxonomy)
    if method == "majority":
        rollouts = len(plan(settings.cct, item.facts.modality or "clinical", seed=0))
        vote = {"rollouts": rollouts, "temperature": settings.cct.temperature, "tau": settings.cct.tau}
        depends_on["vote"] = vote  # of the untouched image, whatever CCT shows
    elif method != "greedy":
        depends_on["cct"] = settings.cct.model_dump(mode="json", exclude={"adaptation"})
    if method == "cct_early":
        depends_on["early"] = settings.early
    return _digest(depends_on)


def item_seed(item: BenchItem, seed: int) -> int:
    """The seed of an item's rollouts, the same for every method, whenever it is asked."""
    digest = hashlib.blake2b(f"{seed}/{item.id}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


@lru_cache(maxsize=65_536)
def file_hash(path: str) -> str:
    """SHA-256 of a file; images and weights don't change while a policy is asked."""
    return file_sha256(Path(path))


def _image_hash(path: str) -> str:
    """The hash of an image; of one that can't be read no answer is ever kept."""
    try:
        return file_hash(path)
    except OSError:
        return "unreadable"


@lru_cache(maxsize=8)
def _tree_hash(path: Path | None) -> str:
    """The hash of a tree's content, wherever its file is."""
    leaves = Taxonomy.load(path).leaves
    return _digest({"leaves": [[leaf.label, leaf.path, leaf.synonyms] for leaf in leaves]})


def weights_hash(folders: Sequence[Path], facts: Mapping[str, Any]) -> str:
    """A fingerprint of the models and adapters in `folders`: of every file of weights, settings and tokenizer."""
    files = {
        f"{place}/{path.relative_to(folder)}": file_hash(str(path.resolve()))
        for place, folder in enumerate(folders)
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".safetensors", ".bin", ".json", ".jinja", ".txt", ".model")
    }
    return _digest({"files": files, **facts})


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
