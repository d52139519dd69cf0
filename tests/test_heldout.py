"""Held-out measures are what a person counts by hand, and differences are paired by prompt."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from dermo_ray.bench.heldout import Evaluation, compare, evaluate, measure
from dermo_ray.morphology import DERM7PT_FIELDS
from dermo_ray.records import GroundTruth
from dermo_ray.rollouts import ScoredCompletion
from dermo_ray.taxonomy import Taxonomy

TAXONOMY = Taxonomy.load()
PLAIN = {name: "absent" for name in DERM7PT_FIELDS}


def derm7pt(**changes: str) -> dict[str, Any]:
    return {"morphological_features_Derm7pt": PLAIN | {key.replace("_", " "): value for key, value in changes.items()}}


def skincon(*features: str) -> dict[str, Any]:
    return {"morphological_features_skincon": list(features)}


def row(
    prompt: str,
    label: str | None,
    morph: Mapping[str, Any] | None,
    stated_label: str | None,
    stated_morph: Mapping[str, Any] | None,
    *,
    reward: float = 0.5,
    terms: Mapping[str, float] | None = None,
    policy: str = "sft",
    sample: int = 0,
    greedy: bool = False,
    task: str = "task3",
    faults: Sequence[str] = (),
) -> ScoredCompletion:
    clinical = morph is not None and "morphological_features_skincon" in morph
    modality = "clinical" if clinical else "dermoscopic"
    truth = GroundTruth.model_validate(
        {"task": task, "modality": modality, "final_label": label, "morph": None if morph is None else dict(morph)}
    )
    text = "nothing that can be read"
    if stated_morph is not None:
        block = f"<morph>{json.dumps(stated_morph)}</morph>"
        text = f"<reasoning>Seen.</reasoning>{block}<final_diagnosis>{stated_label}</final_diagnosis>"
        text = text if task == "task3" else f"{block}\nA paragraph."
    return ScoredCompletion.model_validate(
        {
            "step": -1,
            "policy": policy,
            "version": 0,
            "prompt_id": prompt,
            "image": f"images/{prompt}.png",
            "task": task,
            "modality": modality,
            "text": text,
            "tokens": 9,
            "finish_reason": "stop",
            "logprob": -1.0,
            "reward": reward,
            "terms": dict(terms or {"format": 1.0}),
            "weights": dict.fromkeys(terms or {"format": 1.0}, 1.0),
            "gate": 1.0,
            "faults": tuple(faults),
            "ground_truth": truth.model_dump_json(),
            "sample": sample,
            "greedy": greedy,
        }
    )


def test_a_prompt_counts_once_however_many_completions_it_has() -> None:
    rows = [row("a", None, None, None, None, reward=1.0)]
    rows += [row("b", None, None, None, None, reward=0.0, sample=index) for index in range(9)]
    measured = measure(rows, TAXONOMY).sampled
    assert measured is not None
    assert (measured.prompts, measured.completions) == (2, 10)
    assert measured.scores.reward.mean == 0.5
    assert (measured.scores.reward.low, measured.scores.reward.high) == (0.0, 1.0)


def test_terms_are_averaged_over_the_prompts_they_apply_to() -> None:
    rows = [
        row("a", None, None, None, None, terms={"format": 1.0, "diagnosis": 0.25}),
        row("b", None, None, None, None, terms={"format": 0.5}, faults=["missing_block"]),
    ]
    measured = measure(rows, TAXONOMY).sampled
    assert measured is not None
    assert measured.scores.terms["format"].mean == 0.75
    assert measured.scores.terms["diagnosis"].mean == 0.25
    assert measured.scores.format_valid.mean == 0.5


def test_greedy_completions_are_measured_apart() -> None:
    rows = [
        row("a", None, None, None, None, reward=0.2),
        row("a", None, None, None, None, reward=0.9, greedy=True),
    ]
    result = measure(rows, TAXONOMY)
    assert result.sampled is not None
    assert result.greedy is not None
    assert (result.sampled.scores.reward.mean, result.greedy.scores.reward.mean) == (0.2, 0.9)
    assert measure(rows[:1], TAXONOMY).greedy is None


def test_each_field_counts_by_itself_and_an_unreadable_completion_is_wrong_in_all() -> None:
    reference = derm7pt(Streaks="irregular")
    rows = [
        row("a", None, reference, None, reference),
        row("b", None, reference, None, derm7pt()),
        row("c", None, reference, None, None),
        row("d", None, reference, None, skincon("Plaque")),
    ]
    measured = measure(rows, TAXONOMY).sampled
    assert measured is not None
    assert list(measured.scores.derm7pt) == list(DERM7PT_FIELDS)
    assert measured.scores.derm7pt["Streaks"].mean == 0.25
    assert measured.scores.derm7pt["Pigmentation"].mean == 0.5
    assert measured.scores.morphology["dermoscopic"].mean == pytest.approx((1 + 6 / 7) / 4)
    assert measured.scores.skincon_f1 is None


def test_skincon_f1_is_pooled_while_agreement_is_averaged() -> None:
    rows = [
        row("a", None, skincon("Plaque", "Scale", "Erythema"), None, skincon("Plaque", "Crust")),
        row("b", None, skincon("Papule"), None, skincon("Papule")),
        row("c", None, skincon("Nodule"), None, None),
    ]
    measured = measure(rows, TAXONOMY).sampled
    assert measured is not None
    assert measured.scores.skincon_f1 is not None
    # in common 1 + 1 + 0; stated 2 + 1 + 0; in the reference 3 + 1 + 1
    assert measured.scores.skincon_f1.mean == pytest.approx(2 * 2 / 8)
    assert measured.scores.morphology["clinical"].mean == pytest.approx((2 / 5 + 1 + 0) / 3)


def test_an_unreadable_morphology_is_wrong_even_where_there_is_nothing_to_find() -> None:
    measured = measure([row("a", None, skincon(), None, None)], TAXONOMY).sampled
    right = measure([row("a", None, skincon(), None, skincon())], TAXONOMY).sampled
    assert measured is not None
    assert right is not None
    assert measured.scores.skincon_f1 is not None
    assert right.scores.skincon_f1 is not None
    assert (measured.scores.skincon_f1.mean, right.scores.skincon_f1.mean) == (0.0, 1.0)


def test_diagnoses_are_compared_by_canonical_label_and_baselines_stand_beside_them() -> None:
    morph = derm7pt()
    rows = [
        row("a", "Melanoma", morph, "melanoma", morph),
        row("b", "Melanoma", morph, "Basal Cell Carcinoma", morph),
        row("c", "Melanoma", morph, None, None),
        row("d", "Basal Cell Carcinoma", morph, "BCC", morph),
        row("e", "Basal Cell Carcinoma", morph, "no such thing", morph),
        row("f", "Basal Cell Carcinoma", morph, None, morph, task="task1"),
    ]
    assert TAXONOMY.canonical("BCC") == "Basal Cell Carcinoma"
    result = measure(rows, TAXONOMY)
    assert result.labels is not None
    assert result.labels.prompts == {"Melanoma": 3, "Basal Cell Carcinoma": 2}
    assert (result.labels.majority_accuracy, result.labels.chance) == (0.6, 0.5)
    assert result.sampled is not None
    assert result.sampled.scores.diagnosis_accuracy is not None
    assert result.sampled.scores.balanced_accuracy is not None
    assert result.sampled.scores.diagnosis_accuracy.mean == pytest.approx(2 / 5)
    assert result.sampled.scores.balanced_accuracy.mean == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert result.sampled.unknown_label == pytest.approx(2 / 5)


def test_a_reference_outside_the_taxonomy_is_compared_by_its_letters() -> None:
    morph = derm7pt()
    rows = [row("a", "Zebra spot", morph, "zebra-SPOT", morph), row("b", "Zebra spot", morph, "zebra", morph)]
    measured = measure(rows, TAXONOMY).sampled
    assert measured is not None
    assert measured.scores.diagnosis_accuracy is not None
    assert measured.scores.diagnosis_accuracy.mean == 0.5


def pair(rewards: Mapping[str, tuple[float, float]], **kwargs: Any) -> tuple[list[ScoredCompletion], ...]:
    return tuple(
        [
            row(name, None, None, None, None, reward=both[side], policy=policy, **kwargs)
            for name, both in rewards.items()
        ]
        for side, policy in enumerate(("sft", "mavic"))
    )


def test_differences_are_paired_so_what_prompts_have_in_common_cancels() -> None:
    rewards = {f"p{index}": (index / 40, index / 40 + 0.1) for index in range(20)}
    before, after = pair(rewards)
    difference = compare(before, after[::-1], TAXONOMY)
    assert (difference.before, difference.after, difference.prompts) == ("sft", "mavic", 20)
    assert difference.sampled is not None
    assert difference.greedy is None
    assert difference.sampled.reward.mean == pytest.approx(0.1)
    assert difference.sampled.reward.low == pytest.approx(0.1)
    assert difference.sampled.reward.high == pytest.approx(0.1)


def test_only_prompts_of_both_sides_are_compared() -> None:
    before, after = pair({"a": (0.1, 0.3), "b": (0.2, 0.4), "c": (0.0, 1.0)})
    difference = compare(before, after[:2], TAXONOMY)
    assert difference.prompts == 2
    assert difference.sampled is not None
    assert difference.sampled.reward.mean == pytest.approx(0.2)


def test_a_difference_is_that_of_the_two_measures_for_every_kind_of_measure() -> None:
    lesions = [
        ("a", "Melanoma", derm7pt(Streaks="irregular")),
        ("b", "Melanoma", derm7pt()),
        ("c", "Basal Cell Carcinoma", derm7pt()),
        ("d", "Psoriasis", skincon("Plaque", "Scale")),
        ("e", "Psoriasis", skincon("Plaque")),
    ]
    before, after = [], []
    for name, label, morph in lesions:
        for sample in range(2):
            wrong = skincon("Papule", "Plaque") if "morphological_features_skincon" in morph else derm7pt()
            stated = "Melanoma" if sample else label
            before.append(row(name, label, morph, stated, wrong, reward=0.4 + 0.1 * sample, sample=sample))
            after.append(row(name, label, morph, label, morph, reward=0.9, policy="mavic", sample=sample))
    result = evaluate(before, after, TAXONOMY, resamples=300)
    assert result.before.sampled is not None
    assert result.after.sampled is not None
    assert result.difference.sampled is not None
    old, new = result.before.sampled.scores, result.after.sampled.scores
    for name in ("reward", "format_valid", "skincon_f1", "diagnosis_accuracy", "balanced_accuracy"):
        change = getattr(result.difference.sampled, name)
        assert change.mean == pytest.approx(getattr(new, name).mean - getattr(old, name).mean), name
        assert change.low <= change.mean <= change.high
    for name in ("terms", "derm7pt", "morphology"):
        for key, change in getattr(result.difference.sampled, name).items():
            assert change.mean == pytest.approx(getattr(new, name)[key].mean - getattr(old, name)[key].mean), key
    assert result.difference.sampled.balanced_accuracy is not None
    assert result.difference.sampled.balanced_accuracy.mean == pytest.approx(1 - (1 + 0.5 + 0.5) / 3)


def test_the_two_sides_swapped_give_the_difference_with_the_other_sign() -> None:
    before, after = pair({f"p{i}": (0.1 * (i % 3), 0.05 * (i % 5)) for i in range(15)}, greedy=True)
    forth, back = compare(before, after, TAXONOMY), compare(after, before, TAXONOMY)
    assert forth.greedy is not None
    assert back.greedy is not None
    assert forth.greedy.reward.mean == pytest.approx(-back.greedy.reward.mean)
    assert forth.greedy.reward.low == pytest.approx(-back.greedy.reward.high)


def test_an_evaluation_survives_json_and_its_seed_decides_its_intervals() -> None:
    before, after = pair({f"p{i}": (0.1 * (i % 3), 0.07 * (i % 5)) for i in range(15)})
    result = evaluate(before, after, TAXONOMY, resamples=200, seed=1)
    assert Evaluation.model_validate_json(result.model_dump_json()) == result
    assert evaluate(before, after, TAXONOMY, resamples=200, seed=1) == result
    assert evaluate(before, after, TAXONOMY, resamples=200, seed=2) != result


def test_what_cannot_be_compared_is_refused() -> None:
    before, after = pair({"a": (0.1, 0.2)})
    other = [row("z", None, None, None, None, policy="mavic")]
    with pytest.raises(ValueError, match="no prompt in common"):
        compare(before, other, TAXONOMY)
    with pytest.raises(ValueError, match="one policy in one version"):
        measure([*before, *after], TAXONOMY)
    with pytest.raises(ValueError, match="one policy in one version"):
        measure([], TAXONOMY)
    unlike = [row("a", None, None, None, None, policy="mavic", terms={"diagnosis": 1.0})]
    with pytest.raises(ValueError, match="completions of a were not scored by the same terms"):
        compare(before, unlike, TAXONOMY)
