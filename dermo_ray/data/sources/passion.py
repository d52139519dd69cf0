"""PASSION: 4,901 photographs of 1,653 mostly young patients in Sub-Saharan Africa.

Gottfrois et al., "PASSION for Dermatology: Bridging the Diversity Gap with Pigmented Skin Images from Sub-Saharan
Africa", MICCAI 2024, arXiv 2411.04584, https://passionderm.github.io. Published layout, as the authors' loader reads it
(https://github.com/Digital-Dermatology/PASSION-Evaluation): `label.csv`, a row a patient, with `subject_id`,
`fitzpatrick` and `conditions_PASSION` (Eczema, Fungal, Scabies, Others), and images below the root whose names begin
with the patient's identifier, letters and digits. `PASSION_split.csv` is not used: patients are split anew.
"""

import re
from pathlib import Path

from dermo_ray.data.samples import Entry, Reject, Sample
from dermo_ray.data.sources.layout import (
    ImageFile,
    ListedSource,
    Row,
    existing,
    fitzpatrick,
    image_files,
    listed,
    read_rows,
)
from dermo_ray.errors import UserError

_METADATA = "label.csv"
_COLUMNS = ("subject_id", "fitzpatrick", "conditions_PASSION")
_PATIENT = re.compile(r"[A-Za-z]+[0-9]+")
_NO_ROW: Row = dict.fromkeys(_COLUMNS, "")


class Passion(ListedSource):
    """The published table; the group is the patient."""

    licence = "PASSION (Gottfrois et al. 2024, arXiv 2411.04584): PASSION data licence, non-commercial, on request"

    def entries(self) -> list[Entry]:
        """One entry an image, then one for each row without any.

        Raises `UserError` where the folder, its table or every image is missing.
        """
        root = existing(self._root, f"{_METADATA} and the images")
        rows = read_rows(root / _METADATA, _COLUMNS)
        patients = {row["subject_id"]: row for row in rows}
        images = list(image_files(root))
        if not images:
            raise UserError(f"{root} holds no images: expected files that begin with a subject_id of {_METADATA}")
        pictures = [
            self._picture(number, image, patients.get(_patient(image[0]), _NO_ROW))
            for number, image in enumerate(images, start=1)
        ]
        seen = {entry.facts.get("group") for entry in pictures}
        return pictures + [
            listed(self._title, number, row["subject_id"], None, modality="clinical")
            for number, row in enumerate(rows, start=1)
            if row["subject_id"] not in seen
        ]

    def _picture(self, number: int, image: ImageFile, patient: Row) -> Entry:
        return listed(
            self._title,
            number,
            image[0],
            image,
            modality="clinical",
            label=patient["conditions_PASSION"],
            group=patient["subject_id"],
            skin_tone=fitzpatrick(patient["fitzpatrick"]),
        )

    def sample(self, entry: Entry) -> Sample:
        """The sample of one image. Raises `Reject` for an image without a row and for a row without an image."""
        sample = super().sample(entry)
        if sample.group is None:
            raise Reject("not_in_table")
        return sample


def _patient(file: str) -> str:
    """The identifier in a file's name; where there is none the whole name, which no row has."""
    match = _PATIENT.search(Path(file).stem)
    return match[0] if match else file
