"""Dynamic sampling: which groups give way, within what bound, and that the capacity gate may count on it."""

from hypothesis import given
from hypothesis import strategies as st

from actors.refill import first_batch, kept

flags = st.lists(st.booleans(), max_size=40)
sizes, bounds = st.integers(1, 5), st.integers(0, 6)


def test_constant_groups_give_way_until_the_bound_is_reached_in_each_batch() -> None:
    c, v = True, False
    assert kept([c, v, c, v, v, v], size=2, most_dropped=5) == [False, True, False, True, True, True]
    assert kept([c, c, c, c, v, c], size=2, most_dropped=2) == [False, False, True, True, True, False]


def test_the_first_batch_takes_the_oldest_and_says_what_was_dropped_before_the_last_of_them() -> None:
    assert first_batch([3, 4, 5, 6, 7], constant={3, 5, 7}, size=2, most_dropped=9) == ([4, 6], [3, 5])
    assert first_batch([3, 4, 5], constant={3, 5}, size=2, most_dropped=9) is None
    assert first_batch([3, 4, 5], constant={3, 5}, size=2, most_dropped=1) == ([4, 5], [3])


@given(flags, sizes)
def test_without_an_allowance_every_group_is_trained_on(constant: list[bool], size: int) -> None:
    assert all(kept(constant, size, most_dropped=0))


@given(flags, sizes, bounds)
def test_groups_that_vary_are_never_dropped_and_no_batch_drops_more_than_its_bound(
    constant: list[bool], size: int, most_dropped: int
) -> None:
    result = kept(constant, size, most_dropped)
    assert all(keep for keep, is_constant in zip(result, constant, strict=True) if not is_constant)
    batches = [0]
    for position, keep in enumerate(result):
        batches[-1] += not keep
        if keep and sum(result[: position + 1]) % size == 0:
            batches.append(0)
    assert max(batches) <= most_dropped


@given(flags.flatmap(lambda f: st.tuples(st.just(f), st.lists(st.booleans(), min_size=len(f), max_size=len(f)))),
       sizes, bounds)  # fmt: skip
def test_a_running_group_that_proves_constant_never_adds_to_what_is_trained_on(
    drawn: tuple[list[bool], list[bool]], size: int, most_dropped: int
) -> None:
    before, turns = drawn
    after = [was or turned for was, turned in zip(before, turns, strict=True)]
    assert sum(kept(after, size, most_dropped)) <= sum(kept(before, size, most_dropped))


@given(flags, sizes, bounds)
def test_batches_taken_one_after_the_other_are_those_of_the_whole_stream(
    constant: list[bool], size: int, most_dropped: int
) -> None:
    whole = [index for index, keep in enumerate(kept(constant, size, most_dropped)) if keep]
    left, taken = list(range(len(constant))), []
    those = {index for index, is_constant in enumerate(constant) if is_constant}
    while (batch := first_batch(left, those, size, most_dropped)) is not None:
        trained, dropped = batch
        taken += trained
        left = [index for index in left if index not in {*trained, *dropped}]
    assert taken == whole[: len(whole) // size * size]
