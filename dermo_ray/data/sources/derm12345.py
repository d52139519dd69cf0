"""DERM12345: 12,345 dermoscopic images of 1,627 patients in 40 subclasses, most of them kinds of nevi.

Yilmaz et al., "DERM12345: A Large, Multisource Dermatoscopic Skin Lesion Dataset with 40 Subclasses", Scientific Data
11, 1302 (2024), doi:10.1038/s41597-024-04104-3; data doi:10.7910/DVN/DAXZ7P. Published layout:
`derm12345_metadata_train.csv` and `derm12345_metadata_test.csv` (Dataverse also hands them out as `.tab`) with
`patient_id`, `image_id`, `label` and the classes above it, images as `<label>/<image_id>.jpg` in the folders
`derm12345_train_part_1`, `derm12345_train_part_2` and `derm12345_test`.

The codes are spelt out: of the taxonomy's names, two letters would clash with other data sets' codes.
"""

from collections.abc import Mapping
from types import MappingProxyType

from dermo_ray.data.samples import Entry
from dermo_ray.data.sources.layout import ListedSource, existing, images_by_stem, listed, read_rows, table_of
from dermo_ray.errors import UserError

LABELS: Mapping[str, str] = MappingProxyType(
    {
        "acb": "Acral Compound Nevus",
        "acd": "Acral Compound Dysplastic Nevus",
        "ajb": "Acral Junctional Nevus",
        "ajd": "Acral Junctional Dysplastic Nevus",
        "ak": "Actinic Keratosis",
        "alm": "Acral Lentiginous Melanoma",
        "angk": "Angiokeratoma",
        "anm": "Acral Nodular Melanoma",
        "bcc": "Basal Cell Carcinoma",
        "bd": "Bowen's Disease",
        "bdb": "Blue Nevus",
        "cb": "Compound Nevus",
        "ccb": "Congenital Compound Nevus",
        "ccd": "Congenital Compound Dysplastic Nevus",
        "cd": "Compound Dysplastic Nevus",
        "ch": "Cutaneous Horn",
        "cjb": "Congenital Junctional Nevus",
        "db": "Dermal Nevus",
        "df": "Dermatofibroma",
        "dfsp": "Dermatofibrosarcoma Protuberans",
        "ha": "Hemangioma",
        "isl": "Ink-Spot Lentigo",
        "jb": "Junctional Nevus",
        "jd": "Junctional Dysplastic Nevus",
        "ks": "Kaposi Sarcoma",
        "la": "Lymphangioma",
        "lk": "Lichenoid Keratosis",
        "lm": "Lentigo Maligna",
        "lmm": "Lentigo Maligna Melanoma",
        "ls": "Lentigo Simplex",
        "mcb": "Miescher Nevus",
        "mel": "Melanoma",
        "mpd": "Mammary Paget Disease",
        "pg": "Pyogenic Granuloma",
        "rd": "Recurrent Nevus",
        "sa": "Spider Angioma",
        "scc": "Squamous Cell Carcinoma",
        "sk": "Seborrheic Keratosis",
        "sl": "Solar Lentigo",
        "srjd": "Reed or Spitz Nevus",
    }
)
"""The 40 subclasses: code in the tables, diagnosis."""

_FOLDERS = ("derm12345_train_part_1", "derm12345_train_part_2", "derm12345_test")


class Derm12345(ListedSource):
    """The published folder; the group is the patient."""

    licence = "DERM12345 (Yilmaz et al. 2024, doi:10.7910/DVN/DAXZ7P): CC BY 4.0"

    def entries(self) -> list[Entry]:
        """One entry a row of the tables that are there, training first. Raises `UserError` for another layout."""
        root = existing(self._root, "derm12345_metadata_train.csv and its images")
        names = (f"derm12345_metadata_{part}" for part in ("train", "test"))
        tables = [table_of(root, f"{name}.csv", f"{name}.tab") for name in names]
        present = [table for table in tables if table.is_file()]
        if not present:
            raise UserError(f"{root} holds no {tables[0].name}; root is the folder of the published data set")
        images = images_by_stem(root, _FOLDERS, f"{_FOLDERS[0]}/<label>/<image_id>.jpg")
        rows = [row for table in present for row in read_rows(table, ("patient_id", "image_id", "label"))]
        return [
            listed(
                self._title,
                number,
                row["image_id"],
                images.get(row["image_id"].lower()),
                modality="dermoscopic",
                label=LABELS.get(row["label"], row["label"]),
                group=row["patient_id"],
            )
            for number, row in enumerate(rows, start=1)
        ]
