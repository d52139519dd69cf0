"""Fitzpatrick17k: 16,577 clinical photographs of 114 conditions from two online atlases, with Fitzpatrick skin types.

Groh et al., "Evaluating Deep Neural Networks Trained on Clinical Images in Dermatology with the Fitzpatrick 17k
Dataset", CVPR Workshops 2021, arXiv 2104.09957, https://github.com/mattgroh/fitzpatrick17k. Published layout:
`fitzpatrick17k.csv`, and images called `<md5hash>.jpg` in a folder of any name below the root (`data/finalfitz17k` in
the authors' archive). Images are fetched from their web addresses, of which many are dead: rows without a file are
counted as missing. The type is -1 where it is unknown; `qc` has a dermatologist's verdict on 504 of the labels;
those called wrong are dropped.
"""

from pathlib import Path

from dermo_ray.config.sources import SourceConfig
from dermo_ray.data.samples import Entry
from dermo_ray.data.sources.layout import ListedSource, existing, fitzpatrick, image_files, listed, read_rows
from dermo_ray.data.sources.skincon import read_skincon

_METADATA = "fitzpatrick17k.csv"
_COLUMNS = ("md5hash", "fitzpatrick_scale", "label", "qc")
_WRONG = "3 Wrongly labelled"


class Fitzpatrick17k(ListedSource):
    """The published table, with SkinCon's annotations where `skincon` names them; nothing is known about groups."""

    licence = "Fitzpatrick17k (Groh et al. 2021, arXiv 2104.09957): CC BY-NC-SA 3.0; SkinCon's annotations: none stated"

    def __init__(self, config: SourceConfig, seed: int) -> None:
        super().__init__(config, seed)
        self._skincon = config.skincon

    def entries(self) -> list[Entry]:
        """One entry a row. Raises `UserError` where the folder or a table is missing or damaged."""
        root = existing(self._root, _METADATA)
        rows = read_rows(root / _METADATA, _COLUMNS)
        annotations = read_skincon(self._skincon, {row["md5hash"] for row in rows}) if self._skincon else {}
        files = {Path(file).stem: (file, size) for file, size in image_files(root)}
        return [
            listed(
                self._title,
                number,
                row["md5hash"],
                files.get(row["md5hash"]),
                modality="clinical",
                label="" if row["qc"] == _WRONG else row["label"],
                skin_tone=fitzpatrick(row["fitzpatrick_scale"]),
                annotation=annotations.get(row["md5hash"]),
            )
            for number, row in enumerate(rows, start=1)
        ]
