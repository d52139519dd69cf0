"""An adapter folded into the weights of the model that it was trained on, as vLLM loads both.

Names are compared as vLLM's model has them: checkpoints of some families call their layers otherwise than PEFT does.
Invariant: every layer that the adapter changes is among the weights, or the last of them comes with an error.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from vllm.lora.peft_helper import PEFTHelper
from vllm.lora.utils import parse_fine_tuned_lora_name
from vllm.model_executor.models.utils import WeightsMapper

from actors.adapters import WEIGHTS


def merged(
    weights: Iterable[tuple[str, Tensor]], adapter: Path, mapper: WeightsMapper | None, device: torch.device
) -> Iterator[tuple[str, Tensor]]:
    """`weights` by name, those that the PEFT folder `adapter` covers with its change added, summed up in float32.

    The change is scale * B A (Hu et al., arXiv 2106.09685, section 4.1), computed on `device`. `mapper` is the model's
    own, from names in files to its layers'. Raises `RuntimeError` for layers of the adapter that never came.
    """
    scale = PEFTHelper.from_local_dir(str(adapter), max_position_embeddings=None).vllm_lora_scaling_factor
    renaming = mapper.get_rename_mapper() if mapper is not None else None
    layer_of: Callable[[str], str | None] = renaming.map_name if renaming is not None else str
    factors: dict[str, dict[bool, Tensor]] = {}
    for name, factor in load_file(adapter / WEIGHTS).items():
        layer, is_a = parse_fine_tuned_lora_name(name, renaming)
        factors.setdefault(layer, {})[is_a] = factor
    for name, weight in weights:
        found = factors.pop((layer_of(name) or "").removesuffix(".weight"), None)
        if found is not None:
            change = found[False].to(device, torch.float32) @ found[True].to(device, torch.float32)
            changed = weight.to(device, torch.float32).add(change, alpha=scale)
            yield name, changed.to(weight.device, weight.dtype)
        else:
            yield name, weight
    if factors:
        raise RuntimeError(f"{adapter} changes layers that the model does not have: {', '.join(sorted(factors)[:3])}")
