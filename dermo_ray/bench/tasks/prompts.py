"""What a model is asked: the question as it is, with or without a word on how to answer.

Models trained on the corpus know the forms of answers. Others need to be told: `instruct` adds what the authors' own
baseline runs add in other words, a sentence for choices and the output contract for the tasks with blocks.

Invariant: a prompt begins with one image marker for each image, on a line of its own.
"""

from dermo_ray import prompts
from dermo_ray.bench.tasks.items import BenchItem
from dermo_ray.prompts import IMAGE_PLACEHOLDER, PromptTask
from dermo_ray.prompts.stems import wordings

_LETTER = "Answer with the letter of one option and write nothing else."
_QUOTED = (
    "Answer this question and each one that follows with one of its quoted options, word for word, and nothing else."
)
_CONTRACTS: dict[str, PromptTask] = {"t1.2": "task1", "t3.2": "task3"}


def prompt(item: BenchItem, *, instruct: bool = False) -> str:
    """The human turn of an item, of its first question where it has several."""
    said = instruction(item) if instruct else None
    text = item.questions[0].text
    return f"{IMAGE_PLACEHOLDER * len(item.images)}\n{text}" + (f"\n\n{said}" if said else "")


def instruction(item: BenchItem) -> str | None:
    """How to answer, in words; None where any answer will do (t1.1)."""
    if item.questions[0].options:
        return _QUOTED if item.task == "t2.3" else _LETTER
    modality = item.facts.modality or "clinical"
    if item.task in _CONTRACTS:
        return prompts.prompt("full", _CONTRACTS[item.task], modality).partition("\n\n")[2]
    if item.task == "t3.1":
        return wordings("reasoning", "full", modality)[0].template.partition("\n\n")[2]
    return None
