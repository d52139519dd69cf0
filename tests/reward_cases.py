"""For the tests of the reward: references, and completions for them that are wrong in a set number of places."""

import json

from dermo_ray.morphology import Morphology
from dermo_ray.records import GroundTruth

FIELDS = {
    "Pigment Network": "atypical",
    "Blue Whitish Veil": "present",
    "Vascular Structures": "absent",
    "Pigmentation": "diffuse irregular",
    "Streaks": "irregular",
    "Dots and Globules": "irregular",
    "Regression Structures": "absent",
}
OTHER_VALUES = {
    "Pigment Network": "typical",
    "Blue Whitish Veil": "absent",
    "Vascular Structures": "dotted",
    "Pigmentation": "absent",
    "Streaks": "absent",
    "Dots and Globules": "regular",
    "Regression Structures": "blue areas",
}
MELANOMA = GroundTruth(
    task="task3",
    modality="dermoscopic",
    final_label="Melanoma",
    morph={"morphological_features_Derm7pt": FIELDS},
)
PSORIASIS = GroundTruth(
    task="task3",
    modality="clinical",
    final_label="Psoriasis",
    morph={"morphological_features_skincon": ["Plaque", "Scale"]},
)


def fields(wrong: int = 0, omitted: int = 0, **added: str) -> str:
    """The melanoma's morphology as JSON, with that many fields wrong (from the top) or left out (at the end)."""
    names = list(FIELDS)[: len(FIELDS) - omitted]
    stated = {name: OTHER_VALUES[name] if index < wrong else FIELDS[name] for index, name in enumerate(names)}
    return json.dumps({"morphological_features_Derm7pt": stated | added})


def features(*stated: str) -> str:
    return json.dumps({"morphological_features_skincon": stated})


def write(morph: str, diagnosis: str, reasoning: str = "An atypical network.") -> str:
    return f"<reasoning>{reasoning}</reasoning>\n<morph>{morph}</morph>\n<final_diagnosis>{diagnosis}</final_diagnosis>"


def describe(morph: str, paragraph: str = "A lesion\non the elbow.") -> str:
    return f"<morph>{morph}</morph>\n{paragraph}"


HONEST = write(fields(), "Melanoma")
CLINICAL = write(features("Plaque", "Scale"), "Psoriasis")


class FakeConcepts:
    """A concept model that gives fixed answers and records the labels it was asked about."""

    def __init__(self, image_fit: float, diagnosis_fit: float) -> None:
        self.fits = (image_fit, diagnosis_fit)
        self.labels: list[str] = []

    def image_fit(self, morphology: Morphology) -> float:
        return self.fits[0]

    def diagnosis_fit(self, morphology: Morphology, label: str) -> float:
        self.labels.append(label)
        return self.fits[1]
