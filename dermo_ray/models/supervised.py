"""Supervised fine-tuning's view of the policy: batches of whole conversations, and how well each token is foretold.

Invariant: the tokens that are trained on are the assistant's alone, with the one that ends its turn.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import ProcessorMixin

from dermo_ray.data.conversations import Conversation
from dermo_ray.errors import UserError
from dermo_ray.models.batches import VLMBatch, collate, encode_conversations, micro_batches
from dermo_ray.models.policy import PolicyScorer


class TokenScorer(PolicyScorer):
    """A policy whose forward pass is the log-probability of every trained token and whether it is the likeliest one."""

    def forward(self, batch: VLMBatch) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """[N] float and [N] bool, in row-major order."""
        logits = self.logits(batch)
        targets = batch.input_ids[batch.trained]
        logprobs = -nn.functional.cross_entropy(logits, targets, reduction="none")
        return logprobs, logits.detach().argmax(dim=-1) == targets


def encode(
    processor: ProcessorMixin, conversations: Sequence[Conversation], token_budget: int, max_length: int
) -> list[VLMBatch]:
    """Micro-batches that hold `conversations`, longest first, each of at most `token_budget` padded tokens.

    Raises `UserError` naming a conversation of more than `max_length` tokens.
    """
    sequences, images = [], []
    for conversation in conversations:
        # one at a time, since families differ in how they join the tensors of several images into one
        (sequence,), tensors = encode_conversations(processor, [conversation.turns], [conversation.read_image()])
        if len(sequence) > max_length:
            raise UserError(
                f"conversation {conversation.id} has {len(sequence)} tokens and max_length is {max_length}: "
                "raise max_length, or prepare smaller images (images.max_side)"
            )
        sequences.append(sequence)
        images.append(tensors)
    batches = []
    for positions in micro_batches([len(sequence) for sequence in sequences], token_budget):
        shown = {name: torch.cat([images[position][name] for position in positions]) for name in images[0]}
        rows = [replace(sequences[position], image=row) for row, position in enumerate(positions)]
        batches.append(collate(rows, shown, processor.tokenizer.pad_token_id))
    return batches
