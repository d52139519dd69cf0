"""Which diagnoses are taken for which, in the order of the taxonomy: errors near the diagonal are near misses.

Invariant: every counted answer is in one cell; with many labels rows and columns are the categories above them, as
deep as fits.
"""

from collections import Counter
from collections.abc import Sequence

from dermo_ray.records import Record
from dermo_ray.taxonomy import Taxonomy

MOST_NAMES = 40
"""Rows that a reader can take in."""
OTHER = "no diagnosis of the tree"


class Confusion(Record):
    """Counts of true and answered diagnoses, or of the categories they belong to."""

    level: str
    """What rows and columns are: diagnoses, or categories so many levels below the root."""
    names: list[str]
    """Of rows (true) and columns (answered), in the order of the tree; the last may be `OTHER`."""
    categories: list[str]
    """The superclass of each name."""
    counts: list[list[int]]
    """[true, answered]."""
    outside: dict[str, int]
    """Questions whose true label is not in the tree, by label: they are in no cell."""


def confusion(truth: Sequence[str], answers: Sequence[str | None], taxonomy: Taxonomy) -> Confusion | None:
    """The matrix over diagnoses [n each]; None where no true one is in the tree; those that are not stand apart."""
    known = [
        (label, answer) for name, answer in zip(truth, answers, strict=True) if (label := taxonomy.canonical(name))
    ]
    if not known:
        return None
    order = {label: place for place, label in enumerate(taxonomy.labels)}
    pairs = [(true, taxonomy.canonical(answer) if answer else None) for true, answer in known]
    labels = sorted({label for pair in pairs for label in pair if label is not None}, key=order.__getitem__)
    paths = {label: (*taxonomy.path(label), label) for label in labels}
    depth = max(len(path) for path in paths.values())
    while depth > 1 and len({path[:depth] for path in paths.values()}) > MOST_NAMES:
        depth -= 1
    nodes = list(dict.fromkeys(path[:depth] for path in paths.values()))
    column = {node: place for place, node in enumerate(nodes)}
    unknown = any(answer is None for _, answer in pairs)
    size = len(nodes) + unknown
    counts = [[0] * size for _ in range(size)]
    for true, answered in pairs:
        row = column[paths[true][:depth]]
        counts[row][len(nodes) if answered is None else column[paths[answered][:depth]]] += 1
    whole = all(len(path) <= depth for path in paths.values())
    return Confusion(
        level="diagnoses" if whole else f"categories, level {depth} of the tree",
        names=[node[-1] for node in nodes] + [OTHER] * unknown,
        categories=[node[0] for node in nodes] + [""] * unknown,
        counts=counts,
        outside=dict(sorted(Counter(label for label in truth if taxonomy.canonical(label) is None).items())),
    )
