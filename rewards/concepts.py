"""What the consistency term asks of a concept model."""

from typing import Protocol

from dermo_ray.morphology import Morphology


class Concepts(Protocol):
    """The concept probabilities of one image, with the linear diagnosis head; both answers lie in [0, 1]."""

    def image_fit(self, morphology: Morphology) -> float:
        """How well a stated morphology fits what the model sees in the image."""
        ...

    def diagnosis_fit(self, morphology: Morphology, label: str) -> float:
        """How well a canonical label follows from a stated morphology, whatever the image shows."""
        ...
