"""Task formats: which records a sample's annotations allow, and what they say."""

from dataclasses import replace

import pytest

from dermo_ray.completion import parse
from dermo_ray.data.formats import rl_prompt, trajectory
from dermo_ray.data.samples import StoredSample
from dermo_ray.data.wording import description, findings, reasoning
from dermo_ray.morphology import DERM7PT_FIELDS, Morphology
from dermo_ray.prompts import prompt
from dermo_ray.taxonomy import Taxonomy

TAXONOMY = Taxonomy.load()
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
LABEL_ALONE = replace(ANNOTATED, morphology=None, annotation=None)
MORPHOLOGY_ALONE = replace(ANNOTATED, label=None)


def test_supervised_targets_say_what_the_annotator_wrote_and_rewards_know_the_truth():
    turns = trajectory(ANNOTATED, "morph_reasoning", "brief").conversations
    completion = parse(turns[1].value, "task3")
    assert completion.morphology == WRITTEN
    assert completion.diagnosis == "Melanoma"
    truth = rl_prompt(ANNOTATED, "task3", "brief", TAXONOMY).ground_truth
    assert truth.morphology == TRUTH
    assert truth.taxon_path == TAXONOMY.path("Melanoma")


@pytest.mark.parametrize(
    ("name", "task"), [("morph_reasoning", "task3"), ("morph_description", "task1"), ("diagnosis", "diagnosis")]
)
def test_a_conversation_asks_with_the_prompt_of_its_task_and_answers_without_a_fault(name, task):
    turns = trajectory(ANNOTATED, name, "full").conversations
    assert [turn.from_ for turn in turns] == ["human", "gpt"]
    assert turns[0].value == prompt("full", task, "dermoscopic")
    if task == "diagnosis":
        assert turns[1].value == "<final_diagnosis>Melanoma</final_diagnosis>"
    else:
        assert parse(turns[1].value, task).faults == ()


def test_annotations_decide_which_records_there_are():
    def formats(sample):
        names = ("morph_reasoning", "morph_description", "diagnosis")
        return [name for name in names if trajectory(sample, name, "brief")]

    def tasks(sample):
        return [task for task in ("task1", "task3") if rl_prompt(sample, task, "brief", TAXONOMY)]

    assert formats(ANNOTATED) == ["morph_reasoning", "morph_description", "diagnosis"]
    assert formats(LABEL_ALONE) == ["diagnosis"]
    assert formats(MORPHOLOGY_ALONE) == ["morph_description"]
    assert tasks(ANNOTATED) == ["task1", "task3"]
    assert tasks(LABEL_ALONE) == ["task3"]
    assert tasks(MORPHOLOGY_ALONE) == ["task1"]


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
    assert parse(f"<reasoning>{reasoning(ABSENT)}</reasoning>", "task3").reasoning
    assert description(Morphology("skincon"), "clinical").startswith("Clinical image")
