"""Where a new concept model's image encoder comes from: a folder in Hugging Face format, or a small one built here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel, ResNetConfig, ViTImageProcessor

from dermo_ray.config.concepts import EncoderSettings
from dermo_ray.errors import UserError
from dermo_ray.models.concepts.configuration import ConceptModelConfig
from dermo_ray.models.concepts.data import pixels
from dermo_ray.models.concepts.model import ConceptModel, by_position
from dermo_ray.morphology import Schema

_PIXEL_MEAN = _PIXEL_STD = (0.5, 0.5, 0.5)


def new_model(settings: EncoderSettings, labels: Mapping[Schema, list[str]], schemas: list[Schema]) -> ConceptModel:
    """An untrained concept model on the encoder that `settings` name.

    `labels` are the diagnoses of each schema, `schemas` those with annotations to learn from. The weights of an encoder
    that is built here come from torch's random state. Raises `UserError` where `settings.path` holds no image encoder.
    """
    loaded = width = None
    if settings.path is None:
        encoder: Any = ResNetConfig(
            embedding_size=settings.widths[0],
            hidden_sizes=list(settings.widths),
            depths=list(settings.depths),
            layer_type="basic",
        )
    else:
        if not (settings.path / "config.json").is_file():
            raise UserError(f"{settings.path} holds no image encoder: config.json is missing")
        try:
            encoder = AutoConfig.from_pretrained(settings.path, local_files_only=True)
            encoder = getattr(encoder, "vision_config", encoder)
            loaded = AutoModel.from_pretrained(settings.path, config=encoder, local_files_only=True)
        except (OSError, ValueError, ImportError) as error:
            told = " ".join(str(error).split())
            raise UserError(f"{settings.path} can't be opened as an image encoder: {told:.300}") from error
        width = _width(loaded, settings.path)
    fields: dict[str, Any] = {"encoder": encoder.to_dict(), "encoder_width": width}
    fields |= {"labels": dict(labels), "schemas": list(schemas)}
    model = ConceptModel(ConceptModelConfig(**fields))
    if loaded is not None:
        model.encoder = loaded
    return model


def _width(encoder: Any, folder: Path) -> int:
    """Channels of the last hidden state, which not every configuration names: seen from an image.

    Raises `UserError` where the model gives no such state for an image.
    """
    image = pixels(load_processor(folder), [Image.new("RGB", (64, 64))])
    try:
        with torch.no_grad():
            channels: int = by_position(encoder.eval()(pixel_values=image).last_hidden_state).shape[1]
    except Exception as error:
        told = " ".join(str(error).split())
        raise UserError(
            f"{folder} holds no image encoder: its {type(encoder).__name__} gives no last_hidden_state for an image "
            f"({type(error).__name__}: {told:.200}); give encoder.path a folder that AutoModel opens as one"
        ) from error
    return channels


def new_processor(settings: EncoderSettings) -> Any:
    """The image processor that belongs to the encoder. Raises `UserError` where `settings.path` holds none."""
    if settings.path is not None:
        return load_processor(settings.path)
    size = {"height": settings.size, "width": settings.size}
    return ViTImageProcessor(size=size, image_mean=_PIXEL_MEAN, image_std=_PIXEL_STD)


def load_processor(folder: Path) -> Any:
    """The image processor in a model's folder. Raises `UserError` where there is none."""
    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        raise UserError(f"{folder} has no image processor: preprocessor_config.json is missing")
    return AutoImageProcessor.from_pretrained(folder, local_files_only=True)
