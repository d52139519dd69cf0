"""BCN20000: 18,946 dermoscopic images of hospital patients, hard sites and large lesions among them.

Hernández-Pérez et al., "BCN20000: Dermoscopic Lesions in the Wild", Scientific Data 11, 641 (2024),
doi:10.1038/s41597-024-03387-w; data doi:10.6084/m9.figshare.24140028. Published layout: `bcn_20k_train.csv` and
`bcn_20k_test.csv` with `bcn_filename`, `lesion_id` and, in the training table, `diagnosis` (MEL, NV, BCC, BKL, AK, SCC,
DF, VASC), images as `<bcn_filename>` in the folders unpacked beside them; the letter case of names varies with the
archive. The test table keeps its diagnoses back, so its rows are listed and dropped as unlabelled. The ISIC Archive's
copy of the data set is read by the source `isic`.
"""

from pathlib import Path

from dermo_ray.data.samples import Entry
from dermo_ray.data.sources.layout import ListedSource, existing, images_by_stem, listed, read_rows
from dermo_ray.errors import UserError

_TRAIN, _TEST = "bcn_20k_train.csv", "bcn_20k_test.csv"


class Bcn20000(ListedSource):
    """The published folder; the group is the lesion."""

    licence = "BCN20000 (Hernández-Pérez et al. 2024, doi:10.6084/m9.figshare.24140028): CC BY 4.0"

    def entries(self) -> list[Entry]:
        """One entry a row of the tables that are there, training first. Raises `UserError` for another layout."""
        root = existing(self._root, f"{_TRAIN} and its images")
        files = {path.name.lower(): path for path in sorted(root.iterdir())}
        if not {_TRAIN, _TEST} & files.keys():
            raise UserError(f"{root} holds neither {_TRAIN} nor {_TEST}; root is the folder of the published data set")
        rows = []
        if _TRAIN in files:
            rows += read_rows(files[_TRAIN], ("bcn_filename", "diagnosis", "lesion_id"))
        if _TEST in files:
            rows += read_rows(files[_TEST], ("bcn_filename",))
        images = images_by_stem(root, ("",), "bcn_20k_train/<bcn_filename>")
        keys = [Path(row["bcn_filename"]).stem for row in rows]
        return [
            listed(
                self._title,
                number,
                key,
                images.get(key.lower()),
                modality="dermoscopic",
                label=row.get("diagnosis", ""),
                group=row.get("lesion_id", ""),
            )
            for number, (key, row) in enumerate(zip(keys, rows, strict=True), start=1)
        ]
