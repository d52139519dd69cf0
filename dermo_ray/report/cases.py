"""Which items a benchmark's report shows, right and wrong, and what every method answered to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dermo_ray.bench.columns import Columns
from dermo_ray.bench.responses import Response
from dermo_ray.bench.tasks import BenchItem, TaskId
from dermo_ray.config.bench import Method
from dermo_ray.data.splits import uniform
from dermo_ray.report.examples import data_uri

_LONGEST = 1500
"""Characters of an answer that are shown."""


@dataclass(frozen=True)
class Said:
    """What one method answered."""

    method: Method
    text: str
    answer: str | None
    """As it was read; None where nothing could be."""
    right: bool
    confidence: float


@dataclass(frozen=True)
class Case:
    """One item with every method's answer to its last question."""

    item: BenchItem
    image: str
    """A data URI."""
    question: str
    truth: str
    said: tuple[Said, ...]


def cases(answers: Mapping[TaskId, Mapping[Method, Columns]], responses: Sequence[Response], count: int) -> list[Case]:
    """`count` cases of one policy: greedy answers right and wrong in turn, over all tasks with a right answer in turn.

    Which they are depends on the items' ids alone, so that nobody picks them; fewer where there are fewer.
    """
    by_method: dict[Method, list[Response]] = {}
    for response in responses:
        by_method.setdefault(response.method, []).append(response)
    queues: dict[bool, list[list[Case]]] = {True: [], False: []}
    texts = {method: {response.item: response.texts for response in given} for method, given in by_method.items()}
    for by_way in answers.values():
        if "greedy" in by_way:
            for right, queue in queues.items():
                queue.append(_of_task(by_way, texts, right, count))
    chosen: list[Case] = []
    while len(chosen) < count and any(any(queue) for queue in queues.values()):
        for right in (True, False):
            if waiting := [queue for queue in queues[right] if queue]:
                chosen.append(waiting[0].pop(0))
                queues[right].append(queues[right].pop(queues[right].index(waiting[0])))  # the next task's turn
    return chosen[:count]


def _of_task(
    answers: Mapping[Method, Columns],
    texts: Mapping[Method, Mapping[str, tuple[str, ...]]],
    right: bool,
    count: int,
) -> list[Case]:
    greedy = answers["greedy"]
    last = [row for row, item in enumerate(greedy.items) if greedy.places[row] == _last_place(item)]
    rows = [row for row in last if bool(greedy.right[row]) == right and greedy.items[row].images]
    rows.sort(key=lambda row: uniform(greedy.items[row].id))
    made: list[Case] = []
    for row in rows:
        if len(made) == count:
            break
        if (picture := _picture(greedy.items[row])) is None:
            continue
        item, place = greedy.items[row], greedy.places[row]
        said = tuple(
            Said(
                method,
                (texts.get(method, {}).get(item.id) or ("",) * (place + 1))[place][:_LONGEST],
                column.answers[row],
                bool(column.right[row]),
                float(column.confidence[row]),
            )
            for method, column in answers.items()
        )
        made.append(Case(item, picture, item.questions[place].text, greedy.truth[row], said))
    return made


def _picture(item: BenchItem) -> str | None:
    """The first image as a data URI; None where it can't be read, which is why the item has no answer."""
    try:
        return data_uri(Path(item.images[0]))
    except Exception:  # damaged files make decoders raise nearly anything, from struct.error to SyntaxError
        return None


def _last_place(item: BenchItem) -> int:
    return len(item.questions) - 1
