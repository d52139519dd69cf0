"""Every format by its name."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from dermo_ray.data.formats.choices import attribute_choice, diagnosis_choice
from dermo_ray.data.formats.context import FormatContext
from dermo_ray.data.formats.descriptions import description, morph_description
from dermo_ray.data.formats.hierarchy import hierarchy
from dermo_ray.data.formats.reasoning import diagnosis, morph_reasoning, reasoning
from dermo_ray.data.samples import StoredSample
from dermo_ray.records import Format, Trajectory

_WRITERS: Mapping[Format, Callable[[StoredSample, FormatContext], list[Trajectory]]] = MappingProxyType(
    {
        "description": description,
        "morph_description": morph_description,
        "reasoning": reasoning,
        "morph_reasoning": morph_reasoning,
        "diagnosis": diagnosis,
        "attribute_choice": attribute_choice,
        "diagnosis_choice_4": partial(diagnosis_choice, options=4),
        "diagnosis_choice_25": partial(diagnosis_choice, options=25),
        "hierarchy": hierarchy,
    }
)


def trajectories(sample: StoredSample, name: Format, context: FormatContext) -> list[Trajectory]:
    """The training conversations of `sample` in the format `name`; none where its annotations don't allow it.

    Raises `ValueError` where a free text of the sample can't stand in a completion.
    """
    return _WRITERS[name](sample, context)
