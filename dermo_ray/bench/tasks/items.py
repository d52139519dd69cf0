"""What a benchmark is made of: an item, an answer to it, and what the answer is worth.

Every task has one shape: an item asks one question or several in turn about its images. A question with options has
one that is right; a question without is open, and its reference is a text that judges compare answers with.

Invariants: an item's id is unique over all tasks; how many questions an item asks depends on the item alone, so that
two models are measured on the same ones; what was not answered counts as wrong, never as missing.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from string import ascii_uppercase
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import model_validator

from dermo_ray.data.samples import Reject
from dermo_ray.morphology import Modality
from dermo_ray.records import Record

TaskId = Literal["t1.1", "t1.2", "t1.3", "t1.4", "t2.1", "t2.2", "t2.3", "t2.4", "t3.1", "t3.2", "t4"]
"""The eleven tasks of DermoBench, under their numbers in the paper (arXiv 2601.01868)."""

LETTERS = ascii_uppercase
"""The letters of options, in their order; the 25-way task goes up to Y."""

Fault = Literal["no_answer", "unreadable", "several", "skipped"]
"""Why an answer names no option: there is none, it names none of them, it names more than one. `skipped` are those
that the authors' scripts pass over; they occur in compatible scoring alone."""

Row = TypeVar("Row")


class Question(Record):
    """One question of an item."""

    text: str
    """The human turn, options included, without the image marker."""
    options: tuple[str, ...] = ()
    """The options without their letters; empty where the question is open."""
    right: int | None = None
    """Place of the right option; None where the question is open."""

    @property
    def answer(self) -> str | None:
        """The text of the right option; None where the question is open."""
        return None if self.right is None else self.options[self.right]

    @model_validator(mode="after")
    def _right_is_an_option(self) -> "Question":
        if (self.right is None and self.options) or (
            self.right is not None and not 0 <= self.right < len(self.options)
        ):
            raise ValueError(f"a question has options of which one is right, or neither: {self.right}, {self.options}")
        return self


class Facts(Record):
    """What is known of an item besides question and reference; None where it is not known or does not apply."""

    label: str | None = None
    """The diagnosis."""
    modality: Modality | None = None
    concept: str | None = None
    """What is asked about: the Derm7pt field (t1.3) or the SkinCon feature that is present (t1.4)."""
    morphology: dict[str, Any] | None = None
    """The reference morphology in the released JSON shape."""
    skin_tone: str | None = None
    """The group of skin tones: 12, 34 or 56, the Fitzpatrick types of DDI's groups, or another name in a file."""
    subset: str | None = None
    """The data set, in a task with several (t2.4)."""
    group: str | None = None
    """What items are not independent within: patient or lesion, or where that is not known the image."""
    source_id: str | None = None
    """The id in the released file, where it may occur more than once, or of the record it was built from."""
    annotator: str | None = None
    """Who made what is machine-made in the reference, as JSON; None where nothing is known to be."""


class BenchItem(Record):
    """One item of the benchmark."""

    id: str
    task: TaskId
    images: tuple[str, ...]
    """Paths of the images: absolute where the images were looked for, else as the file has them."""
    questions: tuple[Question, ...]
    reference: str
    """The reference answer as the file or record writes it; of the last question where there are several."""
    facts: Facts = Facts()


class Answer(Record):
    """What a model answered to an item: one text for each question, in order; those not answered are left off."""

    item: str
    texts: tuple[str, ...]


class Scored(Record):
    """What an answer is worth: one entry for each question of the item."""

    item: str
    extracted: tuple[str | None, ...]
    """The option that was named (as text), None where none could be made out."""
    right: tuple[bool, ...]
    faults: tuple[Fault | None, ...]
    """Why no option could be made out; None where one could."""

    @property
    def score(self) -> float:
        """The share of the item's questions answered right, in [0, 1]."""
        return sum(self.right) / len(self.right)

    @property
    def skipped(self) -> bool:
        """Whether the authors' scripts would pass over the item."""
        return "skipped" in self.faults


class Items(NamedTuple):
    """The items of a task, and how many could not become one, by reason."""

    items: list[BenchItem]
    left_out: dict[str, int]
    absent: tuple[str, ...] = ()
    """The files that the task's items would come from and that are not there."""


def gather(rows: Iterable[Row], make: Callable[[Row], BenchItem]) -> Items:
    """The items that `make` gives for `rows`; a row for which it raises `Reject` is counted under its reason.

    Items that come out with one id get a number behind it, the second `#2`.
    """
    items: list[BenchItem] = []
    left_out: Counter[str] = Counter()
    uses: Counter[str] = Counter()
    taken: set[str] = set()
    for row in rows:
        try:
            item = make(row)
        except Reject as verdict:
            left_out[verdict.reason] += 1
            continue
        name = item.id
        while name in taken:
            uses[item.id] += 1
            name = f"{item.id}#{uses[item.id] + 1}"
        taken.add(name)
        items.append(item if name == item.id else item.model_copy(update={"id": name}))
    return Items(items, dict(sorted(left_out.items())))
