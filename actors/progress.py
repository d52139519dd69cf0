"""How far a run has come, besides weights and optimizer: what a checkpoint keeps of the controller.

Invariant: what `write` was given is what `read` gives back, floats to the last bit.
"""

import hashlib
from array import array
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter

from actors.messages import Group, ScoredGroup
from dermo_ray import checkpoints
from dermo_ray.early_stopping import Best
from dermo_ray.ledger import Entry, Outcome
from rewards.watch import WatchMemory

BUFFER = "buffer.json"

_GROUPS = TypeAdapter(list[ScoredGroup])


@dataclass
class Progress:
    """What the controller goes on from."""

    version: int = 0
    """Learner updates made."""
    next_index: int = 0
    """The first prompt index that was never admitted."""
    pending: list[int] = field(default_factory=list)
    """Indices that were admitted and have no scored group; a resumed run samples them first."""
    ready: list[ScoredGroup] = field(default_factory=list)
    """Scored groups that wait for their update."""
    unscored: int = 0
    """Prompts that were given up because their reward could not be computed."""
    best: Best = field(default_factory=Best)
    """The best validation so far."""
    score: float | None = None
    """How good the policy is, for the choice of checkpoints that stay: the mean reward of the last update."""
    watch: WatchMemory | None = None
    """What the watch over the reward remembers."""


def write(partial: Path, progress: Progress) -> Path:
    """Make the unfinished checkpoint `partial` a whole one that holds `progress`; where it lies now."""
    (partial / BUFFER).write_bytes(_GROUPS.dump_json([_without_references(scored) for scored in progress.ready]))
    state = {
        "step": progress.version,
        "version": progress.version,
        "next_index": progress.next_index,
        "pending": progress.pending,
        "unscored": progress.unscored,
        "score": progress.score,
        "best": asdict(progress.best),
        "watch": progress.watch,
    }
    return checkpoints.commit(partial, state)


def _without_references(scored: ScoredGroup) -> ScoredGroup:
    """The same group without its images, which another run finds in the prepared folder."""
    group = scored.group
    return replace(scored, group=replace(group, prompt=replace(group.prompt, stored=None)))


def read(checkpoint: Path | None) -> Progress:
    """The progress that a checkpoint holds; that of a new run where there is none."""
    if checkpoint is None:
        return Progress()
    state = checkpoints.read_state(checkpoint)
    ready = _GROUPS.validate_json((checkpoint / BUFFER).read_bytes())
    return Progress(
        state["version"],
        state["next_index"],
        state["pending"],
        ready,
        state["unscored"],
        Best(**state["best"]),
        state["score"],
        state["watch"],
    )


def ledger_entry(group: Group, step: int, outcome: Outcome) -> Entry:
    """What the ledger says of a group that update `step` was made from, or did without."""
    digest = hashlib.blake2b(digest_size=8)
    for completion in group.completions:
        digest.update(array("q", [len(completion.token_ids), *completion.token_ids]).tobytes())
    return Entry(
        step=step,
        index=group.prompt.index,
        prompt_id=group.prompt.record.id,
        group=digest.hexdigest(),
        versions=sorted({version for c in group.completions for version in c.versions} or {group.version}),
        outcome=outcome,
    )
