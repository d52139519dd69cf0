"""Tiny models of several families with random weights, each saved with its processor as a published one is."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
)
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from dermo_ray.phantom.tiny_model import TinyModelSettings, save_tiny_model
from dermo_ray.phantom.tokenizer import CHAT_TEMPLATE, END_OF_TEXT, END_OF_TURN, build_tokenizer

WIDTH, HEADS, LAYERS = 64, 2, 2
SPREAD = 0.08
"""Standard deviation of the random weights; see `TinyModelSettings.initializer_range`."""


def qwen3_vl(folder: Path) -> None:
    save_tiny_model(folder, TinyModelSettings(hidden_size=WIDTH, layers=LAYERS, vision_layers=2), seed=0)


def qwen2_5_vl(folder: Path) -> None:
    tokenizer = build_tokenizer(1024)
    ids = tokenizer.get_vocab()
    config = Qwen2_5_VLConfig(
        text_config=language_model(tokenizer)
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}},
        vision_config={
            "depth": 2,
            "hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH,
            "num_heads": HEADS,
            "patch_size": 14,
            "window_size": 56,
            "out_hidden_size": WIDTH,
            "fullatt_block_indexes": [1],
            "initializer_range": SPREAD,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    images = {"size": {"shortest_edge": 56 * 56, "longest_edge": 84 * 84}, "patch_size": 14}
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**images),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**images),
        chat_template=CHAT_TEMPLATE,
    )
    save(folder, Qwen2_5_VLForConditionalGeneration, config, processor)


def llava(folder: Path) -> None:
    tokenizer = build_tokenizer(1024)
    config = LlavaConfig(
        text_config=language_model(tokenizer) | {"model_type": "llama"},
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH,
            "num_hidden_layers": 3,
            "num_attention_heads": HEADS,
            "image_size": 56,
            "patch_size": 14,
            "initializer_range": SPREAD,
        },
        image_token_index=tokenizer.get_vocab()["<|image_pad|>"],
        image_seq_length=16,
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<|image_pad|>",
        chat_template=CHAT_TEMPLATE.replace("<|vision_start|>", "").replace("<|vision_end|>", ""),
    )
    save(folder, LlavaForConditionalGeneration, config, processor)
    # transformers names them so only where they were read from a published model, and vLLM knows no other names
    file, published = folder / "model.safetensors", "vision_tower.vision_model."
    weights = {name.replace("vision_tower.", published, 1): weight for name, weight in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})


FAMILIES: dict[str, Callable[[Path], None]] = {"qwen3_vl": qwen3_vl, "qwen2_5_vl": qwen2_5_vl, "llava": llava}


def language_model(tokenizer: PreTrainedTokenizerFast) -> dict[str, object]:
    """What the families' language models are configured by."""
    ids = tokenizer.get_vocab()
    return {
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": WIDTH,
        "intermediate_size": 3 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": 4096,
        "initializer_range": SPREAD,
        "bos_token_id": ids[END_OF_TEXT],
        "eos_token_id": ids[END_OF_TURN],
        "pad_token_id": ids[END_OF_TEXT],
        "tie_word_embeddings": True,
    }


def save(folder: Path, model: type[PreTrainedModel], config: object, processor: ProcessorMixin) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = model(config)
    made.save_pretrained(folder)
    processor.save_pretrained(folder)
