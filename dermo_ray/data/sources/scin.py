"""SCIN: 10,407 photographs of 5,033 cases, contributed by internet users and labelled by up to three dermatologists.

Ward et al., "Creating an Empirical Dermatology Dataset Through Crowdsourcing With Web Search Advertisements", JAMA
Network Open 7(11), e2446615 (2024), doi:10.1001/jamanetworkopen.2024.46615; its columns are described in
https://github.com/google-research-datasets/scin. Published layout: the bucket's folder `dataset`, with
`scin_cases.csv`, `scin_labels.csv` and `images`. A case has up to three images and a weighted differential, written as
a Python dictionary; its label is the heaviest condition, the first of them on a tie. Its skin type is the median of the
dermatologists' estimates (the lower one of two), else the contributor's own. Two fifths of the cases have no label.
"""

import ast
from collections.abc import Mapping
from pathlib import Path
from statistics import median_low

from dermo_ray.data.samples import Entry, Reject, Sample
from dermo_ray.data.sources.layout import (
    ImageFile,
    ListedSource,
    Row,
    existing,
    fitzpatrick,
    images_by_stem,
    listed,
    read_rows,
)

_CASES = "scin_cases.csv"
_LABELS = "scin_labels.csv"
_IMAGES = ("image_1_path", "image_2_path", "image_3_path")
_OWN_TYPE = "fitzpatrick_skin_type"
_ESTIMATES = tuple(f"dermatologist_fitzpatrick_skin_type_label_{number}" for number in (1, 2, 3))
_DIFFERENTIAL = "weighted_skin_condition_label"


class Scin(ListedSource):
    """The published tables; the group is the case."""

    licence = "SCIN (Ward et al. 2024, doi:10.1001/jamanetworkopen.2024.46615): SCIN Data Use License"

    def entries(self) -> list[Entry]:
        """One entry an image, and one for a case that names none.

        Raises `UserError` where the folder, one of its tables or every image is missing.
        """
        root = existing(self._root, f"{_CASES}, {_LABELS} and images")
        cases = read_rows(root / _CASES, ("case_id", _OWN_TYPE, *_IMAGES))
        labels = {row["case_id"]: row for row in read_rows(root / _LABELS, ("case_id", _DIFFERENTIAL, *_ESTIMATES))}
        files = images_by_stem(root, ("images",), f"images/<image>.png beside {_CASES}")
        return [
            entry
            for number, case in enumerate(cases, start=1)
            for entry in self._case(number, case, labels.get(case["case_id"], {}), files)
        ]

    def _case(self, number: int, case: Row, labels: Row, files: Mapping[str, ImageFile]) -> list[Entry]:
        name = case["case_id"]
        paths = {f"{name}_{place}": case[column] for place, column in enumerate(_IMAGES, 1) if name and case[column]}
        return [
            listed(
                self._title,
                number,
                key,
                files.get(Path(path).stem.lower()),  # the tables say dataset/images/...: relative to the bucket
                modality="clinical",
                label=_heaviest(labels.get(_DIFFERENTIAL, "")),
                group=name,
                skin_tone=_skin_type(case, labels),
            )
            for key, path in (paths or {name: ""}).items()
        ]

    def sample(self, entry: Entry) -> Sample:
        """The sample of one image. Raises `Reject` for one without its file or of a case without a label."""
        sample = super().sample(entry)
        if sample.raw_label is None:
            raise Reject("missing_label")
        return sample


def _heaviest(differential: str) -> str:
    """The condition with the largest weight, empty where the text is no differential."""
    try:
        weights = ast.literal_eval(differential)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # what a malformed text may raise
        return ""
    if not isinstance(weights, dict):
        return ""
    numbers = {name: weight for name, weight in weights.items() if isinstance(weight, int | float)}
    return str(max(numbers, key=numbers.__getitem__, default=""))


def _skin_type(case: Row, labels: Row) -> int | None:
    estimates = [fitzpatrick(labels.get(column, "")) for column in _ESTIMATES]
    known = [estimate for estimate in estimates if estimate is not None]
    return median_low(known) if known else fitzpatrick(case[_OWN_TYPE])
