"""Settings of the policy model and of its adapter."""

from typing import Literal

from pydantic import Field

from dermo_ray.config.base import AbsolutePath, Settings


class LoraSettings(Settings):
    """A low-rank adapter (Hu et al., arXiv 2106.09685) on the language model; the vision tower stays as it is."""

    rank: int = Field(default=64, ge=1)
    """Rank of the adapter; vLLM loads 1, 8, 16, 32, 64, 128, 256, 320 and 512."""
    alpha: int = Field(default=64, gt=0)
    """The adapter's output is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input; keep 0 in reinforcement learning, whose log-probabilities must repeat."""
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
