"""Settings of the policy model and of its adapter."""

from typing import Literal

from pydantic import Field

from dermo_ray.config.base import AbsolutePath, Settings

Vision = Literal["frozen", "lora", "full"]
"""What training does to the vision tower."""


class LoraSettings(Settings):
    """A low-rank adapter (Hu et al., arXiv 2106.09685)."""

    rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] = 64
    """Rank of the adapter: one that vLLM makes room for."""
    alpha: int = Field(default=64, gt=0)
    """The adapter's output is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input; 0 in reinforcement learning, whose log-probabilities must repeat."""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Names of the linear layers of the language model that get an adapter."""


class ModelSettings(Settings):
    """Which policy to load."""

    path: AbsolutePath
    """Folder in Hugging Face format: config, weights, tokenizer and processor."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of weights and activations; the engine and the learner use the same."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Attention implementation of the learner."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""


def check_vision(vision: Vision, lora: LoraSettings | None) -> None:
    """Raise `ValueError` where the vision tower can't be trained as `vision` says beside that adapter, or without one.

    An adapter file holds low-rank weights alone (vLLM refuses PEFT's `modules_to_save`), so beside an adapter the tower
    is frozen or has an adapter too.
    """
    if vision == "full" and lora is not None:
        raise ValueError(
            "vision=full needs lora=null, for no engine loads whole weights from an adapter: take vision=lora"
        )
    if vision == "lora" and lora is None:
        raise ValueError("vision=lora needs an adapter: give lora.rank, or take vision=full")
