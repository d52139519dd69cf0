"""How terms become a total: which of them apply, what they weigh, what the gate does, and what extra terms add."""

from pathlib import Path

import pytest
from reward_cases import CLINICAL, HONEST, MELANOMA, PSORIASIS, FakeConcepts, features, fields, write

from dermo_ray.config import RewardConfig
from dermo_ray.config.reward import FaultCosts, TermWeights
from dermo_ray.errors import UserError
from rewards import mavic_reward
from rewards.gates import GATES
from rewards.terms import TERMS

DEFAULT = RewardConfig()


def test_consistency_is_image_fit_times_diagnosis_fit_and_weighs_in_beside_the_rest() -> None:
    concepts = FakeConcepts(0.5, 0.8)

    reward = mavic_reward(write(fields(), "mel"), MELANOMA, DEFAULT, concepts)

    assert reward.terms["consistency"] == pytest.approx(0.4)
    assert reward.total == pytest.approx((0.2 + 0.3 + 0.1 + 0.4 + 0.2 * 0.4) / 1.2)
    assert concepts.labels == ["Melanoma"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        write(fields(), "Sparkle"),
        write(fields(), ""),
        write(features("Black"), "Melanoma"),
        write("{}", "Melanoma"),
    ],
    ids=["nothing", "unknown label", "no label", "wrong schema", "no morphology"],
)
def test_consistency_is_0_where_there_is_nothing_to_be_consistent(text: str) -> None:
    assert mavic_reward(text, MELANOMA, DEFAULT, FakeConcepts(1.0, 1.0)).terms["consistency"] == 0.0


def test_without_annotation_consistency_is_the_anchor() -> None:
    truth = MELANOMA.model_copy(update={"morph": None})

    reward = mavic_reward(HONEST, truth, DEFAULT, FakeConcepts(0.5, 0.5))

    assert set(reward.terms) == {"format", "diagnosis", "taxonomy", "consistency"}
    assert reward.gate == 0.5
    assert reward.total == pytest.approx((0.2 + 0.5 * (0.3 + 0.1) + 0.2 * 0.25) / 0.8)


def test_with_annotation_consistency_does_not_open_the_gate() -> None:
    assert mavic_reward(write(fields(7), "Melanoma"), MELANOMA, DEFAULT, FakeConcepts(1.0, 1.0)).gate == 0.0


def test_without_annotation_and_concept_model_the_gate_is_open_and_three_terms_share_the_weight() -> None:
    truth = MELANOMA.model_copy(update={"morph": None})

    reward = mavic_reward(write(fields(7), "Basal Cell Carcinoma"), truth, DEFAULT)

    assert reward.weights == pytest.approx({"format": 2 / 6, "diagnosis": 3 / 6, "taxonomy": 1 / 6})
    assert (reward.gate, reward.total) == pytest.approx((1.0, 2 / 6 + 4 / 36))


def test_without_a_reference_label_there_is_nothing_to_diagnose() -> None:
    reward = mavic_reward(HONEST, MELANOMA.model_copy(update={"final_label": None}), DEFAULT)

    assert reward.weights == pytest.approx({"format": 2 / 6, "morphology": 4 / 6})
    assert (reward.total, reward.gated) == (1.0, frozenset())


def test_a_reference_outside_the_tree_is_compared_by_its_letters_and_has_no_closeness() -> None:
    truth = MELANOMA.model_copy(update={"final_label": "Sparkle Disease"})

    right, wrong = (mavic_reward(write(fields(), label), truth, DEFAULT) for label in ("sparkle-disease", "Sparkle"))

    assert right.terms == {"format": 1.0, "diagnosis": 1.0, "morphology": 1.0}
    assert wrong.terms["diagnosis"] == 0.0


def test_task1_has_no_diagnosis_and_consistency_is_image_fit_alone() -> None:
    truth = PSORIASIS.model_copy(update={"task": "task1"})
    text = f"<morph>{features('Plaque')}</morph>\nA plaque."

    assert mavic_reward(text, truth, DEFAULT).terms == pytest.approx({"format": 1.0, "morphology": 2 / 3})
    reward = mavic_reward(text, truth, DEFAULT, FakeConcepts(0.5, 0.1))
    assert reward.terms == pytest.approx({"format": 1.0, "morphology": 2 / 3, "consistency": 0.5})
    assert reward.total == pytest.approx((0.2 + 0.8 / 3 + 0.1) / 0.8)
    assert reward.gate == 1.0


def test_the_layout_of_the_other_task_earns_little() -> None:
    truth = PSORIASIS.model_copy(update={"task": "task1"})

    assert mavic_reward(CLINICAL, truth, DEFAULT).faults == ("missing_block", "text_outside")
    assert mavic_reward(f"<morph>{features('Plaque')}</morph>\nA plaque.", PSORIASIS, DEFAULT).terms["format"] == 0.0


def test_gate_none_pays_for_a_name_without_morphology() -> None:
    config = RewardConfig(gate="none")

    assert mavic_reward(write(fields(7), "Melanoma"), MELANOMA, config).total == pytest.approx(0.6)


def test_gate_schema_silences_consistency_of_the_wrong_schema_and_nothing_else() -> None:
    config = RewardConfig(gate="schema")

    wrong = mavic_reward(write(features("Black"), "Melanoma"), MELANOMA, config)
    right = mavic_reward(write(fields(7), "Melanoma"), MELANOMA, config)

    assert (wrong.gate, wrong.total) == pytest.approx((0.0, 0.1 + 0.4))
    assert wrong.gated == {"morphology"}
    assert (right.gate, right.total) == pytest.approx((1.0, 0.6))


def test_tau_sets_where_the_gate_is_open() -> None:
    text = write(fields(4), "Melanoma")

    assert mavic_reward(text, MELANOMA, RewardConfig(tau=1.0)).gate == pytest.approx(3 / 7)
    assert mavic_reward(text, MELANOMA, RewardConfig(tau=0.4)).gate == 1.0


def test_weights_and_fault_costs_are_settings() -> None:
    config = RewardConfig(weights=TermWeights(format=1, diagnosis=0, taxonomy=0, morphology=0, consistency=0))
    harsh = config.model_copy(update={"faults": FaultCosts(text_outside=0.9)})

    assert mavic_reward(HONEST + "!", MELANOMA, config).total == pytest.approx(0.8)
    assert mavic_reward(HONEST + "!", MELANOMA, harsh).total == pytest.approx(0.1)


def test_a_total_is_0_where_no_applicable_term_has_a_weight() -> None:
    config = RewardConfig(weights=TermWeights(format=0, diagnosis=1, taxonomy=0, morphology=0, consistency=0))

    assert mavic_reward(CLINICAL, PSORIASIS.model_copy(update={"task": "task1"}), config).total == 0.0


@pytest.mark.parametrize("fit", [float("nan"), 1.5, -0.1, float("inf")])
def test_a_concept_model_that_leaves_the_unit_interval_is_an_error(fit: float) -> None:
    with pytest.raises(ValueError, match="consistency must lie in"):
        mavic_reward(HONEST, MELANOMA, DEFAULT, FakeConcepts(fit, 1.0))


def test_a_tree_of_ones_own_decides_synonyms_and_closeness(tmp_path: Path) -> None:
    path = tmp_path / "tree.yaml"
    path.write_text("Skin:\n  Melanoma: [Black Spot]\n  Psoriasis: []\n")
    config = RewardConfig(taxonomy=path)

    assert mavic_reward(write(fields(), "black spot"), MELANOMA, config).total == 1.0
    assert mavic_reward(write(fields(), "Psoriasis"), MELANOMA, config).terms["taxonomy"] == 0.5
    with pytest.raises(UserError, match=r"absent\.yaml"):
        mavic_reward(HONEST, MELANOMA, RewardConfig(taxonomy=tmp_path / "absent.yaml"))


def test_terms_gates_and_their_settings_go_by_the_same_names() -> None:
    assert set(TERMS) == set(TermWeights.model_fields)
    assert set(GATES) == {"anchor", "schema", "none"}
