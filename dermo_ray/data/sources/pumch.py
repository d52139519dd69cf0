"""PUMCH-ISD: clinical and dermoscopic pictures of eight inflammatory diseases, Peking Union Medical College Hospital.

Distributed as https://www.kaggle.com/datasets/jcwang10000/pumch-isd by the authors of "Enhancing Diagnosis of Psoriasis
and Inflammatory Skin Diseases: A Spatially Aligned Multimodal Model Integrating Clinical and Dermoscopic Images". Its
layout is not documented; this reads the one that DermoInstruct's records name, `images/<class>/clinic/*`. What lies in
other folders is counted as of unknown modality.
"""

from pathlib import PurePosixPath

from dermo_ray.data.samples import Entry, Reject, Sample
from dermo_ray.data.sources.class_folders import class_folders
from dermo_ray.data.sources.layout import ListedSource, existing


class Pumch(ListedSource):
    """The clinical photographs; nothing is known about groups."""

    licence = "PUMCH-ISD (kaggle.com/datasets/jcwang10000/pumch-isd): as stated there"

    def entries(self) -> list[Entry]:
        """One entry a file. Raises `UserError` where the folder or its images are missing."""
        root = existing(self._root, "images")
        return class_folders(self._title, root, ("images",), expected="images/<class>/clinic/*.jpg")

    def sample(self, entry: Entry) -> Sample:
        """The sample of one file; its label is the class folder. Raises `Reject` for a file outside `clinic`."""
        if PurePosixPath(entry.facts["file"]).parts[2:-1] != ("clinic",):
            raise Reject("unknown_modality")
        return super().sample(entry)
