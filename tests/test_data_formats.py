"""Task formats: which records a sample's annotations allow, and what they say."""

import json
import re
from collections import Counter
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from dermo_ray.completion import parse
from dermo_ray.data.formats import FormatContext, rl_prompt, trajectories
from dermo_ray.data.samples import StoredSample
from dermo_ray.data.wording import description, findings, is_free_text, reasoning
from dermo_ray.morphology import DERM7PT_FIELDS, SKINCON_FEATURES, Morphology
from dermo_ray.prompts import prompt
from dermo_ray.records import Format
from dermo_ray.taxonomy import Leaf, Taxonomy

TAXONOMY = Taxonomy(
    [
        Leaf(label, ("Neoplasms", kind))
        for kind, labels in (
            ("Malignant", ("Melanoma", "Basal Cell Carcinoma", "Squamous Cell Carcinoma")),
            ("Benign", ("Melanocytic Nevus", "Dermatofibroma", *(f"Rare Nevus {number}" for number in range(9)))),
        )
        for label in labels
    ]
    + [Leaf(f"Eczema {number}", ("Inflammation", "Dermatitis")) for number in range(15)]
)
BRIEF = FormatContext("brief", TAXONOMY, TAXONOMY.labels)
FULL = replace(BRIEF, style="full")
ABSENT = Morphology("derm7pt", fields=dict.fromkeys(DERM7PT_FIELDS, "absent"))
TRUTH = replace(ABSENT, fields={**ABSENT.fields, "Pigment Network": "atypical", "Blue Whitish Veil": "present"})
WRITTEN = replace(ABSENT, fields={**ABSENT.fields, "Pigment Network": "typical"})
ANNOTATED = StoredSample(
    id="phantoms_1",
    source="phantoms",
    group="phantoms_1",
    modality="dermoscopic",
    image="images/ab/cd.png",
    label="Melanoma",
    morphology=TRUTH,
    annotation=WRITTEN,
)
SCALY = Morphology("skincon", frozenset({"Scale", "Plaque"}))
CLINICAL = replace(ANNOTATED, modality="clinical", morphology=SCALY, annotation=SCALY)
LABEL_ALONE = replace(ANNOTATED, morphology=None, annotation=None)
MORPHOLOGY_ALONE = replace(ANNOTATED, label=None)
TOLD = replace(
    LABEL_ALONE,
    description="A dark, uneven patch.",
    reasoning="It is uneven, so it is malignant.",
    annotator=json.dumps({"description": {"model": "one"}, "reasoning": {"model": "two"}}),
)

LABEL_FORMATS = {"diagnosis", "diagnosis_choice_4", "diagnosis_choice_25", "hierarchy"}
MORPHOLOGY_FORMATS = {"description", "morph_description", "attribute_choice"}


def only(sample: StoredSample, name: Format, context: FormatContext = BRIEF) -> tuple[str, str]:
    """Question and answer of the one record with one exchange."""
    (record,) = trajectories(sample, name, context)
    question, answer = record.conversations
    return question.value, answer.value


def makers(sample: StoredSample) -> dict[Format, list[str]]:
    """The models behind the machine-made parts of each format's records, where there are any."""
    records = {name: trajectories(sample, name, BRIEF)[0] for name in get_args(Format)}
    made = {name: json.loads(record.annotator) for name, record in records.items() if record.annotator}
    return {name: [source["model"] for source in parts.values()] for name, parts in made.items()}


def lettered(question: str) -> dict[str, str]:
    return dict(re.findall(r"^([A-Z])\) (.+)$", question, re.MULTILINE))


def test_supervised_targets_say_what_the_annotator_wrote_and_rewards_know_the_truth():
    completion = parse(only(ANNOTATED, "morph_reasoning")[1], "task3")
    assert completion.morphology == WRITTEN
    assert completion.diagnosis == "Melanoma"
    truth = rl_prompt(ANNOTATED, "task3", "brief", TAXONOMY).ground_truth
    assert truth.morphology == TRUTH
    assert truth.taxon_path == TAXONOMY.path("Melanoma")


@pytest.mark.parametrize(
    ("name", "task"), [("morph_reasoning", "task3"), ("morph_description", "task1"), ("diagnosis", "diagnosis")]
)
def test_the_brief_style_asks_with_its_one_prompt_and_the_answer_has_no_fault(name, task):
    question, answer = only(ANNOTATED, name)
    assert question == prompt("brief", task, "dermoscopic")
    if task == "diagnosis":
        assert answer == "<final_diagnosis>Melanoma</final_diagnosis>"
    else:
        assert parse(answer, task).faults == ()


@pytest.mark.parametrize("name", get_args(Format))
def test_the_full_style_varies_its_wording_over_samples_and_keeps_it_for_one(name):
    def first_line(number):
        question = trajectories(replace(ANNOTATED, id=f"phantoms_{number}"), name, FULL)[0].conversations[0].value
        return question.splitlines()[1].partition(":")[0]

    assert len({first_line(number) for number in range(60)}) >= 3
    assert first_line(0) == first_line(0)


@pytest.mark.parametrize(
    ("sample", "formats", "tasks"),
    [
        (ANNOTATED, set(get_args(Format)), {"task1", "task3"}),
        (CLINICAL, set(get_args(Format)), {"task1", "task3"}),
        (LABEL_ALONE, LABEL_FORMATS, {"task3"}),
        (MORPHOLOGY_ALONE, MORPHOLOGY_FORMATS, {"task1"}),
        (TOLD, LABEL_FORMATS | {"description", "reasoning"}, {"task3"}),
    ],
)
def test_annotations_decide_which_records_there_are(sample, formats, tasks):
    assert {name for name in get_args(Format) if trajectories(sample, name, BRIEF)} == formats
    assert {task for task in ("task1", "task3") if rl_prompt(sample, task, "brief", TAXONOMY)} == tasks


@pytest.mark.parametrize("sample", [ANNOTATED, CLINICAL, TOLD])
@pytest.mark.parametrize("context", [BRIEF, FULL])
def test_records_alternate_turns_mark_the_image_first_and_have_ids_of_their_own(sample, context):
    records = [record for name in get_args(Format) for record in trajectories(sample, name, context)]
    assert len({record.id for record in records}) == len(records)
    for record in records:
        assert record.id.startswith(f"{record.format}_")
        assert record.id.endswith(f"_{sample.id}")
        text = "".join(turn.value for turn in record.conversations)
        assert record.conversations[0].value.startswith("<image>\n")
        assert text.count("<image>") == 1
        assert "$" not in text
        assert [turn.from_ for turn in record.conversations] == ["human", "gpt"] * (len(record.conversations) // 2)


def test_reasoning_without_morphology_lacks_that_block_alone():
    completion = parse(only(ANNOTATED, "reasoning")[1], "task3")
    assert completion.faults == ("missing_block",)
    assert (completion.reasoning, completion.diagnosis) == (reasoning(WRITTEN), "Melanoma")


def test_a_teachers_words_take_the_place_of_ours_and_the_records_that_hold_them_say_so():
    told = replace(TOLD, annotation=WRITTEN, morphology=WRITTEN)
    assert only(told, "description")[1] == TOLD.description
    assert parse(only(told, "morph_description")[1], "task1").description == TOLD.description
    assert parse(only(told, "morph_reasoning")[1], "task3").reasoning == TOLD.reasoning
    parts = {"description": "one", "morph_description": "one", "reasoning": "two", "morph_reasoning": "two"}
    assert makers(told) == {name: [model] for name, model in parts.items()}
    machine = replace(told, annotator=json.dumps({"morphology": {"model": "three"}}), description=None, reasoning=None)
    assert makers(machine) == {name: ["three"] for name in [*parts, "attribute_choice"]}
    assert makers(ANNOTATED) == {}


@pytest.mark.parametrize("text", ["", "  ", "see <morph>", "a </reasoning> b", "<image> shows", "<|image_pad|>", "..."])
def test_free_text_that_would_break_a_completion_is_refused(text):
    assert not is_free_text(text)
    with pytest.raises(ValueError, match="phantoms_1: no completion can hold"):
        trajectories(replace(TOLD, description=text), "description", BRIEF)
    with pytest.raises(ValueError, match="phantoms_1: no completion can hold"):
        trajectories(replace(TOLD, reasoning=text), "reasoning", BRIEF)


def test_each_derm7pt_field_is_a_question_about_all_of_its_values():
    records = trajectories(ANNOTATED, "attribute_choice", FULL)
    codes = ["pn", "bwv", "vs", "pig", "str", "dag", "rs"]
    assert [record.id for record in records] == [f"attribute_choice_{code}_phantoms_1" for code in codes]
    for record, (name, value) in zip(records, WRITTEN.fields.items(), strict=True):
        question, answer = (turn.value for turn in record.conversations)
        assert name.lower() in question
        assert sorted(lettered(question).values()) == sorted(DERM7PT_FIELDS[name])
        assert lettered(question)[answer[0]] == answer[3:] == value


@settings(max_examples=200, deadline=None)
@given(st.frozensets(st.sampled_from(SKINCON_FEATURES)), st.integers(0, 4))
def test_of_four_skincon_options_the_answer_alone_is_present(features, asked):
    sample = replace(CLINICAL, annotation=Morphology("skincon", features))
    records = trajectories(sample, "attribute_choice", replace(BRIEF, features_per_image=asked))
    enough = len(SKINCON_FEATURES) - len(features) >= 3
    assert len(records) == (min(asked, len(features)) if enough else 0)
    assert len({record.conversations[1].value[3:] for record in records}) == len(records)
    for record in records:
        options = lettered(record.conversations[0].value)
        answer = record.conversations[1].value
        assert len(set(options.values())) == 4
        assert set(options.values()) & features == {answer[3:]}
        assert options[answer[0]] == answer[3:]


def wide_tree(leaves_below: list[int]) -> Taxonomy:
    """Subclasses of two superclasses with that many leaves each."""
    return Taxonomy(
        [
            Leaf(
                f"leaf {subclass} {number}",
                (f"super {subclass % 2}", f"sub {subclass}"),
                (f"other {subclass} {number}",),
            )
            for subclass, leaves in enumerate(leaves_below)
            for number in range(leaves)
        ]
    )


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=9), st.sampled_from([4, 25]), st.data())
def test_wrong_diagnoses_are_distinct_and_no_nearer_label_is_left_out(leaves_below, count, data):
    tree = wide_tree(leaves_below)
    right = data.draw(st.sampled_from(tree.labels))
    corpus = {*data.draw(st.lists(st.sampled_from(tree.labels))), right}
    synonyms = (right.replace("leaf", "other"), right.upper())
    context = FormatContext("full", tree, (*corpus, *synonyms), seed=data.draw(st.integers(0, 9)))

    records = trajectories(replace(LABEL_ALONE, label=right), f"diagnosis_choice_{count}", context)

    assert len(records) == (len(corpus) >= count)
    for record in records:
        question, answer = (turn.value for turn in record.conversations)
        options = lettered(question)
        assert list(options) == [chr(ord("A") + place) for place in range(count)]
        assert len(set(options.values())) == count
        assert set(options.values()) <= corpus
        assert options[answer[0]] == answer[3:] == right
        chosen = [tree.similarity(right, other) for other in options.values()]
        left_out = [tree.similarity(right, other) for other in corpus - set(options.values())]
        assert min(chosen) >= max(left_out, default=0)


@pytest.mark.parametrize("label", ["Compound Nevus", "Melanocytic Nevus", "Nodular Melanoma", "Tinea Pedis"])
def test_no_wrong_diagnosis_is_right_as_well(label):
    tree = Taxonomy.load()
    context = replace(FULL, taxonomy=tree, labels=tree.labels)
    for number in range(20):
        question, answer = only(replace(ANNOTATED, label=label, id=f"s_{number}"), "diagnosis_choice_25", context)
        wrong = set(lettered(question).values()) - {answer[3:]}
        assert len(wrong) == 24
        assert not any(tree.overlap(label, other) for other in wrong)


def test_a_diagnosis_choice_does_not_depend_on_the_order_in_which_labels_are_listed():
    backwards = replace(FULL, labels=TAXONOMY.labels[::-1])
    assert only(ANNOTATED, "diagnosis_choice_4", FULL) == only(ANNOTATED, "diagnosis_choice_4", backwards)


@pytest.mark.parametrize(("name", "count"), [("diagnosis_choice_4", 4), ("diagnosis_choice_25", 25)])
def test_answers_stand_at_every_place_equally_often(name, count):
    tree = wide_tree([5] * 9)
    context = FormatContext("full", tree, tree.labels)
    samples = (replace(LABEL_ALONE, id=f"s_{n}", label=tree.labels[n % len(tree.labels)]) for n in range(2_000))
    places = Counter(only(sample, name, context)[1][0] for sample in samples)
    assert len(places) == count
    assert chisquare(list(places.values())).pvalue > 0.01


def test_the_seed_and_the_sample_decide_the_options():
    def asked(number, seed):
        return only(replace(ANNOTATED, id=f"s_{number}"), "diagnosis_choice_4", replace(FULL, seed=seed))

    assert asked(0, 0) == asked(0, 0)
    assert asked(0, 0) != asked(1, 0)
    assert asked(0, 0) != asked(0, 1)


paths = st.lists(st.sampled_from(["Aa", "Bb, Cc & Dd", "Ee"]), max_size=3).map(tuple)
trees = st.lists(paths, min_size=1, max_size=12).map(
    lambda found: Taxonomy([Leaf(f"leaf {number}", path) for number, path in enumerate(found)])
)


@settings(max_examples=200, deadline=None)
@given(trees, st.data())
def test_the_answers_of_a_hierarchy_lead_to_the_leaf(tree, data):
    label = data.draw(st.sampled_from(tree.labels))
    places = {other: (*tree.path(other), other) for other in tree.labels}
    remaining = set(tree.labels)
    depth = 0

    for record in trajectories(replace(LABEL_ALONE, label=label), "hierarchy", FormatContext("full", tree)):
        turns = [turn.value for turn in record.conversations]
        for question, answer in zip(turns[::2], turns[1::2], strict=True):
            while len({places[other][depth] for other in remaining}) == 1:
                depth += 1
            options = re.findall(r'"([^"]*)"', question)
            assert len(options) == len(set(options)) > 1
            assert set(options) == {places[other][depth] for other in remaining}
            remaining = {other for other in remaining if places[other][depth] == answer}
            depth += 1

    assert remaining == {label}


def test_a_hierarchy_passes_over_levels_without_a_choice_and_ends_at_the_leaves():
    tree = Taxonomy([Leaf("x", ("A", "B")), Leaf("y", ("A", "B")), Leaf("z", ("C",))])
    sample = replace(LABEL_ALONE, label="x")
    (record,) = trajectories(sample, "hierarchy", FormatContext("full", tree))
    first, group, last, leaf = (turn.value for turn in record.conversations)
    assert (group, leaf) == ("A", "x")
    assert set(re.findall(r'"([^"]*)"', first)) == {"A", "C"}
    assert set(re.findall(r'"([^"]*)"', last)) == {"x", "y"}
    (short,) = trajectories(replace(sample, label="z"), "hierarchy", FormatContext("full", tree))
    assert [turn.value for turn in short.conversations][1:] == ["C"]
    assert trajectories(sample, "hierarchy", FormatContext("full", Taxonomy([Leaf("x", ("A", "B"))]))) == []


def test_a_question_of_a_hierarchy_is_the_same_whether_a_leaf_or_a_category_answers_it():
    tree = Taxonomy([Leaf("w", ("C",)), Leaf("x", ("A",)), Leaf("y", ("A", "B")), Leaf("z", ("A", "B"))])

    def first_two(label):
        (record,) = trajectories(replace(LABEL_ALONE, label=label), "hierarchy", FormatContext("full", tree))
        return [turn.value for turn in record.conversations if turn.from_ == "human"][:2]

    assert first_two("x") == first_two("y")


def test_a_sentence_names_the_findings_that_are_not_absent():
    fields = {**TRUTH.fields, "Vascular Structures": "dotted", "Regression Structures": "combinations"}
    assert findings(replace(TRUTH, fields=fields)) == [
        "atypical pigment network",
        "blue whitish veil",
        "dotted vessels",
        "regression with blue and white areas",
    ]
    assert findings(Morphology("skincon", features=frozenset({"White(Hypopigmentation)", "Scale"}))) == [
        "scale",
        "white (hypopigmentation)",
    ]
    assert "typical pigment network" in reasoning(WRITTEN)


def test_a_sentence_about_nothing_is_still_a_sentence():
    assert is_free_text(reasoning(ABSENT))
    assert description(Morphology("skincon"), "clinical").startswith("Clinical image")
