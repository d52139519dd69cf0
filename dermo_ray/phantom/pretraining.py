"""A head start for the tiny model's vision tower: it learns to see phantoms before it learns to speak of them.

Vision-language models start from a vision tower that was trained on images; from random weights, no small budget of
supervised fine-tuning teaches both sight and language. Here the tower's merged tokens, averaged, must predict the exact
morphology of freshly drawn phantoms through linear heads that are thrown away afterwards.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen3VLForConditionalGeneration

from dermo_ray.morphology import DERM7PT_FIELDS, SKINCON_FEATURES, Morphology
from dermo_ray.phantom.render import Phantom
from dermo_ray.progress import progress_bar

_BATCH = 32
_PEAK_LEARNING_RATE = 2e-3
_NOT_STATED = -100
"""The target that cross-entropy ignores, for the fields of the other schema."""


def pretrain_vision(
    model: Qwen3VLForConditionalGeneration, phantoms: Sequence[Phantom], mean: float, std: float, steps: int, seed: int
) -> None:
    """Train `model.model.visual` in place for `steps` batches of randomly flipped and turned `phantoms`.

    Pixels are scaled to [0, 1], then normalised by `mean` and `std`, as the model's image processor does.
    """
    tower = model.model.visual
    heads = nn.Linear(tower.config.out_hidden_size, sum(map(len, DERM7PT_FIELDS.values())) + len(SKINCON_FEATURES))
    pixels = torch.stack([torch.tensor(phantom.image) for phantom in phantoms]).permute(0, 3, 1, 2)
    targets = [_targets(phantom.morphology) for phantom in phantoms]
    values = torch.stack([value for value, _ in targets])
    features = torch.stack([feature for _, feature in targets])
    parameters = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=_PEAK_LEARNING_RATE, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _PEAK_LEARNING_RATE, total_steps=steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed)
    order = torch.cat(
        [torch.randperm(len(phantoms), generator=generator) for _ in range(-(-steps * _BATCH // len(phantoms)))]
    )
    with progress_bar(steps, "vision", " steps") as bar:
        for step in range(steps):
            chosen = order[step * _BATCH : (step + 1) * _BATCH]
            images = _turned((pixels[chosen].float() / 255 - mean) / std, generator)
            logits = heads(_merged(tower, images).mean(dim=1))
            loss = _loss(logits, values[chosen], features[chosen])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            bar.update()


def _merged(tower: Any, images: Tensor) -> Tensor:
    """Merged tokens [B, tokens, width] of images [B, 3, S, S], cut into patches in the processor's order."""
    patch, merge, frames = tower.config.patch_size, tower.config.spatial_merge_size, tower.config.temporal_patch_size
    batch, channels, side, _ = images.shape
    cells = side // patch // merge
    patches = images.reshape(batch, channels, cells, merge, patch, cells, merge, patch).permute(0, 2, 5, 3, 6, 1, 4, 7)
    flat = (
        patches.unsqueeze(6).expand(*patches.shape[:6], frames, patch, patch).reshape(batch * (side // patch) ** 2, -1)
    )
    grid = torch.tensor([[1, side // patch, side // patch]]).expand(batch, 3)
    merged: Tensor = tower(flat, grid_thw=grid, return_dict=True).pooler_output
    return merged.reshape(batch, cells * cells, -1)


def _turned(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flip and turn the whole batch by one of the eight symmetries of a square, none of which changes a morphology."""
    turns, flip = torch.randint(4, (1,), generator=generator).item(), torch.randint(2, (1,), generator=generator).item()
    images = torch.rot90(images, int(turns), dims=(2, 3))
    return images.flip(3) if flip else images


def _targets(morphology: Morphology) -> tuple[Tensor, Tensor]:
    """Index of each Derm7pt value [7], and presence of each SkinCon feature [48]; `_NOT_STATED` in the other schema."""
    if morphology.schema == "derm7pt":
        values = [options.index(morphology.fields[name]) for name, options in DERM7PT_FIELDS.items()]
        return torch.tensor(values), torch.full((len(SKINCON_FEATURES),), float(_NOT_STATED))
    present = torch.tensor([float(name in morphology.features) for name in SKINCON_FEATURES])
    return torch.full((len(DERM7PT_FIELDS),), _NOT_STATED), present


def _loss(logits: Tensor, values: Tensor, features: Tensor) -> Tensor:
    """Sum of the fields' cross-entropies and the features' binary ones, each a mean over where it is stated."""
    *fields, skincon = logits.split([*map(len, DERM7PT_FIELDS.values()), len(SKINCON_FEATURES)], dim=1)
    stated = values[:, 0] != _NOT_STATED
    loss = skincon.sum() * 0
    if stated.any():
        loss = loss + sum(
            nn.functional.cross_entropy(field[stated], values[stated, i]) for i, field in enumerate(fields)
        )
    if not stated.all():
        bits = nn.functional.binary_cross_entropy_with_logits(skincon[~stated], features[~stated], reduction="none")
        loss = loss + bits.sum(dim=1).mean()
    return loss
