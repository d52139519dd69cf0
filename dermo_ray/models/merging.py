"""An adapter folded into its base, so that every stage can start from the result as from any model.

Invariant: every tensor of the adapter's files ends up in the model; a file that fits only in part is refused.
"""

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from torch import Tensor, nn

from dermo_ray.errors import UserError

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
OTHER_WEIGHTS = "non_lora_state_dict.bin"
"""What trainers of the Qwen-VL fine-tuning family write beside an adapter: weights that were trained as a whole, such
as those of the vision tower."""
_PREFIXES = ("base_model.model.", "model.")


def merged(model: Any, adapter: Path) -> nn.Module:
    """`model` with the adapter in the folder `adapter` added to its weights, and the whole weights beside it put in.

    Raises `UserError` where the folder holds no adapter, or one that was trained on another model.
    """
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (adapter / name).is_file():
            raise UserError(f"{adapter} holds no adapter: {name} is missing")
    if (adapter / OTHER_WEIGHTS).is_file():
        put_in(model, torch.load(adapter / OTHER_WEIGHTS, map_location="cpu", weights_only=True), adapter)
    policy = PeftModel.from_pretrained(model, adapter)
    with safe_open(adapter / ADAPTER_WEIGHTS, framework="pt") as file:
        strange = set(file.keys()) - get_peft_model_state_dict(policy).keys()
    if strange:
        raise UserError(
            f"{adapter} does not fit the model: {len(strange)} of its tensors have no place in it, such as "
            f"{min(strange)}; give the model that it was trained on as model.path"
        )
    whole: nn.Module = policy.merge_and_unload(safe_merge=True)
    return whole


def put_in(model: nn.Module, weights: dict[str, Tensor], source: Path) -> None:
    """Replace the weights of `model` that `weights` names, with or without the prefixes that trainers add.

    Raises `UserError`, naming `source`, for a name or a shape that the model does not have.
    """
    there = model.state_dict()
    named = {}
    for given, tensor in weights.items():
        name = next((name for name in _spellings(given) if name in there), None)
        if name is None or there[name].shape != tensor.shape:
            raise UserError(f"{source / OTHER_WEIGHTS} does not fit the model: it has no {given} {list(tensor.shape)}")
        named[name] = tensor
    model.load_state_dict(named, strict=False)


def _spellings(name: str) -> list[str]:
    """`name`, and what is left of it without one or two prefixes."""
    spellings = [name]
    for prefix in _PREFIXES:
        spellings += [spelling.removeprefix(prefix) for spelling in spellings]
    return spellings
