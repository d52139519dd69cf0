"""The default reward, case by case, as a person works it out with pencil and paper.

Weights: format 0.2, diagnosis 0.3, taxonomy 0.1, morphology 0.4, which sum to 1 for task3 and to 0.6 for task1; gate
`anchor` with tau 0.5, that is min(1, 2 * morphology) on diagnosis and taxonomy. The working of a case reads
0.2 * format + gate * (0.3 * diagnosis + 0.1 * taxonomy) + 0.4 * morphology, task1 0.2 / 0.6 * format + 0.4 / 0.6 * m.
"""

import pytest
from reward_cases import CLINICAL, HONEST, MELANOMA, PSORIASIS, describe, features, fields, write

from dermo_ray.config import RewardConfig
from dermo_ray.config.reward import FaultCosts
from dermo_ray.morphology import SKINCON_FEATURES
from dermo_ray.records import GroundTruth
from rewards import mavic_reward

UNANNOTATED = MELANOMA.model_copy(update={"morph": None})
UNLABELLED = MELANOMA.model_copy(update={"final_label": None})
NEITHER = MELANOMA.model_copy(update={"final_label": None, "morph": None})
NOTHING_TO_SEE = PSORIASIS.model_copy(update={"morph": {"morphological_features_skincon": []}})
DESCRIBED = PSORIASIS.model_copy(update={"task": "task1"})
DESCRIBED_MELANOMA = MELANOMA.model_copy(update={"task": "task1"})

Case = tuple[str, GroundTruth, dict[str, float], str, tuple[str, ...]]


def terms(format: float, diagnosis: float, taxonomy: float, morphology: float) -> dict[str, float]:
    return {"format": format, "diagnosis": diagnosis, "taxonomy": taxonomy, "morphology": morphology}


def two(format: float, morphology: float) -> dict[str, float]:
    return {"format": format, "morphology": morphology}


# name: (text, reference, terms, working = total, faults)
CASES: dict[str, Case] = {
    # The diagnosis: one label, by any of its names, compared in the tree.
    "all right": (HONEST, MELANOMA, terms(1, 1, 1, 1), "0.2*1 + 1*(0.3*1 + 0.1*1) + 0.4*1 = 1", ()),
    "a synonym, spelt freely": (
        write(fields(), "malignant MELANOMA."), MELANOMA, terms(1, 1, 1, 1), "0.2 + 0.4 + 0.4 = 1", (),
    ),
    "a code of HAM10000": (write(fields(), "mel"), MELANOMA, terms(1, 1, 1, 1), "0.2 + 0.4 + 0.4 = 1", ()),
    "a label of the same subclass: 4 of 3 + 3 levels shared": (
        write(fields(), "Basal Cell Carcinoma"), MELANOMA, terms(1, 0, 4 / 6, 1),
        "0.2 + 1*(0 + 0.1*4/6) + 0.4 = 0.666667", (),
    ),
    "a label of the same superclass: 2 of 3 + 3": (
        write(fields(), "Actinic Keratosis"), MELANOMA, terms(1, 0, 2 / 6, 1), "0.2 + 0.1*2/6 + 0.4 = 0.633333", (),
    ),
    "a deeper leaf of the same superclass: 2 of 3 + 4": (
        write(fields(), "Blue Nevus"), MELANOMA, terms(1, 0, 2 / 7, 1), "0.2 + 0.1*2/7 + 0.4 = 0.628571", (),
    ),
    "a label of another superclass": (
        write(fields(), "Psoriasis"), MELANOMA, terms(1, 0, 0, 1), "0.2 + 0 + 0.4 = 0.6", (),
    ),
    "an unknown label": (write(fields(), "Sparkle"), MELANOMA, terms(1, 0, 0, 1), "0.2 + 0 + 0.4 = 0.6", ()),
    "a category for a label": (
        write(fields(), "Neoplasms & Proliferations"), MELANOMA, terms(1, 0, 0, 1), "0.2 + 0 + 0.4 = 0.6", (),
    ),
    "a label within a phrase": (
        write(fields(), "It is melanoma"), MELANOMA, terms(1, 0, 0, 1), "0.2 + 0 + 0.4 = 0.6", (),
    ),
    "labels by comma": (
        write(fields(), "Melanoma, Blue Nevus"), MELANOMA, terms(1, 0, 0, 1), "0.2 + 0 + 0.4 = 0.6", (),
    ),
    "labels by and": (
        write(fields(), "Melanoma and Melanoma"), MELANOMA, terms(1, 0, 0, 1), "0.2 + 0 + 0.4 = 0.6", (),
    ),
    "labels by semicolon": (
        write(fields(), "Melanoma; Blue Nevus"), MELANOMA, terms(0.5, 0, 0, 1), "0.2*0.5 + 0 + 0.4 = 0.5",
        ("several_labels",),
    ),
    "labels by line": (
        write(fields(), "Melanoma\nMelanoma"), MELANOMA, terms(0.5, 0, 0, 1), "0.2*0.5 + 0 + 0.4 = 0.5",
        ("several_labels",),
    ),
    "a look-alike label": (
        write(fields(), "\u041celanoma"), MELANOMA, terms(1, 0, 0, 1), "0.2 + 0 + 0.4 = 0.6", (),
    ),
    "an empty diagnosis": (
        write(fields(), " "), MELANOMA, terms(0.7, 0, 0, 1), "0.2*0.7 + 0 + 0.4 = 0.54", ("empty_block",),
    ),
    "100 kB of accents for a label": (
        write(fields(), "a" + "\u0316\u0301" * 50_000), MELANOMA, terms(0.5, 0, 0, 1), "0.2*0.5 + 0 + 0.4 = 0.5",
        ("several_labels",),
    ),
    # Derm7pt: share of the seven fields; below a half of them the gate closes.
    "one field wrong": (
        write(fields(1), "Melanoma"), MELANOMA, terms(1, 1, 1, 6 / 7), "0.2 + 0.4 + 0.4*6/7 = 0.942857", (),
    ),
    "four fields right": (
        write(fields(3), "Melanoma"), MELANOMA, terms(1, 1, 1, 4 / 7), "0.2 + 1*0.4 + 0.4*4/7 = 0.828571", (),
    ),
    "three fields right": (
        write(fields(4), "Melanoma"), MELANOMA, terms(1, 1, 1, 3 / 7), "0.2 + 6/7*0.4 + 0.4*3/7 = 0.714286", (),
    ),
    "two fields right": (
        write(fields(5), "Melanoma"), MELANOMA, terms(1, 1, 1, 2 / 7), "0.2 + 4/7*0.4 + 0.4*2/7 = 0.542857", (),
    ),
    "three fields right, label of the same subclass": (
        write(fields(4), "bcc"), MELANOMA, terms(1, 0, 4 / 6, 3 / 7),
        "0.2 + 6/7*(0.1*4/6) + 0.4*3/7 = 0.428571", (),
    ),
    "no field right": (write(fields(7), "Melanoma"), MELANOMA, terms(1, 1, 1, 0), "0.2 + 0*0.4 + 0 = 0.2", ()),
    "snake case": (
        write(fields().replace("Pigment Network", "pigment_network"), "Melanoma"), MELANOMA, terms(1, 1, 1, 1),
        "0.2 + 0.4 + 0.4 = 1", (),
    ),
    "a field left out": (
        write(fields(omitted=1), "Melanoma"), MELANOMA, terms(0.7, 1, 1, 6 / 7),
        "0.2*0.7 + 0.4 + 0.4*6/7 = 0.882857", ("missing_field",),
    ),
    "a field invented": (
        write(fields(Sparkle="present"), "Melanoma"), MELANOMA, terms(0.7, 1, 1, 1), "0.2*0.7 + 0.4 + 0.4 = 0.94",
        ("outside_vocabulary",),
    ),
    "a value invented, so the field is missing too": (
        write(fields().replace('"Streaks": "irregular"', '"Streaks": "lots"'), "Melanoma"), MELANOMA,
        terms(0.4, 1, 1, 6 / 7), "0.2*0.4 + 0.4 + 0.4*6/7 = 0.822857", ("outside_vocabulary", "missing_field"),
    ),
    "a field in two spellings: the first counts": (
        write(fields(3, streaks="absent"), "Melanoma"), MELANOMA, terms(0.7, 1, 1, 4 / 7),
        "0.2*0.7 + 0.4 + 0.4*4/7 = 0.768571", ("outside_vocabulary",),
    ),
    "a key written twice": (
        write(fields().replace('{"Pig', '{"Pigment Network": "absent", "Pig'), "Melanoma"), MELANOMA,
        terms(0.4, 1, 1, 0), "0.2*0.4 + 0*0.4 + 0 = 0.08", ("invalid_json",),
    ),
    # SkinCon: F1 of two sets.
    "clinical, all right": (CLINICAL, PSORIASIS, terms(1, 1, 1, 1), "0.2 + 0.4 + 0.4 = 1", ()),
    "clinical, one of two: F1 2*1/(1 + 2)": (
        write(features("Plaque"), "Psoriasis"), PSORIASIS, terms(1, 1, 1, 2 / 3), "0.2 + 0.4 + 0.4*2/3 = 0.866667", (),
    ),
    "clinical, one of two among four: F1 2*1/(4 + 2), gate 2/3": (
        write(features("Plaque", "Papule", "Nodule", "Ulcer"), "Psoriasis"), PSORIASIS, terms(1, 1, 1, 1 / 3),
        "0.2 + 2/3*0.4 + 0.4*1/3 = 0.6", (),
    ),
    "clinical, none of two": (
        write(features("Papule"), "Psoriasis"), PSORIASIS, terms(1, 1, 1, 0), "0.2 + 0*0.4 + 0 = 0.2", (),
    ),
    "clinical, an empty set": (
        write(features(), "Psoriasis"), PSORIASIS, terms(1, 1, 1, 0), "0.2 + 0*0.4 + 0 = 0.2", (),
    ),
    "clinical, all 48 features: F1 2*2/(48 + 2), gate 0.16": (
        write(features(*SKINCON_FEATURES), "Psoriasis"), PSORIASIS, terms(1, 1, 1, 0.08),
        "0.2 + 0.16*0.4 + 0.4*0.08 = 0.296", (),
    ),
    "clinical, a feature invented: F1 2*2/(3 + 2)": (
        write(features("Plaque", "Scale", "Sparkle"), "Psoriasis"), PSORIASIS, terms(0.7, 1, 1, 0.8),
        "0.2*0.7 + 0.4 + 0.4*0.8 = 0.86", ("outside_vocabulary",),
    ),
    "clinical, a look-alike feature: F1 2*1/(2 + 2)": (
        write(features("Plaque", "S\u0441ale"), "Psoriasis"), PSORIASIS, terms(0.7, 1, 1, 0.5),
        "0.2*0.7 + 1*0.4 + 0.4*0.5 = 0.74", ("outside_vocabulary",),
    ),
    "clinical, a feature twice": (
        write(features("Plaque", "Plaque"), "Psoriasis"), PSORIASIS, terms(0.7, 1, 1, 2 / 3),
        "0.2*0.7 + 0.4 + 0.4*2/3 = 0.806667", ("outside_vocabulary",),
    ),
    "clinical, nothing to see and nothing stated": (
        write(features(), "Psoriasis"), NOTHING_TO_SEE, terms(1, 1, 1, 1), "0.2 + 0.4 + 0.4 = 1", (),
    ),
    "clinical, nothing to see but something stated": (
        write(features("Scale"), "Psoriasis"), NOTHING_TO_SEE, terms(1, 1, 1, 0), "0.2 + 0*0.4 + 0 = 0.2", (),
    ),
    # The JSON and its schema.
    "the clinical schema for a dermoscopic image": (
        write(features("Black"), "Melanoma"), MELANOMA, terms(0.5, 1, 1, 0), "0.2*0.5 + 0*0.4 + 0 = 0.1",
        ("wrong_schema",),
    ),
    "the dermoscopic schema for a clinical image": (
        write(fields(), "Psoriasis"), PSORIASIS, terms(0.5, 1, 1, 0), "0.2*0.5 + 0*0.4 + 0 = 0.1", ("wrong_schema",),
    ),
    "both schemas": (
        write(fields()[:-1] + ', "morphological_features_skincon": []}', "Melanoma"), MELANOMA, terms(0.4, 1, 1, 0),
        "0.2*0.4 + 0*0.4 + 0 = 0.08", ("wrong_keys",),
    ),
    "a foreign key": (
        write('{"features": []}', "Melanoma"), MELANOMA, terms(0.4, 1, 1, 0), "0.2*0.4 + 0*0.4 + 0 = 0.08",
        ("wrong_keys",),
    ),
    "an unclosed object": (
        write(fields()[:-1], "Melanoma"), MELANOMA, terms(0.4, 1, 1, 0), "0.2*0.4 + 0*0.4 + 0 = 0.08",
        ("invalid_json",),
    ),
    "prose for JSON": (
        write("an atypical network", "Melanoma"), MELANOMA, terms(0.4, 1, 1, 0), "0.2*0.4 + 0*0.4 + 0 = 0.08",
        ("invalid_json",),
    ),
    "an array of objects": (
        write(f"[{fields()}]", "Melanoma"), MELANOMA, terms(0.4, 1, 1, 0), "0.2*0.4 + 0*0.4 + 0 = 0.08",
        ("invalid_json",),
    ),
    "NaN": (
        write('{"morphological_features_Derm7pt": NaN}', "Melanoma"), MELANOMA, terms(0.4, 1, 1, 0),
        "0.2*0.4 + 0*0.4 + 0 = 0.08", ("invalid_json",),
    ),
    "brackets nested 9,999 deep": (
        write("[" * 9_999, "Melanoma"), MELANOMA, terms(0.4, 1, 1, 0), "0.2*0.4 + 0*0.4 + 0 = 0.08", ("invalid_json",),
    ),
    "100 kB of JSON": (
        write(features(*["Scale"] * 13_000), "Psoriasis"), PSORIASIS, terms(0.4, 1, 1, 0),
        "0.2*0.4 + 0*0.4 + 0 = 0.08", ("invalid_json",),
    ),
    # The blocks.
    "no reasoning": (
        HONEST.split("\n", 1)[1], MELANOMA, terms(0.5, 1, 1, 1), "0.2*0.5 + 0.4 + 0.4 = 0.9", ("missing_block",),
    ),
    "an empty reasoning": (
        write(fields(), "Melanoma", ""), MELANOMA, terms(0.7, 1, 1, 1), "0.2*0.7 + 0.4 + 0.4 = 0.94", ("empty_block",),
    ),
    "no diagnosis": (
        HONEST.rsplit("\n", 1)[0], MELANOMA, terms(0.5, 0, 0, 1), "0.2*0.5 + 0 + 0.4 = 0.5", ("missing_block",),
    ),
    "a diagnosis cut off": (
        HONEST.removesuffix("</final_diagnosis>"), MELANOMA, terms(0.3, 0, 0, 1), "0.2*0.3 + 0 + 0.4 = 0.46",
        ("missing_block", "text_outside"),
    ),
    "a diagnosis alone": (
        "<final_diagnosis>Melanoma</final_diagnosis>", MELANOMA, terms(0, 1, 1, 0), "0.2*0 + 0*0.4 + 0 = 0",
        ("missing_block",) * 2,
    ),
    "the diagnosis twice": (
        HONEST + HONEST.rsplit("\n", 1)[1], MELANOMA, terms(0.5, 0, 0, 1), "0.2*0.5 + 0 + 0.4 = 0.5",
        ("repeated_block",),
    ),
    "the morphology twice": (
        HONEST + f"<morph>{fields()}</morph>", MELANOMA, terms(0.5, 1, 1, 0), "0.2*0.5 + 0*0.4 + 0 = 0.1",
        ("repeated_block",),
    ),
    "everything twice": (
        HONEST * 2, MELANOMA, terms(0, 0, 0, 0), "0.2*0 + 0 + 0 = 0", ("repeated_block",) * 3,
    ),
    "a diagnosis within a diagnosis": (
        HONEST.replace("Melanoma", "<final_diagnosis>Melanoma</final_diagnosis>"), MELANOMA, terms(0.8, 1, 1, 1),
        "0.2*0.8 + 0.4 + 0.4 = 0.96", ("text_outside",),
    ),
    "the morphology within the reasoning": (
        f"<reasoning>see <morph>{fields()}</morph></reasoning><final_diagnosis>mel</final_diagnosis>", MELANOMA,
        terms(0.3, 1, 1, 1), "0.2*0.3 + 0.4 + 0.4 = 0.86", ("missing_block", "text_outside"),
    ),
    "the blocks in reverse": (
        "\n".join(reversed(HONEST.split("\n"))), MELANOMA, terms(0.7, 1, 1, 1), "0.2*0.7 + 0.4 + 0.4 = 0.94",
        ("wrong_order",),
    ),
    "text before": (
        "Sure! " + HONEST, MELANOMA, terms(0.8, 1, 1, 1), "0.2*0.8 + 0.4 + 0.4 = 0.96", ("text_outside",),
    ),
    "text after": (
        HONEST + " Hope this helps!", MELANOMA, terms(0.8, 1, 1, 1), "0.2*0.8 + 0.4 + 0.4 = 0.96", ("text_outside",),
    ),
    "escaped tags": (
        HONEST.replace("<", "&lt;"), MELANOMA, terms(0, 0, 0, 0), "0.2*0 + 0 + 0 = 0",
        ("missing_block",) * 3 + ("text_outside",),
    ),
    "full-width tags": (
        HONEST.replace("<", "\uff1c"), MELANOMA, terms(0, 0, 0, 0), "0.2*0 + 0 + 0 = 0",
        ("missing_block",) * 3 + ("text_outside",),
    ),
    "a look-alike letter in a tag": (
        HONEST.replace("morph>", "m\u043erph>"), MELANOMA, terms(0.3, 1, 1, 0), "0.2*0.3 + 0*0.4 + 0 = 0.06",
        ("missing_block", "text_outside"),
    ),
    "a tag in capitals": (
        HONEST.replace("morph>", "MORPH>"), MELANOMA, terms(0.3, 1, 1, 0), "0.2*0.3 + 0*0.4 + 0 = 0.06",
        ("missing_block", "text_outside"),
    ),
    "an image placeholder": (
        write(fields(), "Melanoma", "See <|image_pad|>."), MELANOMA, terms(0, 1, 1, 1), "0.2*0 + 0.4 + 0.4 = 0.8",
        ("forbidden_token",),
    ),
    "the end of the turn, written out": (
        HONEST + "<|im_end|>", MELANOMA, terms(0, 1, 1, 1), "0.2*0 + 0.4 + 0.4 = 0.8",
        ("text_outside", "forbidden_token"),
    ),
    "nothing": ("", MELANOMA, terms(0, 0, 0, 0), "0.2*0 + 0 + 0 = 0", ("missing_block",) * 3),
    "100 kB of tags": (
        "<morph>" * 14_000, MELANOMA, terms(0, 0, 0, 0), "0.2*0 + 0 + 0 = 0",
        ("missing_block",) * 3 + ("text_outside",),
    ),
    "100 kB of reasoning": (
        write(fields(), "Melanoma", "so " * 33_000), MELANOMA, terms(1, 1, 1, 1), "0.2 + 0.4 + 0.4 = 1", (),
    ),
    # References that lack something: the weights that are left sum to 0.6, 0.6 and 0.2; without morphology no gate.
    "no annotation": (
        write(fields(7), "Basal Cell Carcinoma"), UNANNOTATED, {"format": 1, "diagnosis": 0, "taxonomy": 4 / 6},
        "(0.2*1 + 0.3*0 + 0.1*4/6) / 0.6 = 0.444444", (),
    ),
    "no label": (write(fields(4), "Acne"), UNLABELLED, two(1, 3 / 7), "(0.2 + 0.4*3/7) / 0.6 = 0.619048", ()),
    "neither": (HONEST + "!", NEITHER, {"format": 0.8}, "0.2*0.8 / 0.2 = 0.8", ("text_outside",)),
    # task1: morphology and a paragraph.
    "task1, all right": (describe(features("Plaque", "Scale")), DESCRIBED, two(1, 1), "(0.2 + 0.4) / 0.6 = 1", ()),
    "task1, one of two": (
        describe(features("Scale")), DESCRIBED, two(1, 2 / 3), "(0.2 + 0.4*2/3) / 0.6 = 0.777778", (),
    ),
    "task1, dermoscopic, one field wrong": (
        describe(fields(1)), DESCRIBED_MELANOMA, two(1, 6 / 7), "(0.2 + 0.4*6/7) / 0.6 = 0.904762", (),
    ),
    "task1, no paragraph": (
        describe(features("Plaque", "Scale"), ""), DESCRIBED, two(0.5, 1), "(0.2*0.5 + 0.4) / 0.6 = 0.833333",
        ("missing_block",),
    ),
    "task1, two paragraphs": (
        describe(features("Plaque", "Scale"), "One.\n\nTwo."), DESCRIBED, two(0.8, 1),
        "(0.2*0.8 + 0.4) / 0.6 = 0.933333", ("text_outside",),
    ),
    "task1, the morphology twice": (
        f"<morph>{features()}</morph>" + describe(features("Plaque", "Scale")), DESCRIBED, two(0.5, 0),
        "(0.2*0.5 + 0) / 0.6 = 0.166667", ("repeated_block",),
    ),
    "task1, the wrong schema": (
        describe(fields()), DESCRIBED, two(0.5, 0), "(0.2*0.5 + 0) / 0.6 = 0.166667", ("wrong_schema",),
    ),
    "task1, a special token": (
        describe(features("Plaque", "Scale"), "A <|vision_start|>."), DESCRIBED, two(0, 1),
        "(0.2*0 + 0.4) / 0.6 = 0.666667", ("forbidden_token",),
    ),
    "task1, answered as task3": (
        CLINICAL, DESCRIBED, two(0.3, 1), "(0.2*0.3 + 0.4) / 0.6 = 0.766667", ("missing_block", "text_outside"),
    ),
    "task3, answered as task1": (
        describe(features("Plaque", "Scale")), PSORIASIS, terms(0, 0, 0, 1), "0.2*0 + 1*0 + 0.4 = 0.4",
        ("missing_block", "missing_block", "text_outside"),
    ),
    "task1, nothing": ("", DESCRIBED, two(0, 0), "(0 + 0) / 0.6 = 0", ("missing_block",) * 2),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_reward_is_as_worked_by_hand(case: Case) -> None:
    text, truth, expected, working, faults = case

    reward = mavic_reward(text, truth, RewardConfig())

    assert reward.faults == faults
    assert reward.terms == pytest.approx(expected)
    assert reward.total == pytest.approx(float(working.rpartition("=")[2]), abs=1e-6)
    assert sum(reward.weights.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("working", sorted({case[3] for case in CASES.values()}))
def test_the_working_adds_up(working: str) -> None:
    sum_of_terms, _, total = working.rpartition("=")
    assert eval(sum_of_terms) == pytest.approx(float(total), abs=1e-6)


def test_every_fault_occurs_in_the_table() -> None:
    assert {fault for *_, faults in CASES.values() for fault in faults} == set(FaultCosts.model_fields)
