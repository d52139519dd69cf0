"""DDI, Diverse Dermatology Images: 656 biopsy-proven clinical photographs over all skin tones; a benchmark.

Daneshjou et al., "Disparities in dermatology AI performance on a diverse, curated clinical image set", Science Advances
8(31), eabq6147 (2022), doi:10.1126/sciadv.abq6147, https://ddi-dataset.github.io. Published layout: `ddi_metadata.csv`
with `DDI_file`, `skin_tone` and `disease`, and the images it names beside it, or in `images` as the authors' code wants
them. Skin tones are pairs of Fitzpatrick types, 12, 34 and 56; a sample has the lower one, 1, 3 or 5.
"""

from pathlib import Path

from dermo_ray.config.sources import SourceConfig
from dermo_ray.data.samples import Entry
from dermo_ray.data.sources.layout import ListedSource, existing, images_by_stem, listed, read_rows
from dermo_ray.data.sources.skincon import read_skincon

_METADATA = "ddi_metadata.csv"
_COLUMNS = ("DDI_file", "skin_tone", "disease")
_LOWER_TYPE = {"12": 1, "34": 3, "56": 5}


class Ddi(ListedSource):
    """The published table, with SkinCon's annotations where `skincon` names them; patients are not published."""

    licence = "DDI (Daneshjou et al. 2022, doi:10.1126/sciadv.abq6147): Stanford research use agreement"

    def __init__(self, config: SourceConfig, seed: int) -> None:
        super().__init__(config, seed)
        self._skincon = config.skincon

    def entries(self) -> list[Entry]:
        """One entry a row. Raises `UserError` where the folder, a table or every image is missing."""
        root = existing(self._root, _METADATA)
        rows = read_rows(root / _METADATA, _COLUMNS)
        files = images_by_stem(root, ("",), f"the files that {_METADATA} names, such as 000001.png")
        images = [Path(row["DDI_file"]).stem for row in rows]
        annotations = read_skincon(self._skincon, set(images)) if self._skincon else {}
        return [
            listed(
                self._title,
                number,
                image,
                files.get(image.lower()),
                modality="clinical",
                label=row["disease"],
                skin_tone=_LOWER_TYPE.get(row["skin_tone"]),
                annotation=annotations.get(image),
            )
            for number, (image, row) in enumerate(zip(images, rows, strict=True), start=1)
        ]
