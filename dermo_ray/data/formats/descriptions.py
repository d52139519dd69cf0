"""Formats that describe: in free text, or with the morphology as JSON before it."""

from dermo_ray.completion import Completion, render
from dermo_ray.data import wording
from dermo_ray.data.formats.context import FormatContext, checked, randomness, record
from dermo_ray.data.samples import StoredSample
from dermo_ray.prompts.stems import ask
from dermo_ray.records import Trajectory


def description(sample: StoredSample, context: FormatContext) -> list[Trajectory]:
    """A paragraph in free text, a teacher's where there is one, else the morphology put into words."""
    told = _paragraph(sample)
    if told is None:
        return []
    paragraph, field = told
    draw = randomness(sample, "description", context)
    question = ask("description", context.style, sample.modality, draw)
    return [record(sample, "description", [(question, paragraph)], drawn_from=[field])]


def morph_description(sample: StoredSample, context: FormatContext) -> list[Trajectory]:
    """A whole task1 completion."""
    told = _paragraph(sample)
    if sample.annotation is None or told is None:
        return []
    paragraph, field = told
    draw = randomness(sample, "morph_description", context)
    question = ask("morph_description", context.style, sample.modality, draw)
    answer = render(Completion("task1", morphology=sample.annotation, description=paragraph))
    return [record(sample, "morph_description", [(question, answer)], drawn_from=["morphology", field])]


def _paragraph(sample: StoredSample) -> tuple[str, str] | None:
    """One paragraph about what is visible, and the field of the sample that it comes from."""
    if sample.description is not None:
        return checked(" ".join(sample.description.split()), sample), "description"
    if sample.annotation is not None:
        return wording.description(sample.annotation, sample.modality), "morphology"
    return None
