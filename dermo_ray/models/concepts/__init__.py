"""The learned part of the reward: image -> concept probabilities -> diagnosis, a concept bottleneck.

Importing this package teaches `transformers.AutoModel` and `AutoConfig` the saved model.
"""

from dermo_ray.models.concepts.configuration import ConceptModelConfig
from dermo_ray.models.concepts.model import ConceptModel, ConceptOutput
from dermo_ray.models.concepts.scorer import ConceptScorer, ImageConcepts, load_concept_model

__all__ = [
    "ConceptModel",
    "ConceptModelConfig",
    "ConceptOutput",
    "ConceptScorer",
    "ImageConcepts",
    "load_concept_model",
]
