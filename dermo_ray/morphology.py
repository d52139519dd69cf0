"""The two closed vocabularies of skin morphology: read, normalise, validate, compare.

SkinCon-48 (Daneshjou et al., NeurIPS 2022) lists which features a clinical photograph shows.
Derm7pt (Kawahara et al., IEEE JBHI 2019) gives one value to each of seven fields of a dermoscopic image.
The exact strings and the JSON keys are those of the released DermoGPT records.

Invariant: a `Morphology` holds vocabulary terms in their one canonical spelling; whatever else a
text stated survives only as a count of `unknown` entries, so that an invention can never help a score.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

Schema = Literal["skincon", "derm7pt"]
Modality = Literal["clinical", "dermoscopic"]

SKINCON_FEATURES: tuple[str, ...] = (
    "Abscess", "Acuminate", "Atrophy", "Black", "Blue", "Brown(Hyperpigmentation)", "Bulla", "Burrow",
    "Comedo", "Crust", "Cyst", "Dome-shaped", "Erosion", "Erythema", "Excoriation", "Exophytic/Fungating",
    "Exudate", "Fissure", "Flat topped", "Friable", "Gray", "Induration", "Lichenification", "Macule",
    "Nodule", "Papule", "Patch", "Pedunculated", "Pigmented", "Plaque", "Poikiloderma", "Purple",
    "Purpura/Petechiae", "Pustule", "Salmon", "Scale", "Scar", "Sclerosis", "Telangiectasia", "Translucent",
    "Ulcer", "Umbilicated", "Vesicle", "Warty/Papillomatous", "Wheal", "White(Hypopigmentation)", "Xerosis",
    "Yellow",
)  # fmt: skip

DERM7PT_FIELDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "Pigment Network": ("absent", "typical", "atypical"),
        "Blue Whitish Veil": ("absent", "present"),
        "Vascular Structures": (
            "absent",
            "arborizing",
            "comma",
            "hairpin",
            "within regression",
            "wreath",
            "dotted",
            "linear irregular",
        ),
        "Pigmentation": (
            "absent",
            "diffuse regular",
            "localized regular",
            "diffuse irregular",
            "localized irregular",
        ),
        "Streaks": ("absent", "regular", "irregular"),
        "Dots and Globules": ("absent", "regular", "irregular"),
        "Regression Structures": ("absent", "blue areas", "white areas", "combinations"),
    }
)

SKINCON_KEY = "morphological_features_skincon"
DERM7PT_KEY = "morphological_features_Derm7pt"
SCHEMA_KEYS: Mapping[str, Schema] = MappingProxyType({SKINCON_KEY: "skincon", DERM7PT_KEY: "derm7pt"})
SCHEMA_FOR_MODALITY: Mapping[Modality, Schema] = MappingProxyType({"clinical": "skincon", "dermoscopic": "derm7pt"})


def _fold(text: str) -> str:
    return " ".join(text.replace("_", " ").split()).casefold()


_FEATURE_BY_FOLDED = {_fold(name): name for name in SKINCON_FEATURES}
_FIELD_BY_FOLDED = {_fold(name): name for name in DERM7PT_FIELDS}


class MorphologyError(ValueError):
    """A JSON value that is not a morphology in either schema."""


@dataclass(frozen=True)
class Morphology:
    """What the skin shows, in one schema.

    `features` is used by the skincon schema, `fields` (Title Case field -> value) by derm7pt.
    `unknown` counts stated entries that are not in the vocabulary; `missing` the Derm7pt fields not stated;
    `repeated` the SkinCon features stated more than once.
    """

    schema: Schema
    features: frozenset[str] = frozenset()
    fields: Mapping[str, str] = field(default_factory=dict)
    unknown: int = 0
    missing: int = 0
    repeated: int = 0

    @classmethod
    def from_json(cls, value: object) -> "Morphology":
        """Read the released JSON shape: exactly one of the two schema keys.

        Letter case, surplus space and snake_case are forgiven in field names and values; anything outside the
        vocabulary is counted in `unknown`. Raises `MorphologyError` where the shape itself is wrong.
        """
        if not isinstance(value, Mapping):
            raise MorphologyError("the morphology is not a JSON object")
        if len(value) != 1 or next(iter(value)) not in SCHEMA_KEYS:
            raise MorphologyError(f"the morphology needs exactly one key of {sorted(SCHEMA_KEYS)}")
        key, content = next(iter(value.items()))
        if SCHEMA_KEYS[key] == "skincon":
            return cls._from_features(content)
        return cls._from_fields(content)

    @classmethod
    def _from_features(cls, content: object) -> "Morphology":
        if not isinstance(content, list):
            raise MorphologyError(f"{SKINCON_KEY} must be a JSON array")
        known = [_FEATURE_BY_FOLDED.get(_fold(entry)) if isinstance(entry, str) else None for entry in content]
        features = frozenset(name for name in known if name is not None)
        unknown = known.count(None)
        return cls("skincon", features=features, unknown=unknown, repeated=len(known) - unknown - len(features))

    @classmethod
    def _from_fields(cls, content: object) -> "Morphology":
        if not isinstance(content, Mapping):
            raise MorphologyError(f"{DERM7PT_KEY} must be a JSON object")
        fields: dict[str, str] = {}
        unknown = 0
        for key, entry in content.items():
            name = _FIELD_BY_FOLDED.get(_fold(str(key)))
            stated = _fold(entry) if isinstance(entry, str) else None
            if name is None or stated not in DERM7PT_FIELDS[name] or name in fields:
                unknown += 1
            else:
                fields[name] = stated
        missing = len(DERM7PT_FIELDS) - len(fields)
        return cls(
            "derm7pt", fields={k: fields[k] for k in DERM7PT_FIELDS if k in fields}, unknown=unknown, missing=missing
        )

    def to_json(self) -> dict[str, Any]:
        """The released shape: a sorted array of features, or the seven fields in Title Case."""
        if self.schema == "skincon":
            return {SKINCON_KEY: sorted(self.features)}
        return {DERM7PT_KEY: {name: self.fields[name] for name in DERM7PT_FIELDS if name in self.fields}}

    @property
    def closed(self) -> bool:
        """Whether every stated entry is in the vocabulary, once, and no Derm7pt field is left out."""
        return self.unknown == 0 and self.missing == 0 and self.repeated == 0


def agreement(stated: Morphology | Mapping[str, Any] | None, reference: Morphology | Mapping[str, Any] | None) -> float:
    """How well a stated morphology matches the reference, in [0, 1].

    SkinCon: F1 of the two sets, unknown entries counted against precision, two empty sets agree (1.0).
    Derm7pt: share of the seven fields with the reference's value. The reference decides the schema: the other
    schema, a malformed value or nothing at all scores 0.
    """
    first, second = _coerce(stated), _coerce(reference)
    if first is None or second is None or first.schema != second.schema:
        return 0.0
    if second.schema == "derm7pt":
        right = sum(first.fields.get(name) == value for name, value in second.fields.items())
        return right / len(DERM7PT_FIELDS)
    total = len(first.features) + first.unknown + len(second.features)
    return 2 * len(first.features & second.features) / total if total else 1.0


def _coerce(value: Morphology | Mapping[str, Any] | None) -> Morphology | None:
    if value is None or isinstance(value, Morphology):
        return value
    try:
        return Morphology.from_json(value)
    except MorphologyError:
        return None  # a malformed statement scores 0 by definition, it is no failure of ours
