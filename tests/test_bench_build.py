"""Benchmark items from prepared data, phantoms included: every task, from held-out images and the truth alone."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dermo_ray.bench.build import build
from dermo_ray.bench.columns import columns
from dermo_ray.bench.judging import for_judge, open_answers
from dermo_ray.bench.responses import Response, Step
from dermo_ray.bench.tasks import TASKS, Answer, aggregate, comparison, prompt, score_all
from dermo_ray.config.sources import SourceConfig
from dermo_ray.data.formats import FormatContext, trajectories
from dermo_ray.data.manifest import LAYOUT_VERSION
from dermo_ray.data.sources import open_source
from dermo_ray.data.tables import SAMPLES, stored_samples
from dermo_ray.errors import UserError
from dermo_ray.morphology import DERM7PT_KEY, SKINCON_KEY, Morphology, agreement
from dermo_ray.phantom.annotation import AnnotationNoise
from dermo_ray.phantom.settings import PhantomSettings
from dermo_ray.taxonomy import Taxonomy

TAXONOMY = Taxonomy.load()
STEP = Step(answer=None, confidence=1.0, planned=1, prompt_tokens=1, completion_tokens=1, seconds=0.1)


def phantom_rows(count: int, title: str, split: str, seed: int) -> list[dict]:
    """`SAMPLES` rows of drawn phantoms, with annotators that are always wrong."""
    config = SourceConfig(
        name="phantoms",
        alias=title,
        count=count,
        phantom=PhantomSettings(size=64),
        noise=AnnotationNoise(attenuation=1, omission=1),
    )
    source = open_source(config, seed)
    rows = []
    for entry in source.entries():
        sample = source.sample(entry)
        assert sample.morphology is not None
        assert sample.annotation is not None
        row = {
            "id": sample.id,
            "source": title,
            "group": sample.group,
            "split": split,
            "modality": sample.modality,
            "image": f"images/{sample.id}.png",
            "raw_label": sample.raw_label,
            "label": TAXONOMY.canonical(sample.raw_label or ""),
            "morphology": json.dumps(sample.morphology.to_json()),
            "annotation": json.dumps(sample.annotation.to_json()),
            "skin_tone": sample.skin_tone,
        }
        rows.append(dict.fromkeys(SAMPLES.names) | row)
    return rows


def write(folder: Path, rows: list[dict]) -> Path:
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows, SAMPLES), folder / "samples.parquet")
    manifest = {"layout": LAYOUT_VERSION, "settings": {"prompts": "brief"}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return [
        *phantom_rows(40, "phantoms", "test", seed=0),
        *phantom_rows(60, "more", "train", seed=1),
        *phantom_rows(30, "shifted", "benchmark", seed=2),
    ]


@pytest.fixture(scope="module")
def prepared(rows, tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("prepared") / "data", rows)


@pytest.fixture(scope="module")
def built(prepared):
    return build(prepared, TAXONOMY)


def test_phantoms_give_items_of_every_task_with_ids_of_their_own(built, prepared):
    assert list(built) == list(TASKS)
    assert all(items.items for items in built.values())
    ids = [item.id for items in built.values() for item in items.items]
    assert len(ids) == len(set(ids))
    for task, items in built.items():
        for item in items.items:
            assert item.task == task
            assert Path(item.images[0]).parent == prepared / "images"


def test_nothing_that_is_trained_on_is_asked_about(built, rows):
    groups = {
        split: {row["group"] for row in rows if row["split"] == split} for split in ("test", "train", "benchmark")
    }
    asked = {task: {item.facts.group for item in items.items} for task, items in built.items()}
    assert not any(seen & groups["train"] for seen in asked.values())
    for task in ("t2.1", "t2.3"):
        assert asked[task] == groups["test"]
    # there are 25 labels in all, so one that overlaps another is not asked about among 25
    label = {row["group"]: row["label"] for row in rows}
    left_out = {label[group] for group in groups["test"] - asked["t2.2"]}
    assert all(any(TAXONOMY.overlap(one, other) for other in set(label.values()) - {one}) for one in left_out)
    assert asked["t2.2"] < groups["test"]
    assert asked["t2.4"] == asked["t4"] == groups["benchmark"]
    assert asked["t1.1"] == asked["t3.2"] == groups["test"] | groups["benchmark"]


def test_references_are_the_truth_and_not_what_annotators_wrote(built, rows):
    truth = {row["group"]: Morphology.from_json(json.loads(row["morphology"])) for row in rows}
    for task in ("t1.2", "t3.2"):
        for item in built[task].items:
            assert agreement(comparison(item, item.reference)[0].morphology, truth[item.facts.group]) == 1.0
    for item in built["t1.3"].items:
        (question,) = item.questions
        assert question.answer == truth[item.facts.group].fields[item.facts.concept]
    for item in built["t1.4"].items:
        (question,) = item.questions
        assert set(question.options) & truth[item.facts.group].features == {item.facts.concept}


def test_attribute_tasks_ask_about_all_seven_fields_and_every_present_feature(built, rows):
    held_out = [json.loads(row["morphology"]) for row in rows if row["split"] != "train"]
    checklists = [value for value in held_out if DERM7PT_KEY in value]
    features = [feature for value in held_out for feature in value.get(SKINCON_KEY, [])]
    assert len(built["t1.3"].items) == 7 * len(checklists)
    assert sorted(item.facts.concept for item in built["t1.4"].items) == sorted(features)
    assert built["t1.3"].left_out == {"not_annotated": len(held_out) - len(checklists)}


def test_diagnoses_have_four_or_twenty_five_options_from_labels_they_are_told_apart_from(built, rows):
    trained = {row["label"] for row in rows if row["split"] != "benchmark"}
    shifted = {row["label"] for row in rows if row["split"] == "benchmark"}
    assert all(set(item.questions[0].options) <= trained for item in built["t2.1"].items)
    assert all(set(item.questions[0].options) <= shifted for item in built["t2.4"].items)
    assert {item.facts.subset for item in built["t2.4"].items} == {"shifted"}
    parents = {tuple(TAXONOMY.path(label)) for label in trained}
    for item in built["t2.2"].items:
        options = set(item.questions[0].options)
        assert len(options) == 25
        assert options >= trained
        assert not any(tuple(TAXONOMY.path(filler)) in parents for filler in options - trained)
    for task in ("t2.1", "t2.2", "t2.4", "t4"):
        for item in built[task].items:
            assert item.questions[0].answer == item.facts.label


def test_skin_tones_come_in_the_groups_of_ddi(built, rows):
    tone = {row["group"]: row["skin_tone"] for row in rows}
    names = {1: "12", 2: "12", 3: "34", 4: "34", 5: "56", 6: "56"}
    assert all(item.facts.skin_tone == names[tone[item.facts.group]] for item in built["t4"].items)
    assert len({item.facts.skin_tone for item in built["t4"].items}) == 3


def test_what_a_perfect_model_says_is_right_on_every_task_and_a_silent_one_scores_nothing(built):
    for task, spec in TASKS.items():
        if spec.scoring == "judge":
            continue
        items = built[task].items
        perfect = [Answer(item=item.id, texts=tuple(q.answer for q in item.questions)) for item in items]
        result = aggregate(items, score_all(items, perfect))
        assert (result.value, result.faults, result.unknown) == (1.0, {}, {})
        assert aggregate(items, score_all(items, [])).value == 0.0


def test_questions_are_worded_as_in_training(built, prepared):
    samples = {sample.id: sample for sample in stored_samples(pq.read_table(prepared / "samples.parquet"))}
    context = FormatContext("brief", TAXONOMY)
    for item in built["t3.2"].items[:5]:
        sample = samples[item.facts.group]
        (record,) = trajectories(replace(sample, annotation=sample.morphology), "morph_reasoning", context)
        assert prompt(item) == record.conversations[0].value
        assert item.reference == record.conversations[1].value


def test_items_depend_on_the_seed_and_on_nothing_else(prepared):
    first, again, other = (build(prepared, TAXONOMY, ["t2.1"], seed=seed)["t2.1"].items for seed in (0, 0, 1))
    assert first == again
    assert [item.questions for item in first] != [item.questions for item in other]


def test_a_limit_draws_items_of_each_data_set_and_keeps_their_order(prepared, built):
    few = build(prepared, TAXONOMY, ["t2.1", "t2.4"], limit=5)
    ids = [item.id for item in built["t2.1"].items]
    kept = [item.id for item in few["t2.1"].items]
    assert len(kept) == len(few["t2.4"].items) == 5
    assert kept == [name for name in ids if name in kept]
    assert kept != ids[:5]


def test_a_machine_made_text_is_a_reference_only_where_no_morphology_is_known_and_is_marked(rows, tmp_path):
    made = {
        "description": "A dark patch.",
        "reasoning": "Dark, so malignant.",
        "annotator": json.dumps({"description": {}}),
    }
    guessed = {"morphology": None, "annotation": json.dumps({SKINCON_KEY: ["Scar"]})}
    known, unknown = rows[0] | made, rows[1] | made | guessed
    built = build(write(tmp_path / "data", [known, unknown]), TAXONOMY, ["t1.1", "t1.2"])
    first, second = built["t1.1"].items
    assert first.reference != "A dark patch."
    assert first.facts.annotator is None
    assert second.reference == "A dark patch."
    assert second.facts.annotator is not None
    assert [item.facts.group for item in built["t1.2"].items] == [rows[0]["group"]]


def test_data_that_lack_what_a_task_asks_about_give_no_item(rows, tmp_path):
    bare = [row | {"label": None, "skin_tone": None} for row in rows if row["split"] == "test"]
    built = build(write(tmp_path / "data", bare), TAXONOMY)
    assert [task for task, items in built.items() if not items.items] == [
        "t2.1",
        "t2.2",
        "t2.3",
        "t2.4",
        "t3.1",
        "t3.2",
        "t4",
    ]
    assert built["t2.1"].left_out == {"not_annotated": len(bare)}
    assert built["t4"].left_out == {"no_skin_tone": len(bare)}
    with pytest.raises(UserError, match="no prepared folder"):
        build(tmp_path, TAXONOMY)
    (tmp_path / "manifest.json").write_text(json.dumps({"layout": LAYOUT_VERSION - 1}))
    with pytest.raises(UserError, match="another version"):
        build(tmp_path, TAXONOMY)


def test_a_diagnosis_without_a_known_morphology_is_a_reference_of_reasoning_by_itself(rows, tmp_path):
    drafted = json.dumps({DERM7PT_KEY: {"Streaks": "absent"}})
    real = [row | {"morphology": None, "annotation": drafted} for row in rows if row["split"] == "test"]
    built = build(write(tmp_path / "data", real), TAXONOMY, ["t1.2", "t3.1", "t3.2"])
    assert built["t1.2"].items == []
    samples = {sample.id: sample for sample in stored_samples(pq.read_table(tmp_path / "data/samples.parquet"))}
    for task, name in (("t3.1", "reasoning"), ("t3.2", "morph_reasoning")):
        assert len(built[task].items) == len(real)
        for item in built[task].items:
            assert item.reference == f"<final_diagnosis>{item.facts.label}</final_diagnosis>"
            assert item.facts.morphology is None
            (record,) = trajectories(
                replace(samples[item.facts.group], annotation=Morphology.from_json({SKINCON_KEY: ["Scar"]})),
                name,
                FormatContext("brief", TAXONOMY),
            )
            assert prompt(item) == record.conversations[0].value
    answers = [
        Response(item=item.id, method="greedy", texts=(item.reference,), steps=(STEP,)) for item in built["t3.2"].items
    ]
    scored = columns(built["t3.2"].items, answers, TAXONOMY)
    assert scored is not None
    assert len(scored.truth) == len(real)
    assert for_judge(open_answers(built["t3.2"].items, answers)) == []  # nothing to compare reasoning with


def test_items_of_some_sources_are_asked_about_and_told_apart_from_all_that_was_learnt(rows, tmp_path):
    others = [row | {"source": "ham10000", "group": f"ham-{row['group']}"} for row in phantom_rows(9, "b", "test", 5)]
    folder = write(tmp_path / "data", [*rows, *others])
    built = build(folder, TAXONOMY, ["t2.1", "t3.2", "t2.4"], sources=["ham10000"])
    assert {item.facts.group for item in built["t3.2"].items} == {row["group"] for row in others}
    assert built["t2.4"].items == []
    trained = {row["label"] for row in [*rows, *others] if row["split"] != "benchmark"}
    assert {option for item in built["t2.1"].items for option in item.questions[0].options} <= trained
    with pytest.raises(UserError, match=r"no held-out image of isic; it has those of ham10000, phantoms, shifted"):
        build(folder, TAXONOMY, ["t3.2"], sources=["isic", "ham10000"])
