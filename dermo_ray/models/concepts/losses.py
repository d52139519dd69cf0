"""What the concept model is trained to say: the annotators' morphologies, and the diagnoses that follow from them.

Two invariants keep the bottleneck honest. The encoder and the heads of concepts learn from annotations alone: the
diagnosis sees their probabilities as constants, so no label can be smuggled through a concept. Class weights change
what is learned with care, not what is believed: training adds log(weight) to the logits before the weighted loss,
whose optimum then lies at the true probabilities (the logit adjustment of Menon et al., ICLR 2021, for weights).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dermo_ray.models.concepts.data import NO_LABEL, Targets
from dermo_ray.models.concepts.model import ConceptModel, activate, log_softmax_by_field
from dermo_ray.models.concepts.vocabulary import FIELD_SLICES, SCHEMAS
from dermo_ray.morphology import Schema


def concept_nll(schema: Schema, logits: Tensor, stated: Tensor, weight: Tensor | None = None) -> Tensor:
    """Negative log-likelihood of whole morphologies, in nats, [B]; logits and `stated` (0 or 1) are [B, concepts].

    `weight` [concepts] is that of a present feature, or of a value. A Derm7pt field without a value adds nothing.
    """
    if weight is not None:
        logits = logits + weight.log()
    if schema == "skincon":
        bits = nn.functional.binary_cross_entropy_with_logits(logits, stated, pos_weight=weight, reduction="none")
        return bits.sum(dim=1)
    terms = -stated * log_softmax_by_field(logits)
    return (terms if weight is None else terms * weight).sum(dim=1)


def diagnosis_nll(logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
    """Negative log-likelihood of the labels [B], in nats, [B], 0 where there is none; logits are [B, labels]."""
    if weight is not None:
        logits = logits + weight.log()
    return nn.functional.cross_entropy(logits, labels, weight=weight, ignore_index=NO_LABEL, reduction="none")


def class_weights(targets: Targets, vocabulary: Mapping[Schema, list[str]], cap: float) -> dict[str, Tensor]:
    """The weight of every concept and label by the head's name, from the whole training split; all in [1/cap, cap].

    A SkinCon feature weighs (absent / present), at least 1; a Derm7pt value and a label (mean count / its count) among
    its rivals.
    """
    weights: dict[str, Tensor] = {}
    for schema in SCHEMAS:
        counts = targets.concepts[schema].sum(dim=0)
        if schema == "skincon":
            weights[schema] = ((targets.observed[schema].sum() - counts) / counts.clamp(min=1)).clamp(1.0, cap)
        else:
            weights[schema] = torch.cat([_inverse(counts[place], cap) for place in FIELD_SLICES.values()])
        if schema in vocabulary:
            known = targets.labels[schema][targets.labels[schema] != NO_LABEL]
            counts = torch.bincount(known, minlength=len(vocabulary[schema])).float()
            weights[f"{schema}/diagnosis"] = _inverse(counts, cap)
    return weights


def prior_logits(schema: Schema, targets: Targets) -> Tensor:
    """The logits [concepts] of the shares in the training split: what a model says that sees nothing."""
    counts, images = targets.concepts[schema].sum(dim=0), targets.observed[schema].sum()
    if schema == "skincon":
        return ((counts + 0.5) / (images - counts + 0.5)).log()
    return torch.cat([((counts[place] + 0.5) / (images + 0.5)).log() for place in FIELD_SLICES.values()])


class TrainingLoss(nn.Module):
    """A concept model whose forward pass is its loss, as data-parallel training wants to see it."""

    def __init__(self, model: ConceptModel, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.model = model
        self._weights = dict(weights)

    def forward(self, pixel_values: Tensor, targets: Targets) -> dict[str, Tensor]:
        """The summed loss of each head over the images that count for it, by the head's name.

        The linear head learns from both of its inputs: the probabilities seen in the image, and the annotation.
        """
        logits = self.model.concept_logits(pixel_values)
        sums: dict[str, Tensor] = {}
        for schema in SCHEMAS:
            weight = self._weights[schema].to(pixel_values.device)
            stated, observed = targets.concepts[schema], targets.observed[schema]
            sums[schema] = (concept_nll(schema, logits[schema], stated, weight) * observed).sum()
            if schema in self.model.diagnosis:
                labels = targets.labels[schema]
                inputs = torch.cat([activate(schema, logits[schema]).detach(), stated])
                asked = torch.cat([labels, labels.masked_fill(observed == 0, NO_LABEL)])
                head = f"{schema}/diagnosis"
                nll = diagnosis_nll(
                    self.model.diagnosis_logits(schema, inputs), asked, self._weights[head].to(labels.device)
                )
                sums[head] = nll.sum() / 2
        return sums


def _inverse(counts: Tensor, cap: float) -> Tensor:
    return (counts.mean().clamp(min=1) / counts.clamp(min=1)).clamp(1 / cap, cap)
