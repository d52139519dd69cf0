"""HAM10000: 10,015 dermoscopic images of 7 diagnoses, several of one lesion among them.

Tschandl, Rosendahl, Kittler, "The HAM10000 dataset", Scientific Data 5, 180161 (2018), doi:10.7910/DVN/DBW86T.
Published layout: `HAM10000_metadata.csv` (Dataverse also hands it out as `.tab`) beside the folders
`HAM10000_images_part_1` and `HAM10000_images_part_2`, images as `<image_id>.jpg`. A part may be missing: its rows are
then counted as missing files.
"""

from dermo_ray.data.samples import Entry
from dermo_ray.data.sources.layout import ListedSource, existing, images_by_stem, listed, read_rows, table_of

_METADATA = "HAM10000_metadata.csv"
_PARTS = "HAM10000_images_part_"


class Ham10000(ListedSource):
    """The published folder; the group is the lesion."""

    licence = "HAM10000 (Tschandl et al. 2018, doi:10.7910/DVN/DBW86T): CC BY-NC 4.0"

    def entries(self) -> list[Entry]:
        """One entry a row of the metadata table.

        Raises `UserError` where the folder, its table or every image folder is missing or empty.
        """
        root = existing(self._root, _METADATA)
        parts = sorted(path.name for path in root.iterdir() if path.name.startswith(_PARTS) and path.is_dir())
        images = images_by_stem(root, parts, f"{_PARTS}1/<image_id>.jpg")
        rows = read_rows(table_of(root, _METADATA, "HAM10000_metadata.tab"), ("lesion_id", "image_id", "dx"))
        return [
            listed(
                self._title,
                number,
                row["image_id"],
                images.get(row["image_id"].lower()),
                modality="dermoscopic",
                label=row["dx"],
                group=row["lesion_id"],
            )
            for number, row in enumerate(rows, start=1)
        ]
