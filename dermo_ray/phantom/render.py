"""One phantom from a seed and the settings.

Invariant: `draw` is a pure function of its arguments. What is drawn (tone, diagnosis, morphology), how it is placed and
what disturbs it come from separate random streams of the seed, so that a change of nuisances leaves the lesion alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dermo_ray.errors import UserError
from dermo_ray.morphology import SCHEMA_FOR_MODALITY, Modality, Morphology
from dermo_ray.phantom.canvas import Canvas
from dermo_ray.phantom.clinical import draw_clinical
from dermo_ray.phantom.dermoscopic import draw_dermoscopic
from dermo_ray.phantom.diagnoses import DIAGNOSES
from dermo_ray.phantom.nuisance import disturb, draw_amplitudes
from dermo_ray.phantom.sampling import sample_morphology
from dermo_ray.phantom.settings import PhantomSettings


@dataclass(frozen=True)
class Phantom:
    """A drawn skin lesion about which everything is known."""

    image: npt.NDArray[np.uint8] = field(repr=False, compare=False)
    """RGB, [size, size, 3]; read-only."""
    modality: Modality
    morphology: Morphology
    """Exactly what was drawn."""
    diagnosis: str
    """Canonical name, the one that `diagnose(morphology)` gives."""
    skin_tone: int
    """Fitzpatrick type, 1 to 6."""
    seed: int
    nuisances: Mapping[str, float]
    """Amplitude of each nuisance in [0, 1], 0 where it does not occur."""


def draw(
    seed: int, settings: PhantomSettings, *, modality: Modality | None = None, diagnosis: str | None = None
) -> Phantom:
    """The phantom number `seed` of the population that `settings` describe.

    `modality` and `diagnosis` override the population's mix. Raises `UserError` for a negative seed, an unknown
    modality or diagnosis, a diagnosis of another modality, or a modality without a weighted diagnosis.
    """
    if seed < 0:
        raise UserError(f"a phantom's seed must not be negative, got {seed}")
    content, layout, presence, disturbance = np.random.SeedSequence(seed).spawn(4)
    rng = np.random.default_rng(content)
    tone = 1 + _pick(settings.skin_tones, rng.uniform())
    modality, diagnosis = _choose_diagnosis(settings, modality, diagnosis, rng)
    morphology = sample_morphology(diagnosis, rng)
    canvas = draw_morphology(morphology, tone, np.random.default_rng(layout), settings.size)
    nuisances = draw_amplitudes(settings.nuisances, modality, np.random.default_rng(presence))
    disturb(canvas, nuisances, disturbance)
    image = canvas.as_image()
    image.flags.writeable = False
    return Phantom(image, modality, morphology, diagnosis, tone, seed, nuisances)


def draw_morphology(morphology: Morphology, tone: int, rng: np.random.Generator, size: int) -> Canvas:
    """A picture of `morphology` on skin of the Fitzpatrick type `tone`, without nuisances."""
    if morphology.schema == "derm7pt":
        return draw_dermoscopic(morphology.fields, tone, rng, size)
    return draw_clinical(morphology.features, tone, rng, size)


def _choose_diagnosis(
    settings: PhantomSettings, modality: Modality | None, diagnosis: str | None, rng: np.random.Generator
) -> tuple[Modality, str]:
    draws = rng.uniform(size=2)  # both are drawn, used or not, so that an override shifts no later number
    if diagnosis is not None:
        if diagnosis not in DIAGNOSES:
            raise UserError(f"{diagnosis!r} is not a phantom diagnosis; choose one of {', '.join(DIAGNOSES)}")
        if modality not in (None, DIAGNOSES[diagnosis].modality):
            raise UserError(f"{diagnosis} is drawn as a {DIAGNOSES[diagnosis].modality} image, not {modality}")
        return DIAGNOSES[diagnosis].modality, diagnosis
    if modality is None:
        modality = "dermoscopic" if draws[0] < settings.dermoscopic_share else "clinical"
    if modality not in SCHEMA_FOR_MODALITY:
        raise UserError(f"{modality!r} is not a modality; choose one of {', '.join(SCHEMA_FOR_MODALITY)}")
    names = [name for name, entry in DIAGNOSES.items() if entry.modality == modality]
    weights = [settings.diagnosis_weight(name) for name in names]
    if sum(weights) == 0:
        raise UserError(f"the settings give no {modality} diagnosis a weight; add one to `diagnoses`")
    return modality, names[_pick(weights, draws[1])]


def _pick(weights: Sequence[float], position: float) -> int:
    """Index of the weight at `position`, a share in [0, 1) of their sum."""
    cumulative = np.cumsum(weights)
    return int(np.searchsorted(cumulative, position * cumulative[-1], side="right"))
