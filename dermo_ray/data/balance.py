"""Oversampling of rare labels.

Invariant: no sample is ever left out, and none appears more than `max_repeat` times.
"""

from collections.abc import Iterable, Mapping, Sequence


def copies(labels: Mapping[str, str | None], max_repeat: int) -> dict[str, int]:
    """How often each sample is to appear so that labels come about equally often: {sample id: count}.

    `labels` gives each sample id its label. The target is the count of the most frequent label; samples without a
    label appear once. Within a label the surplus is spread evenly over its samples in the order of their ids.
    """
    members: dict[str, list[str]] = {}
    counts = {}
    for sample_id, label in sorted(labels.items()):
        counts[sample_id] = 1
        if label is not None:
            members.setdefault(label, []).append(sample_id)
    target = max(map(len, members.values()), default=0)
    for ids in members.values():
        counts.update(_spread(ids, min(target, max_repeat * len(ids))))
    return counts


def _spread(ids: Sequence[str], total: int) -> Iterable[tuple[str, int]]:
    for place, sample_id in enumerate(ids):
        yield sample_id, (place + 1) * total // len(ids) - place * total // len(ids)
