"""The policy: a Hugging Face vision-language model, with or without a LoRA adapter, that scores token sequences.

Invariants: logits are formed for trained positions alone, and each image passes the vision tower once however many
sequences show it. The log-probabilities are those of the sampling distribution: after the temperature, over the tokens
that sampling may choose from.
"""

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

from dermo_ray.config.model import LoraSettings, ModelSettings
from dermo_ray.errors import UserError
from dermo_ray.models.batches import VLMBatch


def load_policy(settings: ModelSettings, lora: LoraSettings | None = None, adapter: Path | None = None) -> nn.Module:
    """The model at `settings.path`; with `lora` a fresh adapter on it, with `adapter` a saved one, ready to train on.

    Raises `UserError` where the folder holds no model or an adapter target names no layer.
    """
    if not (settings.path / "config.json").is_file():
        raise UserError(f"{settings.path} holds no model: config.json is missing")
    model = AutoModelForImageTextToText.from_pretrained(
        settings.path,
        dtype=getattr(torch, settings.dtype),
        attn_implementation=settings.attention,
        local_files_only=True,
    )
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    if adapter is not None:
        return PeftModel.from_pretrained(model, adapter, is_trainable=True)
    if lora is None:
        return model
    # fully qualified: PEFT matches a bare suffix anywhere, and the vision tower of some families has the same names
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n.rpartition(".")[2] in lora.targets]
    targets = [name for name in names if ".language_model." in f".{name}."]
    if not targets:
        raise UserError(f"lora.targets: no linear layer of the language model is called {' or '.join(lora.targets)}")
    return get_peft_model(
        model,
        LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets, bias="none"),
    )


class PolicyScorer(nn.Module):
    """Wraps a policy so that its forward pass is one of log-probabilities, as DeepSpeed wants to see it."""

    def __init__(self, policy: nn.Module, banned: list[int] | None = None, temperature: float = 1.0) -> None:
        super().__init__()
        self.policy = policy
        self.temperature = temperature
        self.register_buffer("banned", torch.tensor(banned or [], dtype=torch.long), persistent=False)

    def forward(self, batch: VLMBatch) -> Tensor:
        """Log-probability of every trained token, [N] in row-major order."""
        targets = batch.input_ids[batch.trained]
        return -nn.functional.cross_entropy(self.logits(batch), targets, reduction="none")

    def logits(self, batch: VLMBatch) -> Tensor:
        """Logits that predict the trained tokens, [N, vocabulary] in row-major order."""
        model: Any = self.policy.get_base_model() if isinstance(self.policy, PeftModel) else self.policy
        hidden = model.model(**_inputs(model, batch), use_cache=False).last_hidden_state
        predicting = batch.trained.roll(-1, dims=1)  # position t predicts token t + 1; column 0 is never trained
        logits = model.lm_head(hidden[predicting]).float() / self.temperature
        return logits.index_fill(1, self.banned, -torch.inf)


def _inputs(model: Any, batch: VLMBatch) -> dict[str, object]:
    """The keyword arguments of the model's forward pass, the images encoded once and handed out to their sequences."""
    accepted = inspect.signature(model.model.forward).parameters
    inputs: dict[str, object] = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if "mm_token_type_ids" in accepted:
        inputs["mm_token_type_ids"] = (batch.input_ids == model.config.image_token_id).int()
    features = model.model.get_image_features(**batch.images, return_dict=True)
    shown = batch.image_index.tolist()
    handed_out = SimpleNamespace(pooler_output=[features.pooler_output[i] for i in shown])
    if (deepstack := getattr(features, "deepstack_features", None)) is not None:
        handed_out.deepstack_features = [[level[i] for i in shown] for level in deepstack]
    inputs["mm_encoder_outputs"] = {"image": handed_out}
    if "image_grid_thw" in accepted:
        inputs["image_grid_thw"] = batch.images["image_grid_thw"][batch.image_index]
    return inputs
