"""Where a service keeps what it serves: copies of the adapters, and the catalogue.

Invariants: a copy under its final name is complete, has the checksum of its release and never changes; the catalogue is
written after the copies that it names.
"""

import shutil
from collections.abc import Collection
from pathlib import Path

from pydantic import ValidationError

from actors.adapters import checksum
from dermo_ray.errors import UserError
from dermo_ray.staging import staged, staged_file
from serve.catalogue import Catalogue, Release
from serve.checkpoints import Checkpoint

_CATALOGUE = "catalogue.json"


def keep(store: Path, checkpoint: Checkpoint) -> Release:
    """Copy the adapter of `checkpoint` into `store`, under its label and the beginning of its checksum."""
    if checkpoint.adapter is None:
        return Release(label=checkpoint.label, version=checkpoint.version)
    digest = checksum(checkpoint.adapter)
    copy = store / f"{checkpoint.label}-{digest[:12]}"
    if not copy.exists():
        try:
            with staged(copy) as partial:
                shutil.copytree(checkpoint.adapter, partial, dirs_exist_ok=True)
                if checksum(partial) != digest:
                    raise UserError(
                        f"{checkpoint.adapter} changed while it was read: push it again once it is complete"
                    )
        except OSError:
            if not copy.is_dir():  # else another service on this store was quicker, with the same files
                raise
    return Release(label=checkpoint.label, version=checkpoint.version, adapter=copy, checksum=digest)


def save(store: Path, catalogue: Catalogue) -> None:
    """Write the catalogue, at once or not at all."""
    store.mkdir(parents=True, exist_ok=True)
    with staged_file(store / _CATALOGUE) as aside:
        aside.write_text(catalogue.model_dump_json(indent=2))


def load(store: Path) -> Catalogue | None:
    """The catalogue that was saved; None where there is none.

    Raises `UserError` for one that can't be read, or that promises an adapter which is gone.
    """
    path = store / _CATALOGUE
    if not path.is_file():
        return None
    try:
        catalogue = Catalogue.model_validate_json(path.read_text())
    except ValidationError as error:
        raise UserError(f"{path} is not what a service wrote: remove {store} to begin anew") from error
    for release in catalogue.releases.values():
        if release.adapter is not None and not release.adapter.is_dir():
            raise UserError(f"{path} names {release.adapter}, which is gone: remove {store} to begin anew")
    return catalogue


def sweep(store: Path, held: Collection[Path]) -> None:
    """Remove the copies that are not among `held`."""
    for folder in store.iterdir():
        if folder.is_dir() and folder not in held and ".partial-" not in folder.name:
            shutil.rmtree(folder, ignore_errors=True)
