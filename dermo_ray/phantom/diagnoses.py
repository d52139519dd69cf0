"""The phantoms' diagnoses: real names, invented rules.

Each diagnosis follows from the morphology alone by a rule of OURS. The rules echo textbook pattern analysis so that
they read naturally, but they are a teaching device and no medicine: they exist so that whoever sees the morphology
right can name the diagnosis right, and nobody else can.

Invariant: `diagnose` is total. Within a modality the rules are tried in the order of the table, the first that holds
decides, and the last one always holds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from dermo_ray.morphology import SCHEMA_FOR_MODALITY, Modality, Morphology


@dataclass(frozen=True)
class Diagnosis:
    """One leaf of the taxonomy, and the rule that gives it.

    `rule` says in English what `holds` decides about a morphology for which no earlier rule held. `cores` lists, for
    clinical diagnoses, the smallest sets of SkinCon features that satisfy the rule.
    """

    name: str
    superclass: str
    subclass: str
    modality: Modality
    synonyms: tuple[str, ...]
    rule: str
    holds: Callable[[Morphology], bool]
    cores: tuple[frozenset[str], ...] = ()


def _dermoscopic(
    name: str, path: tuple[str, str], synonyms: tuple[str, ...], rule: str, holds: Callable[[Mapping[str, str]], bool]
) -> Diagnosis:
    return Diagnosis(name, *path, "dermoscopic", synonyms, rule, lambda m: holds(m.fields))


def _clinical(
    name: str, path: tuple[str, str], synonyms: tuple[str, ...], rule: str, *cores: frozenset[str]
) -> Diagnosis:
    return Diagnosis(
        name, *path, "clinical", synonyms, rule, lambda m: any(core <= m.features for core in cores), cores
    )


_NEOPLASMS = "Neoplasms & Proliferations"
_INFLAMMATORY = "Inflammatory & Immune-Mediated Disorders"
_INFECTIONS = "Infections & Infestations"
_PIGMENTARY = "Pigmentary Disorders"
_ADNEXAL = "Disorders of Hair, Nails & Skin Glands"

_MELANOCYTIC = (_NEOPLASMS, "Melanocytic Lesions (Nevi/Moles)")
_BENIGN = (_NEOPLASMS, "Benign Tumors, Growths & Cysts")
_VASCULAR = (_NEOPLASMS, "Vascular Tumors & Malformations")
_MALIGNANT = (_NEOPLASMS, "Malignant Tumors")
_PREMALIGNANT = (_NEOPLASMS, "Premalignant Lesions")
_PAPULOSQUAMOUS = (_INFLAMMATORY, "Papulosquamous Disorders")
_ECZEMA = (_INFLAMMATORY, "Eczema & Dermatitis")
_URTICARIA = (_INFLAMMATORY, "Urticaria & Angioedema")
_BLISTERING = (_INFLAMMATORY, "Autoimmune Blistering Disorders")
_VIRAL = (_INFECTIONS, "Viral Infections")
_FUNGAL = (_INFECTIONS, "Fungal Infections")
_BACTERIAL = (_INFECTIONS, "Bacterial Infections")
_HYPOPIGMENTATION = (_PIGMENTARY, "Hypopigmentation")
_ACNEIFORM = (_ADNEXAL, "Acne & Related Disorders")

_TABLE: tuple[Diagnosis, ...] = (
    _dermoscopic(
        "Melanoma",
        _MALIGNANT,
        ("Malignant Melanoma", "Cutaneous Melanoma"),
        "An atypical pigment network together with a blue whitish veil or irregular streaks.",
        lambda f: (
            f["Pigment Network"] == "atypical" and (f["Blue Whitish Veil"] == "present" or f["Streaks"] == "irregular")
        ),
    ),
    _dermoscopic(
        "Blue Nevus",
        _MELANOCYTIC,
        ("Blue Naevus", "Dermal Melanocytoma"),
        "A blue whitish veil and no pigment network.",
        lambda f: f["Blue Whitish Veil"] == "present" and f["Pigment Network"] == "absent",
    ),
    _dermoscopic(
        "Basal Cell Carcinoma",
        _MALIGNANT,
        ("BCC", "Basal Cell Epithelioma"),
        "Arborizing vessels, or vessels within regression.",
        lambda f: f["Vascular Structures"] in ("arborizing", "within regression"),
    ),
    _dermoscopic(
        "Vascular Lesion",
        _VASCULAR,
        ("Vascular Tumor",),
        "Wreath or dotted vessels.",
        lambda f: f["Vascular Structures"] in ("wreath", "dotted"),
    ),
    _dermoscopic(
        "Seborrheic Keratosis",
        _BENIGN,
        ("Seborrhoeic Keratosis", "Seborrheic Wart"),
        "Hairpin or comma vessels.",
        lambda f: f["Vascular Structures"] in ("hairpin", "comma"),
    ),
    _dermoscopic(
        "Dermatofibroma",
        _BENIGN,
        ("Benign Fibrous Histiocytoma", "Fibrous Histiocytoma"),
        "A typical pigment network around white areas of regression, alone or combined with blue ones.",
        lambda f: f["Pigment Network"] == "typical" and f["Regression Structures"] in ("white areas", "combinations"),
    ),
    _dermoscopic(
        "Actinic Keratosis",
        _PREMALIGNANT,
        ("Solar Keratosis", "Actinic Keratosis / Bowen's Disease"),
        "No pigment network, and either linear irregular vessels or pigmentation that is absent or localized.",
        lambda f: (
            f["Pigment Network"] == "absent"
            and (f["Vascular Structures"] == "linear irregular" or not f["Pigmentation"].startswith("diffuse"))
        ),
    ),
    _dermoscopic(
        "Melanocytic Nevus",
        _MELANOCYTIC,
        ("Nevus", "Mole", "Melanocytic Naevus"),
        "None of the other dermoscopic rules holds.",
        lambda f: True,
    ),
    _clinical(
        "Psoriasis",
        _PAPULOSQUAMOUS,
        ("Psoriasis Vulgaris", "Plaque Psoriasis"),
        "A plaque with scale.",
        frozenset({"Plaque", "Scale"}),
    ),
    _clinical(
        "Tinea Corporis",
        _FUNGAL,
        ("Ringworm",),
        "A patch with scale.",
        frozenset({"Patch", "Scale"}),
    ),
    _clinical(
        "Acne Vulgaris",
        _ACNEIFORM,
        ("Acne",),
        "Comedones together with papules or pustules.",
        frozenset({"Comedo", "Papule"}),
        frozenset({"Comedo", "Pustule"}),
    ),
    _clinical(
        "Rosacea",
        _ACNEIFORM,
        ("Couperose",),
        "Erythema with telangiectasia.",
        frozenset({"Erythema", "Telangiectasia"}),
    ),
    _clinical(
        "Vitiligo",
        _HYPOPIGMENTATION,
        ("Leukoderma",),
        "A white patch.",
        frozenset({"Patch", "White(Hypopigmentation)"}),
    ),
    _clinical(
        "Urticaria",
        _URTICARIA,
        ("Hives",),
        "A wheal with erythema or excoriation.",
        frozenset({"Wheal", "Erythema"}),
        frozenset({"Wheal", "Excoriation"}),
    ),
    _clinical(
        "Bullous Pemphigoid",
        _BLISTERING,
        ("Pemphigoid",),
        "A bulla with an erosion or erythema.",
        frozenset({"Bulla", "Erosion"}),
        frozenset({"Bulla", "Erythema"}),
    ),
    _clinical(
        "Impetigo",
        _BACTERIAL,
        ("Impetigo Contagiosa",),
        "Crust together with vesicles or pustules.",
        frozenset({"Crust", "Vesicle"}),
        frozenset({"Crust", "Pustule"}),
    ),
    _clinical(
        "Lichen Planus",
        _PAPULOSQUAMOUS,
        ("Lichen Ruber Planus",),
        "Purple colour on a plaque or a patch.",
        frozenset({"Purple", "Plaque"}),
        frozenset({"Purple", "Patch"}),
    ),
    _clinical(
        "Verruca Vulgaris",
        _VIRAL,
        ("Common Wart", "Wart", "Viral Wart"),
        "A warty surface on a nodule or among papules.",
        frozenset({"Warty/Papillomatous", "Nodule"}),
        frozenset({"Warty/Papillomatous", "Papule"}),
    ),
    _clinical(
        "Molluscum Contagiosum",
        _VIRAL,
        ("Molluscum", "Water Warts"),
        "Umbilicated lesions among papules or on a nodule.",
        frozenset({"Umbilicated", "Papule"}),
        frozenset({"Umbilicated", "Nodule"}),
    ),
    _clinical(
        "Squamous Cell Carcinoma",
        _MALIGNANT,
        ("SCC", "Epidermoid Carcinoma"),
        "An ulcer in a nodule or a plaque.",
        frozenset({"Ulcer", "Nodule"}),
        frozenset({"Ulcer", "Plaque"}),
    ),
    _clinical(
        "Atopic Dermatitis",
        _ECZEMA,
        ("Atopic Eczema",),
        "None of the other clinical rules holds.",
        frozenset(),
    ),
)

DIAGNOSES: Mapping[str, Diagnosis] = MappingProxyType({diagnosis.name: diagnosis for diagnosis in _TABLE})
"""Every phantom diagnosis by its canonical name, in the order in which the rules are tried."""


def diagnose(morphology: Morphology) -> str:
    """The canonical name of the one diagnosis that the rules give to `morphology`.

    Raises `KeyError` for a Derm7pt morphology that leaves out a field that a rule asks for.
    """
    return next(
        diagnosis.name
        for diagnosis in _TABLE
        if SCHEMA_FOR_MODALITY[diagnosis.modality] == morphology.schema and diagnosis.holds(morphology)
    )
