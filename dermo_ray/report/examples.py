"""Which completions a report shows, and each of them laid out against its reference.

Prompts are ranked by the change of their mean reward, and shown from both ends and the middle of that ranking, so that
losses are as visible as gains. Of a prompt's completions the one nearest their mean reward stands for them all.
"""

import base64
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dermo_ray.bench.findings import Finding, checklist
from dermo_ray.completion import parse
from dermo_ray.records import GroundTruth
from dermo_ray.report.pictures import shrunk
from dermo_ray.rollouts import ScoredCompletion
from dermo_ray.taxonomy import Taxonomy

PER_KIND = 2
_MAX_SIDE = 480  # pixels


@dataclass(frozen=True)
class Side:
    """One policy's completion of the prompt."""

    row: ScoredCompletion
    prose: str
    """The reasoning, or the description; empty where none could be read."""
    mean_reward: float
    """Over the prompt's completions."""
    completions: int


@dataclass(frozen=True)
class Example:
    """One prompt with both policies' answers."""

    kind: str
    """Why it was chosen."""
    image: str
    """A data URI."""
    alt: str
    truth: GroundTruth
    findings: tuple[Finding, ...]
    before: Side
    after: Side

    @property
    def gain(self) -> float:
        """Change of the prompt's mean reward."""
        return self.after.mean_reward - self.before.mean_reward


def choose(
    before: Sequence[ScoredCompletion], after: Sequence[ScoredCompletion], prepared: Path, taxonomy: Taxonomy
) -> list[Example]:
    """The largest gains, the middle and the lowest end, at most `PER_KIND` each, of the prompts that both answered.

    Completions drawn at temperature 1 are ranked where both sides have them, greedy ones otherwise; images are read
    from the prepared folder.
    """
    old, new = _groups(before, greedy=False), _groups(after, greedy=False)
    if not old.keys() & new.keys():
        old, new = _groups(before, greedy=True), _groups(after, greedy=True)
    gains = {name: _mean_reward(new[name]) - _mean_reward(old[name]) for name in sorted(old.keys() & new.keys())}
    ranked = sorted(gains, key=lambda name: -gains[name])
    middle = max(0, len(ranked) // 2 - PER_KIND // 2)
    kinds: dict[str, str] = {}
    for name in ranked[:PER_KIND]:
        kinds[name] = "Largest gain"
    for name in ranked[::-1][:PER_KIND]:
        kinds.setdefault(name, "Largest loss" if gains[name] < 0 else "Smallest gain")
    for name in ranked[middle : middle + PER_KIND]:
        kinds.setdefault(name, "Median")
    return [
        _example(kinds[name], _side(old[name]), _side(new[name]), prepared, taxonomy)
        for name in ranked
        if name in kinds
    ]


def _groups(rows: Iterable[ScoredCompletion], *, greedy: bool) -> dict[str, list[ScoredCompletion]]:
    groups: defaultdict[str, list[ScoredCompletion]] = defaultdict(list)
    for row in rows:
        if row.greedy is greedy:
            groups[row.prompt_id].append(row)
    return groups


def _mean_reward(rows: Sequence[ScoredCompletion]) -> float:
    return float(np.mean([row.reward for row in rows]))


def _side(rows: Sequence[ScoredCompletion]) -> Side:
    mean = _mean_reward(rows)
    typical = min(rows, key=lambda row: (abs(row.reward - mean), row.sample))
    completion = parse(typical.text, typical.task)
    return Side(typical, completion.reasoning or completion.description or "", mean, len(rows))


def _example(kind: str, before: Side, after: Side, prepared: Path, taxonomy: Taxonomy) -> Example:
    truth = after.row.truth
    name = truth.final_label or "a lesion without a reference label"
    return Example(
        kind=kind,
        image=data_uri(prepared / after.row.image),
        alt=f"{truth.modality.capitalize()} image, reference: {name}",
        truth=truth,
        findings=tuple(checklist(truth, (before.row.text, after.row.text), taxonomy)),
        before=before,
        after=after,
    )


def data_uri(path: Path) -> str:
    """The image at most 480 pixels wide and high, as a data URI."""
    encoded, media_type = shrunk(path, _MAX_SIDE)
    return f"data:{media_type};base64,{base64.b64encode(encoded).decode()}"
