"""The groups between admission and update: their order, what goes back, and that the count ahead never falls short."""

from fake_pools import scored
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.queue import GroupQueue


def finish(queue: GroupQueue, index: int, constant: bool = False) -> None:
    queue.finish(scored(index, [0.0, 1.0]), constant)


def indices(batch: tuple[list, list] | None) -> list[int]:
    assert batch is not None
    return [group.group.prompt.index for group in batch[0]]


def test_batches_are_made_in_the_order_of_admission_however_groups_end() -> None:
    queue = GroupQueue(batch_groups=2, most_dropped=0)
    assert [queue.admit() for _ in range(5)] == [0, 1, 2, 3, 4]
    for index in (1, 2, 3):
        finish(queue, index)
    assert queue.batch() is None
    assert (queue.waiting, queue.running) == (3, 2)
    finish(queue, 0)
    assert indices(queue.batch()) == [0, 1]
    assert indices(queue.batch()) == [2, 3]
    assert queue.batch() is None
    assert (queue.pending, queue.ready, queue.taken) == ([4], [], 4)


def test_what_was_pending_and_ready_takes_its_place_again() -> None:
    before = GroupQueue(batch_groups=3, most_dropped=0)
    for _ in range(5):
        before.admit()
    for index in (1, 3):
        finish(before, index)
    ready = [(group, False) for group in before.ready]
    queue = GroupQueue(3, 0, taken=0, next_index=before.next_index, pending=before.pending, ready=ready)
    assert queue.ahead() == 2
    assert [queue.admit() for _ in range(4)] == [0, 2, 4, 5]
    for index in (0, 2):
        finish(queue, index)
    assert indices(queue.batch()) == [0, 1, 2]


def test_a_prompt_that_is_given_up_makes_way() -> None:
    queue = GroupQueue(batch_groups=2, most_dropped=0)
    for _ in range(3):
        queue.admit()
    finish(queue, 1)
    finish(queue, 2)
    assert queue.batch() is None
    assert queue.ahead() == 3
    queue.give_up(0)
    assert queue.ahead() == 2
    assert indices(queue.batch()) == [1, 2]


@settings(deadline=None)
@given(st.data())
def test_never_more_groups_are_trained_on_before_one_than_were_said_to_be_ahead(data: st.DataObject) -> None:
    queue = GroupQueue(batch_groups=2, most_dropped=data.draw(st.integers(0, 3)))
    promised: dict[int, int] = {}
    taken: list[int] = []
    running: list[int] = []
    for _ in range(40):
        if running and data.draw(st.booleans()):
            index = running.pop(data.draw(st.integers(0, len(running) - 1)))
            finish(queue, index, constant=data.draw(st.booleans()))
        else:
            ahead = queue.ahead()
            promised[queue.admit()] = ahead
            running.append(max(promised))
        while queue.full:
            taken += indices(queue.batch())
        assert queue.batch() is None
    for place, index in enumerate(taken):
        assert place <= promised[index]
    assert taken == sorted(taken)
