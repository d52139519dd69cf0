"""Near-duplicate images: the same picture found several times, in one data set or across them.

Invariants: the pairs found are exactly those that a comparison of every image with every other would find, and no
image of a component in which a benchmark's image lies is kept for training.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_BITS = 64
_AGREEING = 3
"""In how many pieces two hashes must agree to be compared. More pieces make longer sort keys, of more combinations:
photographs of skin share many of their coarse bits, and with one piece alone most of them would be compared."""
_PAIRS_AT_ONCE = 4_000_000
_HASHED_SIDE = 128
"""Four times the 32 pixels that the hash looks at. Averaged down to no less, copies of a photograph in other sizes are
found as before: seven in eight at distance 0, the others at 2."""


def perceptual_hash(image: Image.Image) -> int:
    """The pHash of an image, a number of 64 bits.

    Each bit says whether one of the 8 x 8 lowest frequencies of the image, in grey at 32 x 32 pixels, lies above their
    median. It is the hash of the imagehash library, the first bit of the first row as the most significant; an image of
    more than 256 pixels a side is first averaged down, which saves most of the time. Scaling, compression and slight
    changes of brightness move few bits; turning, mirroring and cropping move many.
    """
    grey = image.convert("L")
    share = min(image.size) // _HASHED_SIDE
    return int(str(imagehash.phash(grey.reduce(share) if share > 1 else grey)), 16)


def near_pairs(hashes: Hashes, distance: int) -> Iterator[Indices]:
    """All pairs of `hashes`, distinct [n], that differ in at most `distance` bits, as blocks of indices [m, 2], m < n.

    A pair may come several times, and in either order. Exact, by the pigeonhole principle: with the bits dealt out
    into `distance` + 3 pieces, two such hashes agree in 3 pieces at least. So the hashes are sorted by each combination
    of 3 pieces, and compared where they agree in it. Memory is proportional to n, however many of them agree.
    """
    count = distance + _AGREEING
    # Every count-th bit makes a piece: neighbouring bits, of like frequencies, depend on each other most.
    pieces = [sum(1 << bit for bit in range(piece, _BITS, count)) for piece in range(count)]
    for chosen in combinations(pieces, _AGREEING):
        keys = hashes & np.uint64(sum(chosen))
        order = np.argsort(keys)
        keys, in_order = keys[order], hashes[order]
        place, step = np.arange(len(hashes)), 0
        while len(place):  # compare with the next in order, those that still agree with the one after it, and so on
            step += 1
            place = place[: np.searchsorted(place, len(hashes) - step)]
            place = place[keys[place] == keys[place + step]]
            near = place[np.bitwise_count(in_order[place] ^ in_order[place + step]) <= distance]
            if len(near):
                yield np.stack([order[near], order[near + step]], axis=1)


def components(hashes: Hashes, distance: int) -> Indices:
    """The component of each image, by `hashes` [n], named by the index of its first member: [n].

    Two images are in one component if they differ in at most `distance` bits, or if a chain of images leads from one
    to the other in which neighbours do.
    """
    distinct, members = np.unique(hashes, return_inverse=True)
    labels = np.arange(len(distinct))
    for pairs in _batches(near_pairs(distinct, distance), _PAIRS_AT_ONCE):
        labels = connected(labels[pairs], len(distinct))[labels]
    _, first, members = np.unique(labels[members], return_index=True, return_inverse=True)
    return first[members]


def same_files(names: Sequence[str]) -> Indices:
    """The component of each image where only those with one stored file are one picture, named as by `components`."""
    first: dict[str, int] = {}
    return np.array([first.setdefault(name, index) for index, name in enumerate(names)], np.int64)


def connected(edges: Indices, count: int) -> Indices:
    """The connected component of each of `count` nodes, as a number, where `edges` [m, 2] join nodes: [count]."""
    graph = coo_array((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def first_member(labels: Indices, order: Indices) -> Indices:
    """For each image the first in `order`, indices [m], of those with its label in `labels`, [n]: [n].

    It is -1 where no image in `order` has that label. Labels are numbers below n.
    """
    present, places = np.unique(labels[order], return_index=True)
    first = np.full(len(labels), -1)
    first[present] = order[places]
    return first[labels]


@dataclass(frozen=True)
class Verdicts:
    """What becomes of each of n images."""

    reasons: list[Literal["near_duplicate", "benchmark_overlap"] | None]
    """Why it is dropped; None where it is kept."""
    instead: Indices
    """The image that is kept in its place, or the benchmark's image that it equals; its own index where it is kept."""


def judge(component: Indices, *, benchmark: Flags, annotated: Flags, keep: Literal["one", "all"]) -> Verdicts:
    """Which images to keep, of n in order of rank: place of their source in the settings, then id.

    An image is dropped where its `component` has an image of a `benchmark`; those themselves are all kept. With `keep`
    "one", a component that has none keeps a single image: the first `annotated` one (which has a morphology), or the
    first where none is.
    """
    rank = np.arange(len(component))
    seen = first_member(component, rank[benchmark])
    best = first_member(component, np.concatenate([rank[~benchmark & annotated], rank[~benchmark & ~annotated]]))
    overlaps = ~benchmark & (seen >= 0)
    repeats = ~benchmark & ~overlaps & (best != rank) & (keep == "one")
    reasons = np.full(len(component), None, dtype=object)
    reasons[overlaps] = "benchmark_overlap"
    reasons[repeats] = "near_duplicate"
    return Verdicts(reasons.tolist(), np.select([overlaps, repeats], [seen, best], rank))


def _batches(blocks: Iterable[Indices], size: int) -> Iterator[Indices]:
    """The rows of `blocks`, joined into batches of `size` rows or a little more."""
    batch: list[Indices] = []
    rows = 0
    for block in blocks:
        batch.append(block)
        rows += len(block)
        if rows >= size:
            yield np.concatenate(batch)
            batch, rows = [], 0
    if batch:
        yield np.concatenate(batch)
