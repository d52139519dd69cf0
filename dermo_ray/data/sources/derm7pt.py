"""Derm7pt: 1,011 cases with a clinical and a dermoscopic image, a diagnosis and the seven-point checklist.

Kawahara, Daneshvar, Argenziano, Hamarneh, "Seven-Point Checklist and Skin Lesion Classification using Multitask
Multimodal Neural Nets", IEEE JBHI 23, 538-546 (2019), doi:10.1109/JBHI.2018.2824327. Published layout (`release_v0`):
`meta/meta.csv` with `case_num`, `diagnosis`, the seven criteria, and `clinic` and `derm`, the paths of the two images
below `images/`, in letter case that doesn't always match the files'.

The checklist is a dermoscopic vocabulary, which the published column values share with ours word for word: it annotates
the dermoscopic image, and the clinical one of the case has its diagnosis alone.
"""

from dermo_ray.data.samples import Entry
from dermo_ray.data.sources.layout import (
    ListedSource,
    derm7pt_annotation,
    existing,
    image_files,
    listed,
    read_rows,
)
from dermo_ray.errors import UserError
from dermo_ray.morphology import DERM7PT_FIELDS

_CRITERIA = {name: name.lower().replace(" ", "_") for name in DERM7PT_FIELDS}
_COLUMNS = ("case_num", "diagnosis", "clinic", "derm", *_CRITERIA.values())


class Derm7pt(ListedSource):
    """The published folder; the group is the case, the ids are those of its two images."""

    licence = "Derm7pt (Kawahara et al. 2019, doi:10.1109/JBHI.2018.2824327): on request, for non-commercial research"

    def entries(self) -> list[Entry]:
        """Two entries a row of the table, clinical first. Raises `UserError` for another layout."""
        root = existing(self._root, "meta/meta.csv and images/")
        rows = read_rows(root / "meta" / "meta.csv", _COLUMNS)
        images = {file.lower(): (file, size) for file, size in image_files(root, ("images",))}
        if not images:
            raise UserError(f"{root} holds no images: expected images/<column clinic or derm>")
        entries = []
        for number, row in enumerate(rows, start=1):
            for view in ("clinic", "derm"):
                entry = listed(
                    self._title,
                    number,
                    f"{row['case_num']}_{view}" if row["case_num"] and row[view] else "",
                    images.get(f"images/{row[view]}".lower()),
                    modality="dermoscopic" if view == "derm" else "clinical",
                    label=row["diagnosis"],
                    group=row["case_num"],
                    annotation=derm7pt_annotation(row, _CRITERIA) if view == "derm" else None,
                )
                entries.append(entry)
        return entries
