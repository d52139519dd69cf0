"""What clients call the policies: `NAME`, `NAME@step_000040`, and either with `+cct`."""

from dataclasses import dataclass

from serve.catalogue import Catalogue, Release

CCT_SUFFIX = "+cct"
_AT = "@"


@dataclass(frozen=True)
class Names:
    """The names under which releases of one model go."""

    name: str

    def full(self, release: Release) -> str:
        """`dermo@step_000040`."""
        return f"{self.name}{_AT}{release.label}"

    def fingerprint(self, release: Release) -> str:
        """`dermo@step_000040/v40`."""
        return f"{self.full(release)}/v{release.version}"

    def find(self, asked: str, catalogue: Catalogue) -> tuple[Release, bool] | None:
        """The release that is to answer a request to the model `asked`, and whether with CCT; None for other names."""
        cct = asked.endswith(CCT_SUFFIX)
        name, at, label = asked.removesuffix(CCT_SUFFIX).partition(_AT)
        if name != self.name or (at and label not in catalogue.releases):
            return None
        return (catalogue.releases[label] if at else catalogue.choose()), cct

    def all(self, catalogue: Catalogue) -> list[tuple[str, Release]]:
        """Every name that can be asked for, the bare ones first."""
        held = [catalogue.newest, *(r for label, r in catalogue.releases.items() if label != catalogue.promoted)]
        plain = [(self.name, catalogue.newest), *((self.full(release), release) for release in held)]
        return [entry for name, release in plain for entry in ((name, release), (f"{name}{CCT_SUFFIX}", release))]
