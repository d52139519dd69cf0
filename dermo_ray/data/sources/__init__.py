"""The data sets that can be read, one module each, and how to open one by name.

A source lists its `Entry` rows on the driver, in seconds and without opening images, and turns one entry into a
`Sample` on any worker that sees the same files.

Invariants: every row of a published table becomes an entry, and what can't be used is refused in `sample`, by `Reject`,
so that entries = samples kept + samples dropped; ids and groups begin with the source's title, so that no two sources
share one; entries come in the same order on every machine.
"""

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Protocol

from dermo_ray.config.sources import SourceConfig, SourceName
from dermo_ray.data.samples import Entry, Sample


class Source(Protocol):
    """A data set, made from its `SourceConfig` and the run's seed, which those use that draw."""

    @property
    def licence(self) -> str:
        """Licence and origin, as the data card states them."""
        ...

    def entries(self) -> list[Entry]:
        """The listing. Raises `UserError` where the root does not have the published layout."""
        ...

    def sample(self, entry: Entry) -> Sample:
        """The sample behind an entry. Raises `Reject` where it can't be used."""
        ...


SOURCES: Mapping[SourceName, str] = MappingProxyType(
    {
        "phantoms": "Phantoms",
        "ham10000": "Ham10000",
        "isic": "IsicArchive",
        "bcn20000": "Bcn20000",
        "derm12345": "Derm12345",
        "derm7pt": "Derm7pt",
        "dermnet": "Dermnet",
        "fitzpatrick17k": "Fitzpatrick17k",
        "sd198": "Sd198",
        "pad_ufes_20": "PadUfes20",
        "scin": "Scin",
        "passion": "Passion",
        "midas": "Midas",
        "pumch": "Pumch",
        "daffodil": "Daffodil",
        "ddi": "Ddi",
        "folder": "Folder",
        "table": "Table",
    }
)
"""Source name: the class that reads it, in the module of that name."""


def open_source(config: SourceConfig, seed: int) -> Source:
    """The source that `config` describes; `seed` is used by those that draw."""
    module = import_module(f"{__name__}.{config.name}")
    source: Source = getattr(module, SOURCES[config.name])(config, seed)
    return source
