"""The data sets that can be read, one module each, and how to open one by name.

A source lists its `Entry` rows on the driver, in seconds and without opening images, and turns one entry into a
`Sample` on any worker that sees the same files.

Invariant: every row of a published table becomes an entry; what can't be used is refused in `sample`, by `Reject`, so
that entries = samples kept + samples dropped.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

from dermo_ray.config.prepare import SourceConfig, SourceName
from dermo_ray.data.samples import Entry, Sample
from dermo_ray.data.sources.ham10000 import Ham10000
from dermo_ray.data.sources.phantoms import Phantoms


class Source(Protocol):
    """A data set."""

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


SOURCES: Mapping[SourceName, Callable[[SourceConfig, int], Source]] = MappingProxyType(
    {"phantoms": Phantoms, "ham10000": Ham10000}
)


def open_source(config: SourceConfig, seed: int) -> Source:
    """The source that `config` describes; `seed` is used by those that draw."""
    return SOURCES[config.name](config, seed)
