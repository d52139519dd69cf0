"""Settings of the data sets that `jobs.prepare` reads."""

from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from dermo_ray.config.base import AbsolutePath, Settings
from dermo_ray.morphology import DERM7PT_FIELDS, Modality
from dermo_ray.phantom.settings import AnnotationNoise, PhantomSettings

SourceName = Literal[
    "phantoms",
    "ham10000",
    "isic",
    "bcn20000",
    "derm12345",
    "derm7pt",
    "dermnet",
    "fitzpatrick17k",
    "sd198",
    "pad_ufes_20",
    "scin",
    "passion",
    "midas",
    "pumch",
    "daffodil",
    "ddi",
    "folder",
    "table",
]


class ColumnMap(Settings):
    """What the columns of a `table` source mean."""

    image: str
    """Column with the image: a path relative to root, or what `image_pattern` makes a path of."""
    image_pattern: str = "{}"
    """Path of an image relative to root, `{}` standing for the column's value, such as images/{}.jpg."""
    label: str | None = None
    """Column with the diagnosis."""
    group: str | None = None
    """Column with the lesion or patient."""
    modality: str | None = None
    """Column that says how the picture was taken; values that hold "derm" are dermoscopic, others clinical."""
    skin_tone: str | None = None
    """Column with the Fitzpatrick type, 1 to 6 or I to VI."""
    derm7pt: dict[str, str] = Field(default={})
    """Derm7pt field, such as "Pigment Network" or pigment_network: column with its value; all seven, or none."""
    skincon: str | None = None
    """Column with the SkinCon features that are present, a list or text separated by semicolons."""

    @field_validator("image_pattern")
    @classmethod
    def _has_a_place(cls, pattern: str) -> str:
        if "{}" not in pattern:
            raise ValueError("image_pattern needs {} where the column's value goes, as in images/{}.jpg")
        return pattern

    @field_validator("derm7pt")
    @classmethod
    def _whole_checklist(cls, columns: dict[str, str]) -> dict[str, str]:
        known = {name.lower().replace(" ", "_"): name for name in DERM7PT_FIELDS}
        named = {known.get(name.lower().replace(" ", "_"), name): column for name, column in columns.items()}
        if named and named.keys() != DERM7PT_FIELDS.keys():
            raise ValueError(f"derm7pt needs a column for each of {', '.join(known)}, and nothing else")
        return named

    def named(self) -> list[str]:
        """The columns that are named, each once."""
        simple = (self.image, self.label, self.group, self.modality, self.skin_tone, self.skincon)
        return list(dict.fromkeys(name for name in (*simple, *self.derm7pt.values()) if name))


class SourceOptions(Settings):
    """What a source needs; which of them apply depends on the source."""

    root: AbsolutePath | None = None
    """Folder of a published data set, in the layout in which it is distributed."""
    count: int = Field(default=0, ge=0, le=10_000_000)
    """Phantoms: how many to draw."""
    phantom: PhantomSettings = PhantomSettings()
    """Phantoms: the population that is drawn."""
    noise: AnnotationNoise = AnnotationNoise()
    """Phantoms: how the simulated annotators err. Only supervised targets have their errors; rewards know the truth."""
    modality: Modality | None = None
    """Folder and table: how the pictures were taken, where no column says so."""
    file: AbsolutePath | None = None
    """Table: the CSV, Parquet or JSONL file."""
    columns: ColumnMap | None = None
    """Table: what its columns mean."""
    skincon: AbsolutePath | None = None
    """Fitzpatrick17k and DDI: SkinCon's table of annotations over their images."""


_NEEDS: dict[str, set[str]] = {name: {"root"} for name in get_args(SourceName)} | {
    "phantoms": {"count"},
    "folder": {"root", "modality"},
    "table": {"root", "file", "columns"},
}
_SAID = {
    "root": "root=DIR, the folder of the data set",
    "count": "count=NUMBER, how many to draw",
    "modality": "modality=clinical or modality=dermoscopic",
    "file": "file=PATH, the table",
    "columns": "columns.image=COLUMN and what its other columns mean",
}
_TAKES: dict[str, set[str]] = _NEEDS | {
    "phantoms": {"count", "phantom", "noise"},
    "table": {"root", "file", "columns", "modality"},
    "fitzpatrick17k": {"root", "skincon"},
    "ddi": {"root", "skincon"},
}

_BENCHMARKS = frozenset({"ddi"})
"""Sources that are there to measure with; whoever trained on them could no longer compare with others."""


class SourceConfig(SourceOptions):
    """One source of a mixture."""

    name: SourceName
    """Which data set it is."""
    alias: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """What records call it instead of its name; needed where `folder` or `table` stands in a mixture twice."""
    use: Literal["train", "benchmark"] = "train"
    """benchmark: its images make no record, and no image that looks like one of them is trained on; ddi always is."""

    @property
    def title(self) -> str:
        """What records call it."""
        return self.alias or self.name

    @model_validator(mode="before")
    @classmethod
    def _benchmarks_stay_aside(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("name") not in _BENCHMARKS:
            return data
        if data.get("use", "benchmark") == "train":
            raise ValueError(
                f"{data['name']} is a benchmark, which is never trained on: set use=benchmark or remove it"
            )
        return {"use": "benchmark"} | data

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> "SourceConfig":
        given = self.model_fields_set & SourceOptions.model_fields.keys()
        for option in sorted(_NEEDS[self.name]):
            if not getattr(self, option):
                raise ValueError(f"source {self.name} needs {_SAID[option]}")
        if unused := sorted(given - _TAKES[self.name]):
            takers = ", ".join(name for name, options in _TAKES.items() if unused[0] in options)
            raise ValueError(f"{self.name} has no use for {unused[0]}, which is for {takers}: remove it")
        if self.columns and not (self.modality or self.columns.modality):
            raise ValueError(f"source {self.name} needs {_SAID['modality']}, or columns.modality=COLUMN")
        return self
