"""Any folder of images in one folder a class: `<root>/<class>/**/<image>`, the layout that ImageFolder loaders read.

Nothing is known of lesions and patients: what decides an image's split is which others it is a near-duplicate of.
"""

from dermo_ray.config.sources import SourceConfig
from dermo_ray.data.samples import Entry
from dermo_ray.data.sources.layout import ListedSource, existing, image_files, listed
from dermo_ray.errors import UserError


class Folder(ListedSource):
    """The folder; the label is the name of the class's folder, the modality that of the settings."""

    def __init__(self, config: SourceConfig, seed: int) -> None:
        super().__init__(config, seed)
        self._modality = config.modality

    @property
    def licence(self) -> str:
        """The origin; of the licence only the folder's owner knows."""
        return f"{self._title}: a folder of images, under the terms of its owner"

    def entries(self) -> list[Entry]:
        """One entry an image, by its path; an image outside the class folders has no label.

        Raises `UserError` where the folder is missing or holds no images.
        """
        root = existing(self._root, "one folder of images a class")
        entries = [
            listed(
                self._title,
                number,
                file,
                (file, size),
                modality=self._modality,
                label=file.split("/")[0] if "/" in file else "",
            )
            for number, (file, size) in enumerate(image_files(root), start=1)
        ]
        if not entries:
            raise UserError(f"{root} holds no images: expected <class>/<image>.jpg")
        return entries
