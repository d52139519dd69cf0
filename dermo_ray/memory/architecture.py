"""The sizes of a model that its memory follows from, read off the real architecture without its weights."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from dermo_ray.config.model import LoraSettings, Vision
from dermo_ray.errors import UserError

PUBLISHED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))
)
"""Configurations of published models by name, as their `config.json` has them."""


@dataclass(frozen=True)
class Architecture:
    """Counts of parameters and widths of layers."""

    parameters: int
    """Of the whole model, tied ones once."""
    adapter: int
    """Of the adapter."""
    trained: int
    """Of what training changes: the adapter, or all that is not frozen."""
    vision_is_trained: bool
    layers: int
    width: int
    mlp_width: int
    query_width: int
    """Heads times the size of a head."""
    key_width: int
    """Heads of keys, or of values, times the size of a head."""
    vocabulary: int
    rank: int
    """Rank of the adapter, 0 without one."""
    vision_layers: int
    vision_width: int
    vision_mlp_width: int
    patches_per_token: int
    """How many patches of an image become one token."""


def read_configuration(model: Path) -> dict[str, Any]:
    """The `config.json` of the model folder. Raises `UserError` where there is none."""
    file = model / "config.json"
    if not file.is_file():
        raise UserError(f"{model} holds no model: config.json is missing")
    configuration: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return configuration


def architecture_of(configuration: Mapping[str, Any], lora: LoraSettings | None, vision: Vision) -> Architecture:
    """Build the model on the meta device, where weights take no memory, with its adapter, and read off its sizes."""
    # here: whoever only reads the table of GPUs need not wait for these
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from dermo_ray.models.policy import add_adapter

    config = AutoConfig.for_model(**configuration)
    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(config)
    parameters = sum(weight.numel() for weight in model.parameters())
    adapter = 0
    if lora is not None:
        with torch.device("meta"):
            model = add_adapter(model, lora, vision)
        adapter = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    elif vision == "frozen":
        model.get_encoder(modality="image").requires_grad_(False)
    text, tower = config.get_text_config(), config.vision_config
    return Architecture(
        parameters=parameters,
        adapter=adapter,
        trained=sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        vision_is_trained=vision != "frozen",
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        mlp_width=text.intermediate_size,
        query_width=text.num_attention_heads * text.head_dim,
        key_width=text.num_key_value_heads * text.head_dim,
        vocabulary=text.vocab_size,
        rank=0 if lora is None else lora.rank,
        vision_layers=tower.depth,
        vision_width=tower.hidden_size,
        vision_mlp_width=tower.intermediate_size,
        patches_per_token=tower.spatial_merge_size**2,
    )
