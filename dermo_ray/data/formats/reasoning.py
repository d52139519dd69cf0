"""Formats that end in a diagnosis of its own words: alone, after reasoning, after reasoning and morphology."""

from typing import Literal

from dermo_ray.completion import Completion, render
from dermo_ray.data import wording
from dermo_ray.data.formats.context import FormatContext, checked, randomness, record
from dermo_ray.data.samples import StoredSample
from dermo_ray.prompts.stems import ask
from dermo_ray.records import Trajectory


def diagnosis(sample: StoredSample, context: FormatContext) -> list[Trajectory]:
    """The diagnosis block alone."""
    return diagnosis_alone(sample, "diagnosis", context)


def diagnosis_alone(
    sample: StoredSample, name: Literal["diagnosis", "reasoning", "morph_reasoning"], context: FormatContext
) -> list[Trajectory]:
    """The question of a format that ends in a diagnosis, with that diagnosis alone as its answer."""
    if sample.label is None:
        return []
    question = ask(name, context.style, sample.modality, randomness(sample, name, context))
    return [record(sample, name, [(question, _named(sample.label))])]


def reasoning(sample: StoredSample, context: FormatContext) -> list[Trajectory]:
    """The reasoning and diagnosis blocks, without a morphology."""
    argued = _argument(sample)
    if sample.label is None or argued is None:
        return []
    argument, field = argued
    question = ask("reasoning", context.style, sample.modality, randomness(sample, "reasoning", context))
    answer = f"<reasoning>{argument}</reasoning>\n{_named(sample.label)}"
    return [record(sample, "reasoning", [(question, answer)], drawn_from=[field])]


def morph_reasoning(sample: StoredSample, context: FormatContext) -> list[Trajectory]:
    """A whole task3 completion."""
    argued = _argument(sample)
    if sample.label is None or sample.annotation is None or argued is None:
        return []
    argument, field = argued
    draw = randomness(sample, "morph_reasoning", context)
    question = ask("morph_reasoning", context.style, sample.modality, draw)
    said = Completion("task3", reasoning=argument, morphology=sample.annotation, diagnosis=sample.label)
    return [record(sample, "morph_reasoning", [(question, render(said))], drawn_from=["morphology", field])]


def _named(label: str) -> str:
    return f"<final_diagnosis>{label}</final_diagnosis>"


def _argument(sample: StoredSample) -> tuple[str, str] | None:
    """What leads to the diagnosis, a teacher's words where there are any, and the field of the sample they are from."""
    if sample.reasoning is not None:
        return checked(sample.reasoning.strip(), sample), "reasoning"
    if sample.annotation is not None:
        return wording.reasoning(sample.annotation), "morphology"
    return None
