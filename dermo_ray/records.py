"""The typed records that cross a boundary: the reference behind a reward, a training trajectory, an RL prompt.

Keys and shapes are the released DermoGPT ones (LLaVA-style conversations, `ground_truth`), so that released
files read in and ours read out; fields of our own stand beside them, never inside them.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator

from dermo_ray.morphology import SCHEMA_FOR_MODALITY, Modality, Morphology

Task = Literal["task1", "task3"]
Split = Literal["train", "val", "test"]
Format = Literal[
    "description",
    "morph_description",
    "reasoning",
    "morph_reasoning",
    "diagnosis",
    "attribute_choice",
    "diagnosis_choice_4",
    "diagnosis_choice_25",
    "hierarchy",
]
"""The formats of training conversations."""

FURTHER_IMAGES = "further_images"
"""The column, a list of paths, of tables whose records may have more images than the one in `image`."""


class Record(BaseModel):
    """A frozen record; unknown keys are kept out."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class GroundTruth(Record):
    """The reference for one RL prompt; `morph` is absent where nobody annotated the image."""

    task: Task
    modality: Modality
    final_label: str | None = None
    taxon_path: list[str] = []
    """From the superclass down to the leaf's parent; the leaf is `final_label`."""
    morph: dict[str, Any] | None = None
    """Exactly one of the two released schemas, as `Morphology.to_json` writes it."""

    @field_validator("morph")
    @classmethod
    def _is_a_morphology(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        return value if value is None else Morphology.from_json(value).to_json()

    @property
    def morphology(self) -> Morphology | None:
        """The reference morphology, parsed."""
        return None if self.morph is None else Morphology.from_json(self.morph)

    @property
    def comparable_morphology(self) -> Morphology | None:
        """The reference morphology where completions can be compared with it.

        None for one that lacks a Derm7pt field, which even the best completion could not match, or is in the schema of
        the other modality, in which no completion may write.
        """
        morphology = self.morphology
        if morphology is None or morphology.missing or morphology.schema != SCHEMA_FOR_MODALITY[self.modality]:
            return None
        return morphology


class Turn(Record):
    """One turn of a conversation; images are marked by `<image>` in a human turn."""

    from_: Literal["human", "gpt"]
    value: str

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, alias_generator=lambda n: n.rstrip("_")
    )


class Trajectory(Record):
    """One training conversation about one image. `image` is relative to the prepared folder."""

    id: str
    image: str
    format: str
    """A `Format`, or another name where the conversation comes from a released file."""
    source: str
    group: str
    """The patient or lesion; never split across train, val and test."""
    conversations: list[Turn]
    annotator: str | None = None
    """Who made what is machine-made in the answers, as JSON: for each part the model, its prompt's version, date."""


class RLPrompt(Record):
    """One prompt of the reinforcement-learning set: a human turn, an image or several, and the reference."""

    id: str
    image: str
    further_images: list[str] = []
    """Images after the first, in the order of their `<image>` marks, of whatever sizes."""
    source: str
    group: str
    prompt: str
    """The human turn, `<image>` included."""
    ground_truth: GroundTruth

    @property
    def images(self) -> list[str]:
        """All images of the prompt."""
        return [self.image, *self.further_images]
