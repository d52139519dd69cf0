"""Procedurally drawn skin lesions whose morphology and diagnosis are known exactly."""

from dermo_ray.phantom.annotation import annotate
from dermo_ray.phantom.diagnoses import DIAGNOSES, Diagnosis, diagnose
from dermo_ray.phantom.render import Phantom, draw
from dermo_ray.phantom.settings import AnnotationNoise, NuisanceSettings, PhantomSettings

__all__ = [
    "DIAGNOSES",
    "AnnotationNoise",
    "Diagnosis",
    "NuisanceSettings",
    "Phantom",
    "PhantomSettings",
    "annotate",
    "diagnose",
    "draw",
]
