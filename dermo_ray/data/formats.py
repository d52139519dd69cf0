"""From a stored sample to training records: which formats its annotations allow, and what they say.

Invariant: supervised targets are written from `annotation`, references of rewards from `morphology`; a sample that
lacks what a format needs gives no record of that format.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from dermo_ray.completion import Completion, render
from dermo_ray.config.prepare import Format
from dermo_ray.data.samples import StoredSample
from dermo_ray.data.wording import description, reasoning
from dermo_ray.prompts import PromptTask, Style, prompt
from dermo_ray.records import GroundTruth, RLPrompt, Task, Trajectory, Turn
from dermo_ray.taxonomy import Taxonomy


def trajectory(sample: StoredSample, name: Format, style: Style) -> Trajectory | None:
    """The training conversation of `sample` in the format `name`, None where its annotations don't allow it."""
    conversation = _CONVERSATIONS[name](sample, style)
    if conversation is None:
        return None
    return Trajectory(
        id=f"{name}_{sample.id}",
        image=sample.image,
        format=name,
        source=sample.source,
        group=sample.group,
        conversations=conversation,
    )


def rl_prompt(sample: StoredSample, task: Task, style: Style, taxonomy: Taxonomy) -> RLPrompt | None:
    """The reinforcement-learning prompt of `sample`, None where it lacks a label (task3) or a morphology (task1)."""
    if (sample.label if task == "task3" else sample.morphology) is None:
        return None
    return RLPrompt(
        id=f"grpo_{task}_{sample.id}",
        image=sample.image,
        source=sample.source,
        group=sample.group,
        prompt=prompt(style, task, sample.modality),
        ground_truth=GroundTruth(
            task=task,
            modality=sample.modality,
            final_label=sample.label,
            taxon_path=[] if sample.label is None else taxonomy.path(sample.label),
            morph=None if sample.morphology is None else sample.morphology.to_json(),
        ),
    )


def _morph_reasoning(sample: StoredSample, style: Style) -> list[Turn] | None:
    if sample.annotation is None or sample.label is None:
        return None
    said = Completion(
        "task3", reasoning=reasoning(sample.annotation), morphology=sample.annotation, diagnosis=sample.label
    )
    return _exchange(sample, style, "task3", render(said))


def _morph_description(sample: StoredSample, style: Style) -> list[Turn] | None:
    if sample.annotation is None:
        return None
    paragraph = description(sample.annotation, sample.modality)
    return _exchange(
        sample, style, "task1", render(Completion("task1", morphology=sample.annotation, description=paragraph))
    )


def _diagnosis(sample: StoredSample, style: Style) -> list[Turn] | None:
    if sample.label is None:
        return None
    return _exchange(sample, style, "diagnosis", f"<final_diagnosis>{sample.label}</final_diagnosis>")


def _exchange(sample: StoredSample, style: Style, task: PromptTask, answer: str) -> list[Turn]:
    return [Turn(from_="human", value=prompt(style, task, sample.modality)), Turn(from_="gpt", value=answer)]


_CONVERSATIONS: Mapping[Format, Callable[[StoredSample, Style], list[Turn] | None]] = MappingProxyType(
    {"morph_reasoning": _morph_reasoning, "morph_description": _morph_description, "diagnosis": _diagnosis}
)
