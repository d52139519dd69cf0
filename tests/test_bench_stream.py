"""Adaptation over streams of items: labels that mean the same are corrected together, others are left alone."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from dermo_ray.asking.answering import Tally
from dermo_ray.bench.assemble import Answered, bench_report
from dermo_ray.bench.columns import columns
from dermo_ray.bench.measures import Bootstrap
from dermo_ray.bench.responses import Response
from dermo_ray.bench.stream import Adapted, adapted, fitted_temperature, training_counts
from dermo_ray.bench.tasks import BenchItem, Question
from dermo_ray.config.cct import AdaptationSettings, CCTConfig
from dermo_ray.errors import UserError
from dermo_ray.taxonomy import Taxonomy
from tests.bench_cases import choice_item, found, lettered, response, settings

TREE = Taxonomy.load()
BOOTSTRAP = Bootstrap(resamples=200)
SHIFT = {"prior_shift": True, "min_items": 10}


def field_item(name: str, concept: str, right: int) -> BenchItem:
    options = ("absent", "regular", "irregular")
    item = choice_item(name, task="t1.3", concept=concept)
    question = Question(text=f"{concept}?", options=options, right=right)
    return item.model_copy(update={"questions": (question,)})


def voted(item: BenchItem, posterior: dict[str, float]) -> Response:
    answer = max(posterior, key=posterior.__getitem__)
    made = response(item, answer, "cct", posterior[answer])
    return made.model_copy(update={"steps": (made.steps[0].model_copy(update={"posterior": posterior}),)})


def corrected(items: list[BenchItem], responses: list[Response], **adaptation: object) -> Adapted | None:
    config = CCTConfig.model_validate({"adaptation": adaptation})
    answers = columns(items, responses, TREE)
    assert answers is not None
    return adapted(responses, answers, config, BOOTSTRAP)


def test_values_of_different_fields_are_streams_of_their_own() -> None:
    """All streaks are absent and all dots irregular: one prior over both would correct neither."""
    items = [field_item(f"{name}{n}", name, right) for name, right in (("Streaks", 0), ("Dots", 2)) for n in range(20)]
    sure = {"Streaks": {"absent": 0.9, "irregular": 0.1}, "Dots": {"absent": 0.1, "irregular": 0.9}}
    unsure = {"Streaks": {"absent": 0.45, "irregular": 0.55}, "Dots": {"absent": 0.55, "irregular": 0.45}}
    said = [
        voted(item, (unsure if place % 20 < 4 else sure)[item.facts.concept or ""]) for place, item in enumerate(items)
    ]
    found_ = corrected(items, said, **SHIFT)
    assert found_ is not None
    assert (found_.accuracy.before.mean, found_.accuracy.after.mean) == (0.8, 1.0)
    assert found_.priors["Streaks"]["absent"] > 0.95
    assert found_.priors["Dots"]["irregular"] > 0.95


def test_data_sets_are_streams_of_their_own_and_features_are_none() -> None:
    items = [choice_item(f"{s}{n}", task="t2.4", subset=s) for s in ("ddi", "snu134") for n in range(12)]
    said = [voted(item, {"Melanoma": 0.9, "Blue Nevus": 0.1}) for item in items]
    assert corrected(items, said, **SHIFT).priors.keys() == {"ddi", "snu134"}
    assert corrected(items, said, prior_shift=True, min_items=13).priors == {}  # each stream is too short
    features = [choice_item(str(n), task="t1.4", concept="Scale") for n in range(12)]
    assert corrected(features, [voted(item, {"Melanoma": 0.9, "Cyst": 0.1}) for item in features], **SHIFT) is None


def manifest(folder: Path, labels: dict[str, int]) -> Path:
    folder.mkdir()
    counts = {"counts": {"trajectories": {"total": sum(labels.values()), "label": labels}}}
    (folder / "manifest.json").write_text(json.dumps(counts))
    return folder


def test_what_was_frequent_in_training_is_taken_from_a_manifest_or_a_setting(tmp_path: Path) -> None:
    items = [choice_item(str(n)) for n in range(40)]
    said = [voted(item, {"Melanoma": 0.6, "Blue Nevus": 0.4}) for item in items]
    trained = manifest(tmp_path / "data", {"Melanoma": 90, "Blue Nevus": 10, "none": 7})
    by_manifest = corrected(items, said, trained_on=trained, **SHIFT)
    by_setting = corrected(items, said, training_prior={"Melanoma": 0.9, "Blue Nevus": 0.1}, **SHIFT)
    assert by_manifest.priors == by_setting.priors
    # with 90 % of melanomas in training, 0.6 speaks for the nevus
    assert by_manifest.priors["all"]["Blue Nevus"] > 0.9
    assert corrected(items, said, **SHIFT).priors["all"]["Melanoma"] > 0.9


def test_a_training_prior_that_can_not_be_had_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no prepared folder"):
        training_counts(AdaptationSettings(trained_on=tmp_path / "absent"))
    with pytest.raises(UserError, match="counts no labels"):
        training_counts(AdaptationSettings(trained_on=manifest(tmp_path / "data", {"none": 3})))
    with pytest.raises(ValidationError, match="give one of them"):
        AdaptationSettings(trained_on=tmp_path, training_prior={"a": 1})
    with pytest.raises(ValidationError, match="above 0"):
        AdaptationSettings(training_prior={"a": 0})
    with pytest.raises(ValidationError, match="leave adaptation"):
        AdaptationSettings(fit="val", temperature=2)


def overconfident(name: str) -> tuple[list[BenchItem], list[Response]]:
    """Answers that are 99 % sure and 70 % right."""
    items = [choice_item(f"{name}{n}", right=0 if n < 70 else 1) for n in range(100)]
    posterior = {"Melanoma": 0.99, "Blue Nevus": 0.01}
    return items, [voted(item, posterior) for item in items]


def test_a_temperature_is_fitted_on_validation_items_and_reported_with_what_it_is_worth(tmp_path: Path) -> None:
    validation, before = overconfident("val")
    answers = columns(validation, before, TREE)
    assert answers is not None
    temperature = fitted_temperature(before, answers)
    assert temperature == pytest.approx(5.4, abs=0.2)  # 0.7 / 0.3 is 99 to the power 1 / 5.42
    items, said = overconfident("test")
    config = settings(
        tmp_path, methods=["greedy", "majority", "cct"], cct={"adaptation": {"fit": "val"}}, resamples=200
    )
    greedy = [response(item, lettered(0)) for item in items]
    policy = Answered("p", "here", "f", [*greedy, *said], Tally(), validation=before)
    made = bench_report(found(items), [policy], {}, None, config, TREE, validation=found(validation)).report
    task = made.policies[0].tasks["t2.1"].adapted
    assert task is not None
    assert task.temperature == temperature
    assert task.calibration_error.before.mean == pytest.approx(0.29)
    assert task.calibration_error.after.mean < 0.01
    assert task.accuracy.difference.mean == 0
    assert task.selective_accuracy.before.mean == pytest.approx(task.selective_accuracy.after.mean)


def test_a_temperature_is_fitted_on_another_split_of_a_prepared_folder_alone(tmp_path: Path) -> None:
    fit = {"adaptation": {"fit": "val"}}
    with pytest.raises(ValidationError, match=r"cct\.adaptation\.fit needs items\.prepared"):
        settings(tmp_path, items={"release": "r", "images": "i"}, cct=fit)
    with pytest.raises(ValidationError, match=r"another split than items\.split"):
        settings(tmp_path, items={"prepared": "p", "split": "val"}, cct=fit)
