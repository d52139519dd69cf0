"""The prompts of a run, in one fixed order.

Invariant: prompt `index` of a run is a function of the data, the seed and `index` alone; every epoch shows every prompt
once, and an index belongs to one epoch.
"""

from collections.abc import Collection
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from dermo_ray.errors import UserError
from dermo_ray.records import FURTHER_IMAGES, GroundTruth, RLPrompt, Split


def read_prompts(prepared: Path, split: Split, sources: Collection[str] | None = None) -> list[RLPrompt]:
    """The RL prompts of a split in the order of their ids, of some `sources` or of all. Raises `UserError` if none."""
    folder = prepared / "rl" / split
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise UserError(f"{folder} holds no prompts: run jobs.prepare with out={prepared} first")
    columns = ["id", "image", FURTHER_IMAGES, "source", "group", "prompt", "ground_truth"]
    there = pq.read_schema(files[0]).names
    rows = pq.read_table(files, columns=[name for name in columns if name in there]).to_pylist()
    if sources is not None:
        there = sorted({row["source"] for row in rows})
        rows = [row for row in rows if row["source"] in sources]
    if not rows:
        detail = f"of {', '.join(sources)}; it has {', '.join(there)}" if sources is not None else "at all"
        raise UserError(f"{folder} holds no prompts {detail}")
    return [
        RLPrompt(
            ground_truth=GroundTruth.model_validate_json(row.pop("ground_truth")),
            further_images=row.pop(FURTHER_IMAGES, None) or [],
            **row,
        )
        for row in sorted(rows, key=lambda row: row["id"])
    ]


class PromptOrder:
    """Which prompt stands at which index; epochs are shuffled apart from each other."""

    def __init__(self, prompts: list[RLPrompt], seed: int) -> None:
        self.prompts = prompts
        self.seed = seed
        self._permutation = lru_cache(maxsize=2)(self._shuffled)

    def __getitem__(self, index: int) -> RLPrompt:
        epoch, place = divmod(index, len(self.prompts))
        return self.prompts[self._permutation(epoch)[place]]

    def _shuffled(self, epoch: int) -> npt.NDArray[np.int64]:
        return np.random.default_rng((self.seed, epoch)).permutation(len(self.prompts))
