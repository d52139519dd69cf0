"""PAD-UFES-20: 2,298 smartphone images of 1,641 lesions of 1,373 patients, 6 diagnoses.

Pacheco et al., "PAD-UFES-20: A skin lesion dataset composed of patient data and clinical images collected from
smartphones", Data in Brief 32, 106221 (2020), doi:10.1016/j.dib.2020.106221; data doi:10.17632/zr7vgbcyr2.1. Published
layout: `metadata.csv` with `patient_id`, `img_id` (a file name), `diagnostic` (ACK, BCC, MEL, NEV, SCC with Bowen's
disease, SEK) and `fitspatrick` (so spelt; empty for lesions that were not biopsied), and the archives `imgs_part_1` to
`imgs_part_3`, unpacked beside it or below `images/`.
"""

from pathlib import Path

from dermo_ray.data.samples import Entry
from dermo_ray.data.sources.layout import (
    ListedSource,
    existing,
    fitzpatrick,
    images_by_stem,
    listed,
    read_rows,
)


class PadUfes20(ListedSource):
    """The published folder; the group is the patient."""

    licence = "PAD-UFES-20 (Pacheco et al. 2020, doi:10.17632/zr7vgbcyr2.1): CC BY 4.0"

    def entries(self) -> list[Entry]:
        """One entry a row of the metadata table. Raises `UserError` for another layout."""
        root = existing(self._root, "metadata.csv and the images")
        rows = read_rows(root / "metadata.csv", ("patient_id", "img_id", "diagnostic"))
        images = images_by_stem(root, ("",), "imgs_part_1/<img_id>")
        keys = [Path(row["img_id"]).stem for row in rows]
        return [
            listed(
                self._title,
                number,
                key,
                images.get(key.lower()),
                modality="clinical",
                label=row["diagnostic"],
                group=row["patient_id"],
                skin_tone=fitzpatrick(row.get("fitspatrick", "")),
            )
            for number, (key, row) in enumerate(zip(keys, rows, strict=True), start=1)
        ]
