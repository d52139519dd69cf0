"""Clinical photographs in class folders, the layout of several published collections: PART/CLASS/FILE."""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from dermo_ray.data.samples import Entry
from dermo_ray.data.sources.layout import image_files, listed
from dermo_ray.errors import UserError


def class_folders(title: str, root: Path, parts: Iterable[str], expected: str) -> list[Entry]:
    """An entry for each image file in the `parts`, folders below the root; its label is the folder below the part.

    A file that lies in no class folder has no label, and no entry has a group. Raises `UserError` naming the
    `expected` layout where there is no image at all.
    """
    entries = [
        listed(title, number, file, (file, size), modality="clinical", label=_class_of(file))
        for number, (file, size) in enumerate(image_files(root, parts), start=1)
    ]
    if not entries:
        raise UserError(f"{root} holds no images: expected {expected}; root is the folder of the published data set")
    return entries


def _class_of(file: str) -> str:
    _, *folders = PurePosixPath(file).parts[:-1]
    return folders[0] if folders else ""
