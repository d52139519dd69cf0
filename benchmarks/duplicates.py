"""The search for near-duplicates at the size of DermoInstruct: `python -m benchmarks.duplicates`.

Times `components` on 211,243 synthetic hashes at several distances, in three populations: spread evenly, with many
copies, and half of them near-blank pictures that share most of their bits. Compares the pairs among 5,000 hashes
with brute force. Writes `benchmarks/results/duplicates.json`.
"""

import json
import resource
import time

import numpy as np

from benchmarks.demo import RESULTS
from benchmarks.machine import describe
from dermo_ray.data.duplicates import Hashes, components, near_pairs

_IMAGES = 211_243
_CHECKED = 5_000


def spread(count: int, rng: np.random.Generator) -> Hashes:
    return rng.integers(0, 2**64, count, dtype=np.uint64)


def clustered(count: int, rng: np.random.Generator) -> Hashes:
    """A third of the hashes are another one with 0 to 3 of its bits flipped."""
    hashes = spread(count, rng)
    copies = rng.random(count) < 1 / 3
    flips = np.uint64(1) << rng.integers(0, 64, (3, count), dtype=np.uint64)
    flips[rng.random((3, count)) < 0.5] = 0
    return np.where(copies, rng.choice(hashes, count) ^ np.bitwise_xor.reduce(flips), hashes)


def near_blank(count: int, rng: np.random.Generator) -> Hashes:
    """Half of the hashes differ in 20 of their bits alone."""
    return np.where(rng.random(count) < 0.5, spread(count, rng) & np.uint64(2**20 - 1), spread(count, rng))


def timed(hashes: Hashes, distance: int) -> dict[str, float | int]:
    began = time.perf_counter()
    component = components(hashes, distance)
    seconds = time.perf_counter() - began
    sizes = np.bincount(component)
    return {
        "distance": distance,
        "seconds": round(seconds, 2),
        "components": int(np.count_nonzero(sizes)),
        "largest": int(sizes.max()),
    }


def compare_with_brute_force(rng: np.random.Generator) -> dict[str, float | int | bool]:
    hashes = np.unique(clustered(_CHECKED, rng))
    began = time.perf_counter()
    apart = np.bitwise_count(hashes[:, None] ^ hashes[None, :])
    expected = np.argwhere(np.triu(apart <= 2, k=1))
    seconds = time.perf_counter() - began
    pairs = np.concatenate([np.sort(block, axis=1) for block in near_pairs(hashes, 2)])
    return {
        "hashes": len(hashes),
        "distance": 2,
        "pairs": len(expected),
        "equal": bool(np.array_equal(np.unique(pairs, axis=0), expected)),
        "brute_force_seconds": round(seconds, 2),
    }


def main() -> None:
    rng = np.random.default_rng(0)
    runs = {spread: (0, 2, 4, 8), clustered: (0, 2, 4, 8), near_blank: (0, 2, 4)}
    result = {
        "command": "python -m benchmarks.duplicates",
        "machine": describe(),
        "hashes": _IMAGES,
        "components": {
            draw.__name__: [timed(hashes, distance) for distance in distances]
            for draw, distances in runs.items()
            for hashes in [draw(_IMAGES, rng)]
        },
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "brute_force": compare_with_brute_force(rng),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "duplicates.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({key: result[key] for key in ("components", "peak_memory_mib", "brute_force")}, indent=2))


if __name__ == "__main__":
    main()
