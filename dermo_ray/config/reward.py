"""Settings of the MAVIC reward."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from dermo_ray.config.base import AbsolutePath, Settings


class TermWeights(Settings):
    """The weight of each term; weights are normalised over the terms that apply to a record."""

    format: float = Field(default=0.2, ge=0, le=100)
    """Blocks present, in order, once, nothing outside; valid JSON in the closed vocabulary."""
    diagnosis: float = Field(default=0.3, ge=0, le=100)
    """1 where the stated label is the reference, synonyms included."""
    taxonomy: float = Field(default=0.1, ge=0, le=100)
    """Closeness of the stated label to the reference in the diagnosis tree."""
    morphology: float = Field(default=0.4, ge=0, le=100)
    """Agreement of the stated morphology with the reference annotation."""
    consistency: float = Field(default=0.2, ge=0, le=100)
    """Fit of the stated morphology to the image and of the diagnosis to it, from the concept model."""


class FaultCosts(Settings):
    """The share of the format term that each named fault costs, once for each block concerned."""

    missing_block: float = Field(default=0.5, ge=0, le=1)
    """A required block, or the task1 paragraph, is not there or not closed."""
    repeated_block: float = Field(default=0.5, ge=0, le=1)
    """A block occurs more than once; none of its copies is read."""
    wrong_order: float = Field(default=0.3, ge=0, le=1)
    """The blocks are there, but not in the order of the task."""
    text_outside: float = Field(default=0.2, ge=0, le=1)
    """Text outside the blocks, a block or tag of another task, or a second task1 paragraph."""
    invalid_json: float = Field(default=0.6, ge=0, le=1)
    """The morphology block is not one JSON object with distinct keys."""
    wrong_keys: float = Field(default=0.6, ge=0, le=1)
    """The JSON has not exactly one of the two schema keys, or the wrong kind of value under it."""
    wrong_schema: float = Field(default=0.5, ge=0, le=1)
    """The schema is not the one for the modality."""
    outside_vocabulary: float = Field(default=0.3, ge=0, le=1)
    """An entry that is not in the closed vocabulary, or is stated twice."""
    missing_field: float = Field(default=0.3, ge=0, le=1)
    """A Derm7pt field without a value."""
    empty_block: float = Field(default=0.3, ge=0, le=1)
    """A reasoning or diagnosis block with nothing in it."""
    several_labels: float = Field(default=0.5, ge=0, le=1)
    """A diagnosis block with more than one label, or too long for one; nothing of it is read."""
    forbidden_token: float = Field(default=1.0, ge=0, le=1)
    """An image placeholder or special token in the text; makes the format term 0."""


_NAME = r"^[A-Za-z_][\w.-]*$"
_MAVIC_NAMES = frozenset(TermWeights.model_fields) | {"total"}


class ImportedTerm(Settings):
    """A reward term of one's own, by import path. The path alone, as a string, may stand for it."""

    path: str
    """`module:name` of a callable f(completions, ground_truths) -> scores, or of a class whose objects are one."""
    name: str = Field(default="", pattern=_NAME)
    """What the term is called in records and metrics; the name in `path` where it is not given."""
    weight: float = Field(default=0.1, ge=0, le=100)
    """Its weight, normalised together with the others; at 0 it is recorded and counts for nothing."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments: of the class when it is built, of a function at each call."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        value = {"path": value} if isinstance(value, str) else value
        if isinstance(value, dict) and not value.get("name"):
            return {**value, "name": str(value.get("path")).rpartition(":")[2]}
        return value

    @field_validator("path")
    @classmethod
    def _is_a_path(cls, value: str) -> str:
        module, _, attribute = value.partition(":")
        if not (attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))):
            raise ValueError("a term of one's own is written module:name, such as my_pkg.rewards:Brevity")
        return value


class ServiceTerm(Settings):
    """A reward term that a service outside Ray gives, by JSON over HTTP."""

    name: str = Field(pattern=_NAME)
    """What the term is called in records and metrics."""
    url: str = Field(pattern=r"^https?://\S+$")
    """Takes a POST of {"completions": [...], "ground_truths": [...]}, answers {"rewards": [...]}."""
    weight: float = Field(default=0.1, ge=0, le=100)
    """Its weight, normalised together with the others."""
    timeout: float = Field(default=30, gt=0)
    """Seconds within which a batch must be scored, from the first attempt to the last byte of the answer; those of
    all services together must be below the pool's `timeout`."""
    retries: int = Field(default=2, ge=0)
    """Further attempts where the service can't be reached or answers with status 429 or 5xx."""


class RewardConfig(Settings):
    """The MAVIC reward: weights, gate, the cost of each format fault, the diagnosis tree, and terms of one's own."""

    weights: TermWeights = TermWeights()
    """Weight of each term."""
    gate: Literal["anchor", "schema", "none"] = "anchor"
    """`anchor`: diagnosis and taxonomy count in proportion to min(1, morphology / tau). `schema`: morphology and
    consistency count only where JSON and schema are right. `none`: no gate."""
    tau: float = Field(default=0.5, gt=0, le=1)
    """The morphology (or, without a reference, consistency) at which the anchor gate is fully open."""
    faults: FaultCosts = FaultCosts()
    """What each format fault costs."""
    taxonomy: AbsolutePath | None = None
    """A diagnosis tree of one's own (YAML, or released JSON); the default tree where it is not given."""
    concepts: AbsolutePath | None = None
    """Folder of a concept model, as jobs.concepts writes it; without one there is no consistency term."""
    extra: tuple[ImportedTerm, ...] = ()
    """Further terms, by import path."""
    services: tuple[ServiceTerm, ...] = ()
    """Further terms, from services over HTTP."""

    @property
    def others(self) -> tuple[ImportedTerm | ServiceTerm, ...]:
        """Every term beside those of MAVIC."""
        return (*self.extra, *self.services)

    @model_validator(mode="after")
    def _some_weight(self) -> "RewardConfig":
        if not any([*self.weights.model_dump().values(), *(term.weight for term in self.others)]):
            raise ValueError("weights: at least one term needs a weight above 0")
        return self

    @model_validator(mode="after")
    def _distinct_names(self) -> "RewardConfig":
        names = [term.name for term in self.others]
        for name in names:
            if name in _MAVIC_NAMES or names.count(name) > 1:
                raise ValueError(f"extra: two terms would be called {name!r}; give one of them another name")
        return self
