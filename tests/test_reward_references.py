"""References that a reward can't compare with: partial annotations, another schema, labels from another tree."""

from pathlib import Path

import pytest
from reward_cases import FIELDS, HONEST, MELANOMA, PSORIASIS

from dermo_ray.config import RewardConfig
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.data.formats.rl import rl_prompt
from dermo_ray.data.samples import StoredSample
from dermo_ray.errors import UserError
from dermo_ray.morphology import Morphology
from dermo_ray.records import GroundTruth
from dermo_ray.taxonomy import Taxonomy
from jobs import mavic
from rewards import mavic_reward
from rewards.check import check_references

PARTIAL = {"morphological_features_Derm7pt": dict(list(FIELDS.items())[:4])}
UNPLACED = {"morphological_features_Derm7pt": {**FIELDS, "Streaks": "wavy"}}
OTHER_SCHEMA = {"morphological_features_skincon": ["Plaque"]}
TREE = "Neoplastic:\n  Benign:\n    Wart: []\n    Mole: []\n"


@pytest.mark.parametrize("morph", [PARTIAL, UNPLACED, OTHER_SCHEMA], ids=["partial", "unknown value", "other schema"])
def test_a_reference_that_no_completion_could_match_counts_as_none(morph: dict[str, object]) -> None:
    truth = MELANOMA.model_copy(update={"morph": morph})

    reward = mavic_reward(HONEST, truth, RewardConfig())

    assert "morphology" not in reward.terms
    assert reward.total == 1.0
    assert truth.morphology is not None  # what the record says stays there to be read


def test_a_whole_reference_still_counts() -> None:
    assert mavic_reward(HONEST, MELANOMA, RewardConfig()).terms["morphology"] == 1.0


def test_a_partial_annotation_makes_no_prompt_that_asks_for_morphology_alone() -> None:
    partial = StoredSample(
        "s", "s", "g", "dermoscopic", "a.png", "Melanoma", Morphology.from_json(PARTIAL), Morphology.from_json(PARTIAL)
    )

    assert rl_prompt(partial, "task1", "brief", Taxonomy.load()) is None
    prompt = rl_prompt(partial, "task3", "brief", Taxonomy.load())
    assert prompt is not None
    assert prompt.ground_truth.morph == PARTIAL


def test_labels_outside_the_tree_and_partial_references_are_counted_in_a_line_each() -> None:
    stranger = PSORIASIS.model_copy(update={"final_label": "Morbus Ignotus"})
    partial = MELANOMA.model_copy(update={"morph": PARTIAL})

    told = list(check_references([MELANOMA, PSORIASIS, stranger, partial], RewardConfig()))

    assert [line.partition(":")[0] for line in told] == [
        "1 of 4 prompts have a label that is not in the diagnosis tree, such as 'Morbus Ignotus'",
        "1 of 4 prompts have a morphology that lacks a Derm7pt field or is in the schema of the other modality",
    ]
    assert list(check_references([MELANOMA, PSORIASIS], RewardConfig())) == []


def test_a_tree_that_has_none_of_the_labels_is_refused_unless_closeness_has_no_weight(tmp_path: Path) -> None:
    (tmp_path / "tree.yaml").write_text(TREE)
    config = RewardConfig(taxonomy=tmp_path / "tree.yaml")

    with pytest.raises(UserError, match=r"none of the labels of 2 prompts .* such as 'Melanoma', 'Psoriasis'"):
        list(check_references([MELANOMA, PSORIASIS], config))
    without = RewardConfig(taxonomy=tmp_path / "tree.yaml", weights={"taxonomy": 0})
    assert len(list(check_references([MELANOMA, PSORIASIS], without))) == 1
    unlabelled = GroundTruth(task="task1", modality="clinical", morph=PSORIASIS.morph)
    assert list(check_references([unlabelled], config)) == []


def test_a_run_whose_labels_are_of_another_tree_does_not_start(small_corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "tree.yaml").write_text(TREE)
    settings = {"run": tmp_path / "run", "data": small_corpus, "model": {"path": "absent"}}
    config = MavicConfig.model_validate({**settings, "reward": {"taxonomy": tmp_path / "tree.yaml"}})

    with pytest.raises(UserError, match="is in the diagnosis tree, such as"):
        mavic.run(config)
    assert not (tmp_path / "run").exists()
