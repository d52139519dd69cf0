"""The training conversations of a prepared folder, in an order that depends on the seed alone.

Invariants: the table is memory-mapped, so memory does not grow with the corpus; batch `step` is a function of the size
of the split, the batch size, the seed and `step` alone, so a resumed run needs no state of the data; every epoch shows
every conversation once.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from datasets import Dataset, disable_progress_bars
from PIL import Image

from dermo_ray.data.manifest import read_manifest
from dermo_ray.errors import UserError
from dermo_ray.records import FURTHER_IMAGES, Split


class Conversation(NamedTuple):
    """One conversation about one image or several."""

    id: str
    images: list[Path]
    """In the order of their `<image>` marks."""
    turns: list[dict[str, str]]
    """Each with `from` ("human" or "gpt") and `value`."""
    format: str
    """Which of the formats of training conversations it has."""

    @property
    def characters(self) -> int:
        """Length of its text, which orders conversations much as their tokens do and needs no tokenizer."""
        return sum(len(turn["value"]) for turn in self.turns)

    def read_images(self) -> list[Image.Image]:
        """The decoded images, RGB."""
        decoded = []
        for path in self.images:
            with Image.open(path) as file:
                decoded.append(file.convert("RGB"))
        return decoded


class Conversations:
    """The conversations of one split, memory-mapped."""

    def __init__(self, prepared: Path, split: Split) -> None:
        files = _files(prepared, split)
        disable_progress_bars()
        self._prepared = prepared
        there = pq.read_schema(files[0]).names
        columns = [name for name in ("id", "image", FURTHER_IMAGES, "format", "conversations") if name in there]
        self._rows = Dataset.from_parquet([str(path) for path in files], columns=columns)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Conversation:
        row = self._rows[index]
        images = [row["image"], *(row.get(FURTHER_IMAGES) or ())]
        return Conversation(row["id"], [self._prepared / i for i in images], row["conversations"], row["format"])


def count(prepared: Path, split: Split) -> int:
    """How many conversations a split has, read from the files' footers alone.

    Raises `UserError` where `prepared` is no prepared folder or the split is empty.
    """
    return sum(pq.read_metadata(path).num_rows for path in _files(prepared, split))


def formats(prepared: Path, split: Split) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The formats of a split's conversations in the order of their names, and [conversations] which one each has.

    Raises `UserError` where `prepared` is no prepared folder or the split is empty.
    """
    column = pq.read_table(_files(prepared, split), columns=["format"])["format"].to_numpy()
    names, positions = np.unique(column, return_inverse=True)
    return names.tolist(), positions


def content_hash(prepared: Path) -> str:
    """The hash of everything in the prepared folder. Raises `UserError` where `prepared` is none."""
    manifest = read_manifest(prepared)
    if manifest is None:
        raise UserError(f"{prepared} is no prepared folder: run jobs.prepare with out={prepared} first")
    return str(manifest["content_hash"])


def batch_indices(size: int, batch_size: int, seed: int, step: int) -> list[int]:
    """The conversations of update `step` (from 0), `batch_size` of them.

    Batches are cut from one endless row of epochs, each a permutation of its own, so a batch may span two epochs.
    """
    indices = []
    for place in range(step * batch_size, (step + 1) * batch_size):
        epoch, position = divmod(place, size)
        indices.append(int(permutation(size, seed, epoch)[position]))
    return indices


@lru_cache(maxsize=20)
def permutation(size: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The order of `size` conversations in an epoch; epochs are shuffled apart from each other."""
    return np.random.default_rng((seed, epoch)).permutation(size)


def deal(lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Deal positions out to ranks, to each as many as to the others and of like lengths; sizes differ by 1 at most.

    Positions go by falling length, to and fro over the ranks.
    """
    shares: list[list[int]] = [[] for _ in range(ranks)]
    for place, position in enumerate(sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))):
        turn, rank = divmod(place, ranks)
        shares[rank if turn % 2 == 0 else ranks - 1 - rank].append(position)
    return shares


def _files(prepared: Path, split: Split) -> list[Path]:
    content_hash(prepared)
    files = sorted((prepared / "trajectories" / split).glob("*.parquet"))
    if not files:
        raise UserError(f"{prepared} has no conversations in its {split} split: prepare more images, or a larger share")
    return files
