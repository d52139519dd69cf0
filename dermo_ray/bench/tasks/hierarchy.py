"""Hierarchical diagnosis: a walk down the taxonomy, one question a level, led back to the right path after an error.

A walk is a fold: `begin` gives the conversation to answer first, `next_question` takes the answer and gives the next
one, until `done`. After a wrong answer the next question begins with the right one (teacher forcing), so every model is
asked the same questions, whatever it answers.

Invariants: a walk asks all questions of its item, in order; what was answered stays in the conversation; what is told
to be wrong is what our own rule finds wrong, by whatever rules the answers are scored later.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dermo_ray.bench import compat as authors
from dermo_ray.bench.tasks.choice import Choice, chosen
from dermo_ray.bench.tasks.items import BenchItem, Question
from dermo_ray.bench.tasks.prompts import prompt
from dermo_ray.data.samples import Reject
from dermo_ray.records import Turn

_QUOTED = re.compile(r'"([^"]+)"')


@dataclass(frozen=True)
class Walk:
    """A walk under way: the conversation so far and the answers in it."""

    item: BenchItem
    turns: tuple[Turn, ...]
    """Ends with the human turn to answer, or where the walk is done with the last answer."""
    answers: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        """Whether every question was answered."""
        return len(self.answers) == len(self.item.questions)


def questions(turns: Sequence[Turn]) -> tuple[Question, ...]:
    """The questions of a dialogue whose human turns have the options in double quotes and whose answers are options.

    The first human turn comes without its image marker. Raises `Reject`: answer_not_an_option.
    """
    found = []
    for asked, answer in zip(turns[::2], turns[1::2], strict=True):
        options = tuple(_QUOTED.findall(asked.value))
        if answer.value not in options:
            raise Reject("answer_not_an_option")
        found.append(Question(text=asked.value, options=options, right=options.index(answer.value)))
    return tuple(found)


def begin(item: BenchItem, *, instruct: bool = False) -> Walk:
    """The walk of an item before its first answer; see `prompt` for `instruct`."""
    return Walk(item, (Turn(from_="human", value=prompt(item, instruct=instruct)),))


def next_question(walk: Walk, answer: str) -> Walk:
    """The walk after `answer`: done, or with the next question asked. Raises `ValueError` where it was done before."""
    if walk.done:
        raise ValueError(f"{walk.item.id} has no further question")
    answers = (*walk.answers, answer)
    turns = (*walk.turns, Turn(from_="gpt", value=answer))
    if len(answers) < len(walk.item.questions):
        asked, following = walk.item.questions[len(answers) - 1 : len(answers) + 1]
        missed = step(asked, answer).place != asked.right
        correction = f'That is not right: it is "{asked.answer}".\n' if missed else ""
        turns = (*turns, Turn(from_="human", value=f"{correction}{following.text}"))
    return Walk(walk.item, turns, answers)


def step(question: Question, answer: str, *, compat: bool = False) -> Choice:
    """The option that the answer to one question of a walk names; `compat` finds it as the authors' scripts do."""
    if not compat:
        return chosen(answer, question.options, lettered=False)
    place = authors.option_named(answer, question.options)
    return Choice(place, "unreadable" if place is None else None)
