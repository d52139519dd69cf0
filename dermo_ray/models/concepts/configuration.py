"""The configuration of the concept model, as transformers saves and reads it."""

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from dermo_ray.morphology import Schema


class ConceptModelConfig(PreTrainedConfig):
    """What a saved concept model says about itself.

    `encoder` is the configuration of the image encoder, `encoder_width` the channels of its last hidden state (None:
    those that the encoder's own configuration names); `labels` the diagnoses of each schema that occurred in
    training, in the order of the linear head's outputs; `schemas` those of whose concepts there were annotations;
    `temperatures` what calibration divides logits by, for `SCHEMA` and `SCHEMA/diagnosis`, 1 where not calibrated.
    """

    model_type = "dermo_ray_concepts"
    sub_configs = {"encoder": AutoConfig}  # type: ignore[dict-item]  # noqa: RUF012  # as in transformers itself
    has_no_defaults_at_init = True

    encoder_width: int | None = None
    labels: dict[str, list[str]] | None = None
    schemas: list[str] | None = None
    temperatures: dict[str, float] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        encoder = dict(kwargs.pop("encoder"))
        self.encoder = AutoConfig.for_model(encoder.pop("model_type"), **encoder)
        self.labels = self.labels or {}
        self.schemas = self.schemas or []
        self.temperatures = self.temperatures or {}
        super().__post_init__(**kwargs)

    def labels_of(self, schema: Schema) -> list[str]:
        """The diagnoses that the linear head of a schema chooses from; empty where none occurred in training."""
        return (self.labels or {}).get(schema, [])

    def temperature_of(self, head: str) -> float:
        """What the logits of `SCHEMA` or `SCHEMA/diagnosis` are divided by."""
        return (self.temperatures or {}).get(head, 1.0)


AutoConfig.register(ConceptModelConfig.model_type, ConceptModelConfig, exist_ok=True)
