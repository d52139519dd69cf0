"""The concept model: an image encoder, a head of concepts for each schema, and linear heads from concepts to diagnosis.

A concept bottleneck (Koh et al., ICML 2020): the diagnosis depends on the image through the concepts' probabilities
alone, and its head is one matrix that a person can read. Features are the mean and the maximum of the encoder's last
hidden state over positions, which every encoder of transformers has: how much there is of a texture, and whether it
is there at all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from dermo_ray.models.concepts.configuration import ConceptModelConfig
from dermo_ray.models.concepts.vocabulary import CONCEPTS, FIELD_SLICES, SCHEMAS
from dermo_ray.morphology import Schema

Logits = Mapping[Schema, Tensor]
"""Of a batch of images, before the temperature: SkinCon [B, 48], Derm7pt [B, 28]."""


@dataclass
class ConceptOutput(ModelOutput):
    """Calibrated probabilities. Which schema counts is decided by the image's modality, which the model isn't told."""

    skincon: torch.FloatTensor | None = None
    """Probability that each feature is present, [B, 48]."""
    derm7pt: torch.FloatTensor | None = None
    """Probability of each value, [B, 28]; those of one field sum to 1."""
    skincon_diagnosis: torch.FloatTensor | None = None
    """Probability of each of `config.labels["skincon"]`, [B, labels]; None where there are none."""
    derm7pt_diagnosis: torch.FloatTensor | None = None
    """Probability of each of `config.labels["derm7pt"]`, [B, labels]; None where there are none."""


class ConceptModel(PreTrainedModel):
    """See the module. `AutoModel` loads it once this module is imported."""

    config_class = ConceptModelConfig
    config: ConceptModelConfig
    main_input_name = "pixel_values"
    base_model_prefix = ""

    def __init__(self, config: ConceptModelConfig) -> None:
        super().__init__(config)
        self.encoder = AutoModel.from_config(config.encoder)
        width = 2 * (config.encoder_width or feature_width(config.encoder))
        self.norm = nn.LayerNorm(width)
        self.concepts = nn.ModuleDict({schema: nn.Linear(width, len(CONCEPTS[schema])) for schema in SCHEMAS})
        self.diagnosis = nn.ModuleDict(
            {
                schema: nn.Linear(len(CONCEPTS[schema]), len(labels))
                for schema in SCHEMAS
                if (labels := config.labels_of(schema))
            }
        )
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Linear heads start at zero: from the prior, which the trainer puts into their biases."""
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)

    def concept_logits(self, pixel_values: Tensor) -> dict[Schema, Tensor]:
        """Logits of the concepts of images [B, 3, height, width]."""
        hidden = self.encoder(pixel_values=pixel_values).last_hidden_state
        hidden = by_position(hidden)
        features = self.norm(torch.cat([hidden.mean(dim=2), hidden.amax(dim=2)], dim=1))
        return {schema: self.concepts[schema](features) for schema in SCHEMAS}

    def diagnosis_logits(self, schema: Schema, concepts: Tensor) -> Tensor:
        """Logits [B, labels] of the diagnoses, from probabilities or statements of concepts [B, concepts]."""
        logits: Tensor = self.diagnosis[schema](concepts)
        return logits

    def forward(self, pixel_values: Tensor, **_: Any) -> ConceptOutput:
        """Calibrated probabilities for images [B, 3, height, width]."""
        logits = self.concept_logits(pixel_values)
        values: dict[str, Any] = {}
        for schema in SCHEMAS:
            concepts = activate(schema, logits[schema] / self.config.temperature_of(schema))
            values[schema] = concepts
            if schema in self.diagnosis:
                values[f"{schema}_diagnosis"] = self.diagnose(schema, concepts)
        return ConceptOutput(**values)

    def diagnose(self, schema: Schema, concepts: Tensor) -> Tensor:
        """Calibrated probability of each diagnosis [B, labels], from concepts [B, concepts]."""
        logits = self.diagnosis_logits(schema, concepts) / self.config.temperature_of(f"{schema}/diagnosis")
        return logits.softmax(dim=1)

    def contrast(self, schema: Schema) -> Tensor:
        """What each concept says for each diagnosis against the others, in logits, [labels, concepts].

        The softmax forgets what a concept adds to all diagnoses alike, and a one-of-many field what its values add
        alike; both are taken off, so that equal heads look equal.
        """
        weight = cast(nn.Linear, self.diagnosis[schema]).weight.detach()
        weight = weight - weight.mean(dim=0)
        if schema == "derm7pt":
            fields = [weight[:, place] for place in FIELD_SLICES.values()]
            weight = torch.cat([field - field.mean(dim=1, keepdim=True) for field in fields], dim=1)
        return weight


def activate(schema: Schema, logits: Tensor) -> Tensor:
    """Probabilities from logits [..., concepts]: a sigmoid each for SkinCon, a softmax a field for Derm7pt."""
    if schema == "skincon":
        return logits.sigmoid()
    return log_softmax_by_field(logits).exp()


def log_softmax_by_field(logits: Tensor) -> Tensor:
    """Log-probabilities [..., 28] of Derm7pt values within their fields."""
    return torch.cat([logits[..., place].log_softmax(dim=-1) for place in FIELD_SLICES.values()], dim=-1)


def by_position(hidden: Tensor) -> Tensor:
    """A last hidden state as [B, channels, positions].

    Convolutional encoders give [B, channels, height, width], transformers [B, tokens, channels].
    """
    return hidden.flatten(2) if hidden.ndim == 4 else hidden.transpose(1, 2)


def feature_width(encoder: PreTrainedConfig) -> int:
    """Channels of an encoder's last hidden state, as its configuration names them."""
    widths = getattr(encoder, "hidden_sizes", None)
    return int(widths[-1] if widths else encoder.hidden_size)


AutoModel.register(ConceptModelConfig, ConceptModel, exist_ok=True)
