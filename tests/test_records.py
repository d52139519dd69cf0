"""Records read the released shapes, refuse others, and come back equal from JSON."""

import json

import pytest
from pydantic import ValidationError

from dermo_ray.morphology import DERM7PT_FIELDS, Morphology
from dermo_ray.records import GroundTruth, RLPrompt, Trajectory, Turn

RELEASED = {
    "task": "task1",
    "modality": "dermoscopic",
    "final_label": "Nevus / Mole / Melanocytic Nevus",
    "taxon_path": [
        "Neoplasms & Proliferations",
        "Benign Tumors, Growths & Cysts",
        "Melanocytic Lesions (Nevi/Moles)",
    ],
    "morph": {
        "morphological_features_Derm7pt": {
            "Pigment Network": "absent",
            "Blue Whitish Veil": "absent",
            "Vascular Structures": "absent",
            "Pigmentation": "localized irregular",
            "Streaks": "absent",
            "Dots and Globules": "irregular",
            "Regression Structures": "absent",
        }
    },
}


def test_a_released_ground_truth_reads_and_writes_unchanged() -> None:
    truth = GroundTruth.model_validate(RELEASED)

    assert truth.model_dump() == RELEASED
    assert truth.morphology is not None
    assert truth.morphology.fields["Dots and Globules"] == "irregular"


def test_a_reference_in_snake_case_is_kept_in_title_case() -> None:
    snake = {name.lower().replace(" ", "_"): values[0] for name, values in DERM7PT_FIELDS.items()}

    truth = GroundTruth(task="task3", modality="dermoscopic", morph={"morphological_features_Derm7pt": snake})

    assert truth.morph == {
        "morphological_features_Derm7pt": {name: values[0] for name, values in DERM7PT_FIELDS.items()}
    }


def test_a_reference_without_annotation_has_no_morphology() -> None:
    truth = GroundTruth(task="task3", modality="clinical", final_label="Psoriasis")

    assert (truth.morph, truth.morphology, truth.taxon_path) == (None, None, [])


@pytest.mark.parametrize(
    "change",
    [
        {"task": "task2"},
        {"modality": "xray"},
        {"morph": {}},
        {"morph": {"features": []}},
        {"morph": {"morphological_features_skincon": {}}},
        {"note": "free text"},
    ],
)
def test_a_ground_truth_of_another_shape_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        GroundTruth.model_validate(RELEASED | change)


def test_a_ground_truth_cannot_be_changed() -> None:
    truth = GroundTruth.model_validate(RELEASED)

    with pytest.raises(ValidationError, match="frozen"):
        truth.task = "task3"  # type: ignore[misc]


def test_a_turn_goes_by_the_released_key_from() -> None:
    turn = Turn.model_validate({"from": "human", "value": "<image>\nWhat is this?"})

    assert turn.from_ == "human"
    assert turn.model_dump(by_alias=True) == {"from": "human", "value": "<image>\nWhat is this?"}
    with pytest.raises(ValidationError):
        Turn.model_validate({"from": "system", "value": ""})


def test_a_trajectory_and_a_prompt_come_back_equal_from_json() -> None:
    shared = {"id": "a", "image": "images/a.png", "source": "phantom", "group": "lesion-1"}
    turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "A nevus."}]
    trajectory = Trajectory.model_validate({**shared, "format": "reasoning", "conversations": turns})
    prompt = RLPrompt.model_validate({**shared, "prompt": "<image>", "ground_truth": RELEASED})

    for record in (trajectory, prompt):
        assert type(record).model_validate(json.loads(record.model_dump_json(by_alias=True))) == record
    assert trajectory.model_dump(by_alias=True)["conversations"] == turns


def test_the_morphology_of_a_record_is_the_one_given() -> None:
    morphology = Morphology("skincon", features=frozenset({"Plaque", "Scale"}))

    truth = GroundTruth(task="task3", modality="clinical", morph=morphology.to_json())

    assert truth.morphology == morphology
