"""What a phantom population looks like: sizes, mixes and nuisances, and how its annotators err.

Invariant: a `PhantomSettings` that was built can be drawn from, for every seed and either modality it mixes in.
"""

import difflib

from pydantic import Field, field_validator, model_validator

from dermo_ray.config.base import Settings
from dermo_ray.phantom.diagnoses import DIAGNOSES


class NuisanceSettings(Settings):
    """What gets in the way of the skin. Each value but `strength` is the probability that an image has it."""

    hair: float = Field(default=0.15, ge=0.0, le=1.0)
    """Dark hairs across the image."""
    vignette: float = Field(default=0.3, ge=0.0, le=1.0)
    """Dark corners, as a dermatoscope's tube leaves them (dermoscopic images alone)."""
    gel_bubbles: float = Field(default=0.15, ge=0.0, le=1.0)
    """Bubbles in the immersion gel (dermoscopic images alone)."""
    lighting: float = Field(default=0.5, ge=0.0, le=1.0)
    """Uneven light and a slight colour cast."""
    blur: float = Field(default=0.2, ge=0.0, le=1.0)
    """A lens out of focus."""
    strength: float = Field(default=0.5, ge=0.0, le=1.0)
    """How strong each nuisance may be where it occurs: its amplitude is uniform between 0.3 and 1 times this."""


class PhantomSettings(Settings):
    """The population that `draw` samples from."""

    size: int = Field(default=96, ge=48, le=1024)
    """Height and width of the image in pixels."""
    dermoscopic_share: float = Field(default=0.5, ge=0.0, le=1.0)
    """Share of dermoscopic images; the others are clinical."""
    skin_tones: tuple[float, float, float, float, float, float] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    """Relative weights of the Fitzpatrick skin types I to VI."""
    diagnoses: dict[str, float] | None = None
    """Relative weights of diagnoses within their modality, by canonical name; those left out are not drawn.
    `null` gives every diagnosis the weight 1."""
    nuisances: NuisanceSettings = NuisanceSettings()
    """What gets in the way of the skin."""

    @field_validator("skin_tones")
    @classmethod
    def _weights_are_usable(cls, weights: tuple[float, ...]) -> tuple[float, ...]:
        if min(weights) < 0 or sum(weights) <= 0:
            raise ValueError("skin_tones needs weights that are not negative and not all 0")
        return weights

    @field_validator("diagnoses")
    @classmethod
    def _diagnoses_are_known(cls, weights: dict[str, float] | None) -> dict[str, float] | None:
        for name, weight in (weights or {}).items():
            if name not in DIAGNOSES:
                near = difflib.get_close_matches(name, DIAGNOSES, n=1, cutoff=0.0)[0]
                raise ValueError(f"{name!r} is not a phantom diagnosis; the nearest is {near!r}")
            if weight < 0:
                raise ValueError(f"the weight of {name!r} is negative; give 0 to leave a diagnosis out")
        return weights

    @model_validator(mode="after")
    def _every_modality_mixed_in_has_a_diagnosis(self) -> "PhantomSettings":
        for modality, share in (("dermoscopic", self.dermoscopic_share), ("clinical", 1 - self.dermoscopic_share)):
            if share > 0 and not any(
                self.diagnosis_weight(d.name) > 0 for d in DIAGNOSES.values() if d.modality == modality
            ):
                raise ValueError(f"diagnoses holds no {modality} diagnosis, yet dermoscopic_share asks for such images")
        return self

    def diagnosis_weight(self, name: str) -> float:
        """Relative weight of a diagnosis within its modality."""
        return 1.0 if self.diagnoses is None else self.diagnoses.get(name, 0.0)


class AnnotationNoise(Settings):
    """How an annotator errs. All probabilities are independent; 0 everywhere gives the exact morphology."""

    attenuation: float = Field(default=0.0, ge=0.0, le=1.0)
    """Probability that a severe Derm7pt value is written as its milder neighbour (`MILDER` in `annotation`)."""
    omission: float = Field(default=0.0, ge=0.0, le=1.0)
    """Probability that a present SkinCon feature is left out."""
    random: float = Field(default=0.0, ge=0.0, le=1.0)
    """Probability that a Derm7pt field, or a present SkinCon feature, is replaced by a uniformly random term."""
