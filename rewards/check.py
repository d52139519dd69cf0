"""What can be known to be wrong with a reward before anything is trained on it.

Jobs call `check_reward` before they start engines: a term that scores nothing, or everything alike, shows in seconds.
"""

from collections.abc import Iterator, Sequence

from dermo_ray.completion import BLOCKS, Completion, render
from dermo_ray.config import RewardConfig
from dermo_ray.config.mavic import RewardPoolSettings
from dermo_ray.errors import UserError
from dermo_ray.morphology import DERM7PT_FIELDS, Modality, Morphology
from dermo_ray.records import GroundTruth, Task
from dermo_ray.taxonomy import Taxonomy
from rewards.deadline import within
from rewards.extra import ExtraTerm, extra_term

_MORPHOLOGIES: dict[Modality, tuple[Morphology, Morphology]] = {
    "clinical": (
        Morphology("skincon", features=frozenset({"Plaque", "Scale"})),
        Morphology("skincon", features=frozenset({"Nodule"})),
    ),
    "dermoscopic": (
        Morphology("derm7pt", fields={name: values[-1] for name, values in DERM7PT_FIELDS.items()}),
        Morphology("derm7pt", fields={name: values[0] for name, values in DERM7PT_FIELDS.items()}),
    ),
}
"""For each modality a reference, and a morphology that shares nothing with it."""


DEADLINE = RewardPoolSettings().timeout
"""Seconds that each term of one's own has for its check, where nothing is said."""


def check_reward(config: RewardConfig, deadline: float = DEADLINE) -> None:
    """Raise `UserError`, one line naming the term or setting, where `config` can't reward as it says.

    The tree must be readable, the concept model there; each extra term is made and run on completions from right to
    empty, within `deadline` seconds.
    """
    taxonomy = Taxonomy.load(config.taxonomy)
    if config.concepts is not None and not (config.concepts / "config.json").is_file():
        raise UserError(f"reward.concepts: there is no concept model at {config.concepts}; jobs.concepts trains one")
    groups = list(probes(taxonomy))
    for term in config.others:
        try:
            within(deadline, lambda term=term: _check(extra_term(term), groups))  # type: ignore[misc]
        except TimeoutError:
            raise UserError(
                f"the reward term {term.name} was not made and tried on {sum(len(texts) for _, texts in groups)} "
                f"completions within {deadline:g} s: make it faster, or raise rewards.timeout"
            ) from None


def check_references(truths: Sequence[GroundTruth], config: RewardConfig) -> Iterator[str]:
    """What part of the reward does not apply to references that it should, one line each, with counts.

    Raises `UserError` where none of the labels is in the tree but closeness in it has a weight.
    """
    taxonomy = Taxonomy.load(config.taxonomy)
    labels = [truth.final_label for truth in truths if truth.task == "task3" and truth.final_label is not None]
    strangers = [label for label in labels if taxonomy.canonical(label) is None]
    examples = ", ".join(map(repr, sorted(set(strangers))[:3]))
    if labels and len(strangers) == len(labels) and config.weights.taxonomy > 0:
        raise UserError(
            f"none of the labels of {len(labels)} prompts is in the diagnosis tree, such as {examples}: "
            f"set reward.taxonomy to the tree that they come from, or reward.weights.taxonomy=0 to do without one"
        )
    if strangers:
        yield (
            f"{len(strangers)} of {len(labels)} prompts have a label that is not in the diagnosis tree, such as "
            f"{examples}: it is compared by its letters and earns nothing for closeness; reward.taxonomy sets the tree"
        )
    partial = sum(truth.morph is not None and truth.comparable_morphology is None for truth in truths)
    if partial:
        yield (
            f"{partial} of {len(truths)} prompts have a morphology that lacks a Derm7pt field or is in the schema of "
            f"the other modality: it counts as none"
        )


def probes(taxonomy: Taxonomy) -> Iterator[tuple[GroundTruth, list[str]]]:
    """A reference of each task and modality, and completions for it: right, wrong in parts, long-winded, empty."""
    right_label, wrong_label = taxonomy.labels[0], taxonomy.labels[-1]
    for modality, (right, wrong) in _MORPHOLOGIES.items():
        for task in BLOCKS:
            truth = GroundTruth(
                task=task,
                modality=modality,
                final_label=right_label,
                taxon_path=taxonomy.path(right_label),
                morph=right.to_json(),
            )
            yield (
                truth,
                [
                    _completion(task, right, right_label),
                    _completion(task, wrong, right_label),
                    _completion(task, right, wrong_label),
                    _completion(task, wrong, wrong_label),
                    _completion(task, right, right_label, sentences=20),
                    f"I think it is {right_label}.",
                    "",
                ],
            )


def _completion(task: Task, morphology: Morphology, label: str, sentences: int = 1) -> str:
    prose = " ".join(["The border is sharp and the surface is uneven."] * sentences)
    if task == "task1":
        return render(Completion(task, morphology=morphology, description=prose))
    return render(Completion(task, reasoning=prose, morphology=morphology, diagnosis=label))


def _check(term: ExtraTerm, groups: list[tuple[GroundTruth, list[str]]]) -> None:
    scores = iter(
        term.scores(
            [text for _, texts in groups for text in texts],
            [truth for truth, texts in groups for _ in texts],
        )
    )
    spreads = []
    for truth, texts in groups:
        given = [next(scores) for _ in texts]
        applies = [score for score in given if score is not None]
        if applies and len(applies) != len(given):
            raise UserError(
                f"the reward term {term.name} applies to some completions of a reference ({truth.task}, "
                f"{truth.modality}) and not to others: give 0, not None, where a completion fails"
            )
        if applies:
            spreads.append(max(applies) - min(applies))
    if not spreads:
        raise UserError(f"the reward term {term.name} applies to no task and modality: it gave None for every probe")
    if max(spreads) == 0:
        raise UserError(
            f"the reward term {term.name} gives all completions of a reference the same score, right, wrong or empty: "
            f"there is nothing to learn from it"
        )
