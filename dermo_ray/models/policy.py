"""The policy: a Hugging Face vision-language model, with or without a LoRA adapter, that scores token sequences.

Invariants: logits are formed for trained positions alone and never for more than `_LOGITS_AT_ONCE` of them together;
each prompt's images pass the vision tower once in a batch, however many sequences show them. The log-probabilities are
those of the sampling distribution: after the temperature, over the tokens that sampling may choose from.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForImageTextToText

from dermo_ray.config.model import LoraSettings, ModelSettings, Vision
from dermo_ray.errors import UserError
from dermo_ray.models.batches import ImageFeatures, VLMBatch, places_in_branches
from dermo_ray.models.patches import multiply_patches

_LOGITS_AT_ONCE = 2**26
"""256 MiB in float32, whatever the vocabulary; positions beyond it are scored chunk by chunk."""


def load_policy(
    settings: ModelSettings,
    lora: LoraSettings | None = None,
    adapter: Path | None = None,
    vision: Vision = "frozen",
) -> nn.Module:
    """The model at `settings.path`; with `lora` a fresh adapter on it, with `adapter` a saved one, ready to train on.

    `vision` says whether a fresh adapter covers the vision tower, or whether a model without one trains it. Raises
    `UserError` where the folder holds no model or an adapter target names no layer.
    """
    if not (settings.path / "config.json").is_file():
        raise UserError(f"{settings.path} holds no model: config.json is missing")
    model = AutoModelForImageTextToText.from_pretrained(
        settings.path,
        dtype=getattr(torch, settings.dtype),
        attn_implementation=settings.attention,
        local_files_only=True,
    )
    multiply_patches(model)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    if adapter is not None:
        return PeftModel.from_pretrained(model, adapter, is_trainable=True)
    if lora is not None:
        return add_adapter(model, lora, vision)
    if vision == "frozen":
        model.get_encoder(modality="image").requires_grad_(False)
    return model


def add_adapter(model: Any, lora: LoraSettings, vision: Vision = "frozen") -> PeftModel:
    """`model` with a fresh adapter on the layers of its language model that `lora.targets` names.

    With `vision: lora`, on all linear layers of the vision tower as well. Raises `UserError` where no layer has such a
    name.
    """
    # fully qualified: PEFT matches a bare suffix anywhere, and the vision tower of some families has the same names
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    targets = [n for n in linear if n.rpartition(".")[2] in lora.targets and ".language_model." in f".{n}."]
    if not targets:
        raise UserError(f"lora.targets: no linear layer of the language model is called {' or '.join(lora.targets)}")
    if vision == "lora":
        tower = set(model.get_encoder(modality="image").modules())
        targets += [name for name, module in linear.items() if module in tower]
    return get_peft_model(
        model,
        LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets, bias="none"),
    )


def merge(settings: ModelSettings, adapter: Path, folder: Path) -> None:
    """Write the model at `settings.path` with the saved `adapter` added to its weights to `folder`."""
    policy: Any = load_policy(settings, adapter=adapter)
    policy.merge_and_unload().save_pretrained(folder)


class PolicyScorer(nn.Module):
    """Wraps a policy so that its forward pass is one of log-probabilities, as DeepSpeed wants to see it."""

    banned: Tensor
    """[n] int64: tokens that sampling may not choose."""

    def __init__(self, policy: nn.Module, banned: list[int] | None = None, temperature: float = 1.0) -> None:
        super().__init__()
        self.policy = policy
        self.temperature = temperature
        self.most: Callable[[int], int] = lambda chunks: chunks
        """The largest of all ranks' numbers of chunks: where weights are sharded, each forming of logits gathers the
        output layer on all of them, so all must form as many."""
        self.register_buffer("banned", torch.tensor(banned or [], dtype=torch.long), persistent=False)

    def forward(self, batch: VLMBatch) -> Tensor:
        """Log-probability of every trained token, [N] in row-major order."""
        return self.in_chunks(self.logprobs, batch)

    def in_chunks(self, score: Callable[[Tensor, Tensor], Tensor], batch: VLMBatch) -> Tensor:
        """`score` of the trained tokens, [..., N] in row-major order: it takes logits [n, vocabulary] and targets [n].

        Where there are several chunks, the backward pass forms each one's logits again, so that only one chunk's are
        ever in memory. A rank with fewer tokens than others has smaller chunks, or empty ones, but as many.
        """
        hidden, targets = self.predicting(batch), batch.input_ids[batch.trained]
        at_once = max(1, _LOGITS_AT_ONCE // self.model.lm_head.out_features)

        def of_chunk(hidden: Tensor, targets: Tensor) -> Tensor:
            return score(self.logits(hidden), targets)

        count = self.most(max(1, -(-len(targets) // at_once)))
        if count == 1:
            return of_chunk(hidden, targets)
        chunks = zip(hidden.tensor_split(count), targets.tensor_split(count), strict=True)
        scores = [checkpoint(of_chunk, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
        return torch.cat(scores, dim=-1)

    @staticmethod
    def logprobs(logits: Tensor, targets: Tensor) -> Tensor:
        """Log-probabilities [n] of `targets` under `logits` [n, vocabulary]."""
        return -nn.functional.cross_entropy(logits, targets, reduction="none")

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [n, vocabulary] of the sampling distribution, from hidden states [n, width]."""
        logits = self.model.lm_head(hidden).float()
        if self.temperature != 1:
            logits = logits / self.temperature
        return logits.index_fill_(1, self.banned, -torch.inf) if len(self.banned) else logits

    def predicting(self, batch: VLMBatch) -> Tensor:
        """The hidden states that predict the trained tokens, [N, width] in row-major order."""
        hidden = self.model.model(**self._inputs(batch), use_cache=False).last_hidden_state
        rows, columns = batch.trained.nonzero(as_tuple=True)
        before = columns - 1
        if batch.branches is not None:
            begins = places_in_branches(batch.branches)[rows, columns] == 0
            ends_of_prompts = (batch.branches == 0).sum(dim=1) - 1
            before = torch.where(begins, ends_of_prompts[rows], before)
        return hidden[rows, before]

    def image_features(self, images: dict[str, Tensor], counts: Sequence[int]) -> list[ImageFeatures]:
        """What the vision tower makes of each prompt's images; `counts` says how many each prompt has."""
        seen = self.model.model.get_image_features(**images, return_dict=True)

        def by_prompt(of_images: Sequence[Tensor]) -> list[Tensor]:
            remaining = iter(of_images)
            return [torch.cat([next(remaining) for _ in range(count)]) for count in counts]

        levels = [by_prompt(level) for level in getattr(seen, "deepstack_features", None) or ()]
        tokens = by_prompt(seen.pooler_output)
        return [ImageFeatures(own, tuple(level[i] for level in levels)) for i, own in enumerate(tokens)]

    @property
    def model(self) -> Any:
        """The model under its adapter, if there is one."""
        return self.policy.get_base_model() if isinstance(self.policy, PeftModel) else self.policy

    @property
    def takes_branches(self) -> bool:
        """Whether sequences may have branches: the model takes masks and positions of one's own, as Qwen-VL does.

        In every layer: a sliding window or linear attention would see other branches, or part of the prompt alone.
        """
        config = self.model.config
        layers = getattr(config.get_text_config(), "layer_types", None) or ()
        full = all(kind == "full_attention" for kind in layers)
        return full and hasattr(self.model.model, "get_rope_index") and config._attn_implementation == "sdpa"

    def _inputs(self, batch: VLMBatch) -> dict[str, object]:
        """The keyword arguments of the model's forward pass; each sequence is handed its prompt's image features."""
        model = self.model
        accepted = inspect.signature(model.model.forward).parameters
        # no mask of padding: it stands on the right, where causal attention never looks, and kernels are faster without
        inputs: dict[str, object] = {"input_ids": batch.input_ids}
        if "mm_token_type_ids" in accepted:
            inputs["mm_token_type_ids"] = (batch.input_ids == model.config.image_token_id).int()
        features = batch.features or self.image_features(batch.images, batch.image_counts)
        shown = batch.image_index.tolist()
        handed_out = SimpleNamespace(pooler_output=[features[prompt].tokens for prompt in shown])
        if features[0].levels:
            by_level = zip(*(features[prompt].levels for prompt in shown), strict=True)
            handed_out.deepstack_features = [list(level) for level in by_level]
        inputs["mm_encoder_outputs"] = {"image": handed_out}
        if "image_grid_thw" in accepted:
            of_prompt = batch.images["image_grid_thw"].split(batch.image_counts)
            inputs["image_grid_thw"] = torch.cat([of_prompt[prompt] for prompt in shown])
        if batch.branches is not None:
            inputs["attention_mask"] = _branch_mask(batch.branches, model.dtype)
            inputs["position_ids"] = self._branch_positions(batch.branches, inputs)
        return inputs

    def _branch_positions(self, branches: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        """[3, B, L]: the positions of each token as if its branch followed the prompt alone."""
        prompts = branches == 0
        positions, deltas = self.model.model.get_rope_index(
            inputs["input_ids"],
            image_grid_thw=inputs["image_grid_thw"],
            attention_mask=prompts.long(),
            mm_token_type_ids=inputs["mm_token_type_ids"],
        )
        next_positions = prompts.sum(dim=1, keepdim=True) + deltas.to(branches.device)
        return torch.where(prompts, positions, next_positions + places_in_branches(branches))


def _branch_mask(branches: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, 1, L, L], added to attention scores: tokens see their prompt and what precedes them in their own branch.

    One tensor for all layers: a mask of booleans would be made into one like it, and kept, by every layer.
    """
    own = branches[:, :, None] == branches[:, None, :]
    visible = (own | (branches == 0)[:, None, :]).tril()
    return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)[:, None]
