"""DermNet: about 19,500 clinical photographs in 23 broad classes, collected from dermnet.com.

Distributed as https://www.kaggle.com/datasets/shubhamgoel27/dermnet. Published layout: `train/<class>/*.jpg` and
`test/<class>/*.jpg`, the class written out, such as "Acne and Rosacea Photos". Either part may be missing. Its split is
not kept: which pictures show one patient is not known, and near-duplicates lie on both sides of it.
"""

from dermo_ray.data.samples import Entry
from dermo_ray.data.sources.class_folders import class_folders
from dermo_ray.data.sources.layout import ListedSource, existing

_PARTS = ("train", "test")


class Dermnet(ListedSource):
    """The published folders, both parts together; nothing is known about groups."""

    licence = "DermNet (dermnet.com, as distributed on Kaggle): images belong to DermNet; academic use only"

    def entries(self) -> list[Entry]:
        """One entry a file. Raises `UserError` where the folder or its images are missing."""
        root = existing(self._root, "train and test")
        return class_folders(self._title, root, _PARTS, expected="train/<class>/*.jpg and test/<class>/*.jpg")
