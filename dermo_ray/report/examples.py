"""Which completions a report shows, and each of them laid out against its reference.

Prompts are ranked by the change of their mean reward, and shown from both ends and the middle of that ranking, so that
losses are as visible as gains. Of a prompt's completions the one nearest their mean reward stands for them all.
"""

import base64
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from dermo_ray.bench.heldout import diagnosis_label
from dermo_ray.completion import Completion, parse
from dermo_ray.morphology import DERM7PT_FIELDS, Morphology
from dermo_ray.records import GroundTruth
from dermo_ray.rollouts import ScoredCompletion
from dermo_ray.taxonomy import Taxonomy

PER_KIND = 2
_MAX_SIDE = 480  # pixels
_LOSSLESS_SIDE = 256  # pixels; small drawings suffer from JPEG, and are small anyway


@dataclass(frozen=True)
class Answer:
    """What one policy stated about one finding; `right` is None where there is nothing to compare with."""

    text: str
    right: bool | None


@dataclass(frozen=True)
class Finding:
    """One line of the checklist: a Derm7pt field, a SkinCon feature or the diagnosis."""

    name: str
    reference: str
    before: Answer
    after: Answer


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
        findings=tuple(_findings(truth, before.row, after.row, taxonomy)),
        before=before,
        after=after,
    )


def data_uri(path: Path) -> str:
    """The image at most 480 pixels wide and high, as a data URI."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    image.thumbnail((_MAX_SIDE, _MAX_SIDE))
    encoding = "PNG" if max(image.size) <= _LOSSLESS_SIDE else "JPEG"
    buffer = BytesIO()
    image.save(buffer, encoding, quality=85)
    return f"data:image/{encoding.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _findings(
    truth: GroundTruth, before: ScoredCompletion, after: ScoredCompletion, taxonomy: Taxonomy
) -> Iterable[Finding]:
    old, new = parse(before.text, before.task), parse(after.text, after.task)
    if truth.task == "task3":
        reference = truth.final_label
        answers = [_diagnosis(completion, reference, taxonomy) for completion in (old, new)]
        yield Finding("Diagnosis", reference or "no reference", *answers)
    stated, reference_morphology = (old.morphology, new.morphology), truth.morphology
    schemas = {morphology.schema for morphology in (*stated, reference_morphology) if morphology is not None}
    if "derm7pt" in schemas:
        for name in DERM7PT_FIELDS:
            value = _field(reference_morphology, name)
            answers = [_stated_field(morphology, name, value) for morphology in stated]
            yield Finding(name, value or "no reference", *answers)
    if "skincon" in schemas:
        features = {
            name for morphology in (*stated, reference_morphology) if morphology for name in morphology.features
        }
        for name in sorted(features):
            present = None if reference_morphology is None else name in reference_morphology.features
            answers = [_stated_feature(morphology, name, present) for morphology in stated]
            yield Finding(name, {True: "present", False: "absent", None: "no reference"}[present], *answers)
    if any(morphology is not None and morphology.unknown for morphology in stated):
        counts = [0 if morphology is None else morphology.unknown for morphology in stated]
        yield Finding("Outside the vocabulary", "none", *(Answer(f"{n} stated", n == 0) for n in counts))


def _diagnosis(completion: Completion, reference: str | None, taxonomy: Taxonomy) -> Answer:
    stated = completion.diagnosis
    if reference is None:
        return Answer(stated or "none that can be read", None)
    right = stated is not None and diagnosis_label(stated, taxonomy) == diagnosis_label(reference, taxonomy)
    return Answer(stated or "none that can be read", right)


def _field(morphology: Morphology | None, name: str) -> str | None:
    return None if morphology is None else morphology.fields.get(name)


def _stated_field(morphology: Morphology | None, name: str, reference: str | None) -> Answer:
    value = _field(morphology, name)
    return Answer(value or "not stated", None if reference is None else value == reference)


def _stated_feature(morphology: Morphology | None, name: str, present: bool | None) -> Answer:
    """A feature that nobody stated is stated to be absent, except where no morphology could be read at all."""
    if morphology is None or morphology.schema != "skincon":
        return Answer("not stated", None if present is None else False)
    stated = name in morphology.features
    return Answer("present" if stated else "absent", None if present is None else stated == present)
