"""From a conversation, as released files and training records have it, to an item of a task.

Invariant: released files and prepared data become items by the same code, so a score means the same on both.
"""

from collections.abc import Sequence

from dermo_ray.bench.tasks import choice, hierarchy, open_ended
from dermo_ray.bench.tasks.items import BenchItem, Facts, Question, TaskId
from dermo_ray.bench.tasks.registry import TASKS
from dermo_ray.data.samples import Reject
from dermo_ray.prompts import IMAGE_PLACEHOLDER
from dermo_ray.records import Turn


def from_conversation(task: TaskId, name: str, images: Sequence[str], turns: Sequence[Turn], facts: Facts) -> BenchItem:
    """The item of `task` about `images` whose human turns ask and whose other turns are the reference.

    `name` becomes the id behind the task and the data set. What `facts` leave open and the conversation says is filled
    in. Raises `Reject`: no_reference, no_options, answer_not_an_option.
    """
    asked = [Turn(from_=turn.from_, value=turn.value.replace(IMAGE_PLACEHOLDER, "").strip()) for turn in turns]
    if [turn.from_ for turn in asked] != ["human", "gpt"] * (len(asked) // 2) or not all(t.value for t in asked):
        raise Reject("no_reference")
    reference = asked[-1].value
    scoring = TASKS[task].scoring
    if scoring == "walk":
        questions: tuple[Question, ...] = hierarchy.questions(asked)
    elif scoring == "choice":
        questions = (choice.question(asked[0].value, reference),)
    else:
        questions = (Question(text=asked[0].value),)
    return BenchItem(
        id="/".join(part for part in (task, facts.subset, name) if part),
        task=task,
        images=tuple(images),
        questions=questions,
        reference=reference,
        facts=facts.model_copy(update=_said(task, questions[0], reference, facts)),
    )


def _said(task: TaskId, question: Question, reference: str, facts: Facts) -> dict[str, object]:
    """What question and reference tell that `facts` do not."""
    if task == "t1.3":
        return {"concept": choice.field(question)}
    if task == "t1.4":
        return {"concept": question.answer}
    if TASKS[task].scoring == "choice":
        return {"label": facts.label or question.answer}
    if TASKS[task].scoring == "walk":
        return {}
    written = open_ended.parts(reference)
    known = facts.morphology or (written.morphology.to_json() if written.morphology else None)
    named = written.diagnosis if TASKS[task].axis == "reasoning" else None
    return {"morphology": known, "label": facts.label or named}
