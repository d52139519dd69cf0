"""Which conversations an update is made of: all of them in turn, or a mixture of formats in set proportions.

Invariants: a batch is a function of the data, the settings and the step alone, so a resumed run needs no state; each
format is shown in epochs of its own, every conversation of it once in each; after any number of updates a format's
count is within a few of its share.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from dermo_ray.data.conversations import permutation
from dermo_ray.errors import UserError

_GOLDEN = (5**0.5 - 1) / 2
"""Multiples of it, taken modulo 1, fill [0, 1) as evenly as can be at every length (Weyl's sequence)."""


class BatchOrder:
    """The batches of a run. `formats` [conversations] holds each one's position in `names`."""

    def __init__(
        self,
        names: Sequence[str],
        formats: npt.NDArray[np.int64],
        batch_size: int,
        seed: int,
        mixture: Mapping[str, float],
    ) -> None:
        """Raises `UserError` where `mixture` names a format that the data don't have."""
        if missing := sorted(set(mixture) - set(names)):
            raise UserError(f"mixture: no conversation has the format {missing[0]}; there are {', '.join(names)}")
        self._batch_size, self._seed = batch_size, seed
        self._members = [np.flatnonzero(formats == names.index(name)) for name in mixture]
        weights = np.array(list(mixture.values()))
        if not mixture:
            self._members, weights = [np.arange(len(formats))], np.ones(1)
        self._edges = np.cumsum(weights / weights.sum())[:-1]

    def __call__(self, step: int) -> list[int]:
        """The conversations of update `step` (from 0)."""
        start, stop = step * self._batch_size, (step + 1) * self._batch_size
        kinds = np.searchsorted(self._edges, np.arange(1, stop + 1) * _GOLDEN % 1.0, side="right")
        batch = np.empty(self._batch_size, np.int64)
        for kind, members in enumerate(self._members):
            places = np.flatnonzero(kinds[start:] == kind)
            done = np.count_nonzero(kinds[:start] == kind)
            epochs, positions = np.divmod(done + np.arange(len(places)), len(members))
            for epoch in np.unique(epochs).tolist():
                of_epoch = epochs == epoch
                order = permutation(len(members), self._seed, epoch)
                batch[places[of_epoch]] = members[order[positions[of_epoch]]]
        return batch.tolist()
