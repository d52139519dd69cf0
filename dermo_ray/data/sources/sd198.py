"""SD-198: 6,584 clinical photographs of 198 diseases.

Sun, Yang, Sun, Wang, "A Benchmark for Automatic Visual Classification of Clinical Skin Disease Images", ECCV 2016,
doi:10.1007/978-3-319-46466-4_13, http://xiaopingwu.cn/assets/projects/sd-198/. Published layout:
`images/<class>/*.jpg`, the class with underscores, such as `Acne_Keloidalis_Nuchae`; the lists beside it (`images.txt`,
`classes.txt`, `image_class_labels.txt`) say the same and are not needed.
"""

from dermo_ray.data.samples import Entry
from dermo_ray.data.sources.class_folders import class_folders
from dermo_ray.data.sources.layout import ListedSource, existing


class Sd198(ListedSource):
    """The published folder; nothing is known about groups."""

    licence = "SD-198 (Sun et al. 2016, doi:10.1007/978-3-319-46466-4_13): research and academic use, on request"

    def entries(self) -> list[Entry]:
        """One entry a file. Raises `UserError` where the folder or its images are missing."""
        root = existing(self._root, "images")
        return class_folders(self._title, root, ("images",), expected="images/<class>/*.jpg")
