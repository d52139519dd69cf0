"""Train, validation and test by lesion or patient, and by picture where neither is known.

Invariants: a split depends on the seed and the split key alone. Images of one lesion or patient, images that show one
picture, and whatever a chain of the two links have one key, so that none of them is ever on two sides.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np

from dermo_ray.config.prepare import SplitSettings
from dermo_ray.data.duplicates import Flags, Indices, connected, first_member
from dermo_ray.records import Split

BENCHMARK = "benchmark"
"""In place of a split, for images that are there to be kept out of training."""


def split_of(key: str, settings: SplitSettings, seed: int) -> Split:
    """The split of the images whose split key is `key`."""
    place = uniform(f"{seed}/{key}")
    if place < settings.val:
        return "val"
    return "test" if place < settings.val + settings.test else "train"


def uniform(text: str) -> float:
    """A number in [0, 1) that depends on `text` alone, evenly spread over texts."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def split_keys(
    component: Indices, groups: Sequence[str | None], contents: Sequence[str], benchmark: Flags
) -> list[str]:
    """The split key of each of n images in order of rank: place of their source in the settings, then id.

    Images with one `component` (of near-duplicates) or one of the `groups` (lesion or patient, None where unknown)
    belong together, dropped near-duplicates and `benchmark` images included. Their key is that of the first of them
    that is no benchmark's: its group, or where that is unknown its content (a hash of the source's bytes).

    So images keep their key, and thus their split, when sources are appended to the settings, with one exception:
    where a new image links two sets that were apart, as when it equals a picture of each, the set of lower rank keeps
    its key and the other one takes it over; they could not stay on two sides.
    """
    rank = np.arange(len(groups))
    known: dict[str, int] = {}
    same_group = np.array(
        [index if group is None else known.setdefault(group, index) for index, group in enumerate(groups)], np.int64
    )
    edges = np.stack([np.tile(rank, 2), np.concatenate([component, same_group])], axis=1)
    together = connected(edges, len(groups))
    keys = [content if group is None else group for group, content in zip(groups, contents, strict=True)]
    return [keys[first] for first in first_member(together, np.concatenate([rank[~benchmark], rank[benchmark]]))]


def assign(keys: Sequence[str], benchmark: Flags, settings: SplitSettings, seed: int) -> list[str]:
    """The split of each image by its split key, `BENCHMARK` where it is a benchmark's."""
    splits = {key: split_of(key, settings, seed) for key in set(keys)}
    return [BENCHMARK if aside else splits[key] for key, aside in zip(keys, benchmark, strict=True)]


def label_shares(labels: Sequence[str | None], splits: Sequence[str]) -> list[dict[str, Any]]:
    """How evenly labels are spread over the splits: a row for each label, the most frequent first.

    A row has the `label` ("none" where there is none), its `images` over all splits, for each split their count
    (`train`) and their share of that split's images (`train_share`, None for an empty split), and the largest
    `deviation` of such a share from the label's share of all images, with its sign and the split it was `deviation_in`.
    Images of benchmarks are not counted.
    """
    sides = get_args(Split)
    counts = Counter((label or "none", split) for label, split in zip(labels, splits, strict=True) if split in sides)
    totals = {side: sum(count for (_, split), count in counts.items() if split == side) for side in sides}
    per_label: Counter[str] = Counter()
    for (label, _), count in counts.items():
        per_label[label] += count
    rows = []
    for label, images in sorted(per_label.items(), key=lambda entry: (-entry[1], entry[0])):
        shares = {side: counts[label, side] / totals[side] for side in sides if totals[side]}
        deviations = {side: share - images / counts.total() for side, share in shares.items()}
        farthest = max(deviations, key=lambda side: abs(deviations[side]))
        rows.append(
            {"label": label, "images": images}
            | {side: counts[label, side] for side in sides}
            | {f"{side}_share": shares.get(side) for side in sides}
            | {"deviation": deviations[farthest], "deviation_in": farthest}
        )
    return rows


def largest_deviation(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The row of `label_shares` that deviates most, None where there is none."""
    return max(rows, key=lambda row: abs(row["deviation"]), default=None)
