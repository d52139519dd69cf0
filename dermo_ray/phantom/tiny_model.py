"""A Qwen3-VL of about two million parameters, saved in Hugging Face format.

It has every part of the real architecture (patch merger, DeepStack, interleaved M-RoPE, tied or untied head), so
transformers, PEFT and vLLM load it by the same code as Qwen3-VL-8B. It starts from random weights: it can only know
what it is taught on phantoms.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

from dermo_ray.config.base import Settings
from dermo_ray.phantom.pretraining import pretrain_vision
from dermo_ray.phantom.render import Phantom
from dermo_ray.phantom.tokenizer import END_OF_TEXT, END_OF_TURN, build_tokenizer

_PIXEL_MEAN = _PIXEL_STD = 0.5


class TinyModelSettings(Settings):
    """The shape of the tiny Qwen3-VL."""

    hidden_size: int = 128
    """Width of the language model; a multiple of twice that of a head."""
    head_size: int = 32
    """Width of an attention head, of the language model and of the vision tower."""
    layers: int = 4
    """Layers of the language model."""
    vision_hidden_size: int = 128
    """Width of the vision tower."""
    vision_layers: int = 4
    """Layers of the vision tower."""
    patch_size: int = 16
    """Side of a patch in pixels; four patches make one image token."""
    max_pixels: int = 96 * 96
    """Larger images are scaled down to this area."""
    initializer_range: float = 0.08
    """Standard deviation of the random weights; about 1 / sqrt(width), so that a narrow network's signals neither fade
    nor grow."""
    final_norm: float = 3.0
    """What the last normalisation's weights start from. It bounds the logits: at 1, in a narrow network, several
    possible tokens can't all be far likelier than the rest, and one in a few thousand sampled tokens is nonsense."""
    vocabulary_size: int = 1024
    """Tokens of the byte-level BPE."""


def save_tiny_model(
    folder: Path, settings: TinyModelSettings, seed: int = 0, phantoms: Sequence[Phantom] = (), steps: int = 0
) -> None:
    """Write a randomly initialised model with its processor to `folder`.

    With `phantoms`, its vision tower is trained on them for `steps` updates first.
    """
    tokenizer = build_tokenizer(settings.vocabulary_size)
    ids = tokenizer.get_vocab()
    head_size = settings.head_size
    section = 5 * head_size // 32
    config = Qwen3VLConfig(
        text_config={
            "initializer_range": settings.initializer_range,
            "vocab_size": -(-len(tokenizer) // 64) * 64,
            "hidden_size": settings.hidden_size,
            "intermediate_size": 3 * settings.hidden_size,
            "num_hidden_layers": settings.layers,
            "num_attention_heads": settings.hidden_size // head_size,
            "num_key_value_heads": settings.hidden_size // head_size // 2,
            "head_dim": head_size,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [head_size // 2 - 2 * section, section, section],
                "mrope_interleaved": True,
            },
            "bos_token_id": ids[END_OF_TEXT],
            "eos_token_id": ids[END_OF_TURN],
            "pad_token_id": ids[END_OF_TEXT],
            "tie_word_embeddings": True,
        },
        vision_config={
            "initializer_range": settings.initializer_range,
            "depth": settings.vision_layers,
            "hidden_size": settings.vision_hidden_size,
            "intermediate_size": 2 * settings.vision_hidden_size,
            "num_heads": settings.vision_hidden_size // head_size,
            "patch_size": settings.patch_size,
            "out_hidden_size": settings.hidden_size,
            "num_position_embeddings": 144,
            "deepstack_visual_indexes": [settings.vision_layers // 2],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3VLForConditionalGeneration(config)
    torch.nn.init.constant_(model.model.language_model.norm.weight, settings.final_norm)
    if phantoms and steps:
        pretrain_vision(model, phantoms, _PIXEL_MEAN, _PIXEL_STD, steps, seed)
    model.generation_config.eos_token_id = [ids[END_OF_TURN], ids[END_OF_TEXT]]
    model.generation_config.pad_token_id = ids[END_OF_TEXT]
    model.save_pretrained(folder)

    area = {"shortest_edge": (4 * settings.patch_size) ** 2, "longest_edge": settings.max_pixels}
    images = {
        "size": area,
        "patch_size": settings.patch_size,
        "image_mean": [_PIXEL_MEAN] * 3,
        "image_std": [_PIXEL_STD] * 3,
    }
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**images),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(**images),
        chat_template=tokenizer.chat_template,
    )
    processor.save_pretrained(folder)
