"""Daffodil: 9,548 clinical photographs of five conditions, Daffodil International University.

Khushbu, "Skin Disease Classification Dataset", Mendeley Data V1 (2024), doi:10.17632/3hckgznc67.1. Published layout:
one folder a class, `acne`, `hyperpigmentation`, `Nail_psoriasis`, `SJS-TEN` and `Vitiligo`; DermoInstruct's records
have them under `images`. They are found at any depth, in any letter case. Many pictures are altered copies of others,
and which show one patient is not known.
"""

from pathlib import PurePosixPath

from dermo_ray.data.samples import Entry
from dermo_ray.data.sources.layout import ListedSource, existing, image_files, listed
from dermo_ray.errors import UserError

_CLASSES = ("acne", "hyperpigmentation", "Nail_psoriasis", "SJS-TEN", "Vitiligo")
_FOLDED = {name.casefold() for name in _CLASSES}


class Daffodil(ListedSource):
    """The published folders; nothing is known about groups."""

    licence = "Daffodil skin disease classification (Khushbu 2024, doi:10.17632/3hckgznc67.1): CC BY 4.0"

    def entries(self) -> list[Entry]:
        """One entry a file; one outside the class folders has no label.

        Raises `UserError` where the folder is missing or no class folder in it holds an image.
        """
        root = existing(self._root, f"the folders {', '.join(_CLASSES)}")
        entries = [
            listed(self._title, number, file, (file, size), modality="clinical", label=_class_of(file))
            for number, (file, size) in enumerate(image_files(root), start=1)
        ]
        if not any("label" in entry.facts for entry in entries):
            raise UserError(f"{root} holds no images in folders called {', '.join(_CLASSES)}; root is the folder above")
        return entries


def _class_of(file: str) -> str:
    """The innermost class folder on a path, empty where there is none."""
    folders = reversed(PurePosixPath(file).parts[:-1])
    return next((name for name in folders if name.casefold() in _FOLDED), "")
