"""Dynamic sampling: groups that teach nothing give way to further prompts (DAPO, arXiv 2503.14476, section 3.2).

Invariants: which groups are dropped depends on their order of admission and on which are constant, not on when each was
done; one update drops at most `most_dropped`, and beyond it constant groups are trained on like others; a group that
is still running counts as one that will be trained on. That count never falls short: whatever running groups turn out
to be, at most as many are trained on, so the capacity gate's bound on staleness holds as it does without dropping.
"""

from collections.abc import Collection, Iterable, Sequence


def kept(constant: Iterable[bool], size: int, most_dropped: int) -> list[bool]:
    """Which groups are trained on, given which are constant, in their order of admission from the start of a batch.

    A batch is `size` groups; with each the allowance of `most_dropped` begins anew.
    """
    result, trained, dropped = [], 0, 0
    for is_constant in constant:
        drop = is_constant and dropped < most_dropped
        result.append(not drop)
        if drop:
            dropped += 1
        else:
            trained += 1
            dropped = 0 if trained % size == 0 else dropped
    return result


def first_batch(
    indices: Sequence[int], constant: Collection[int], size: int, most_dropped: int
) -> tuple[list[int], list[int]] | None:
    """The first `size` groups to train on and those dropped before the last of them; None where there are too few.

    `indices` are those of finished groups in their order of admission, with no running group before any of them.
    """
    trained: list[int] = []
    dropped: list[int] = []
    for index, keep in zip(indices, kept((i in constant for i in indices), size, most_dropped), strict=True):
        (trained if keep else dropped).append(index)
        if len(trained) == size:
            return trained, dropped
    return None
