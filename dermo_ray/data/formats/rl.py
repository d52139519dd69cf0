"""The prompts of reinforcement learning: a request and the reference behind its reward."""

from dermo_ray.data.samples import StoredSample
from dermo_ray.prompts import Style, prompt
from dermo_ray.records import GroundTruth, RLPrompt, Task
from dermo_ray.taxonomy import Taxonomy


def rl_prompt(sample: StoredSample, task: Task, style: Style, taxonomy: Taxonomy) -> RLPrompt | None:
    """The prompt of `sample` and its reference; None where it lacks a label (task3) or a whole morphology (task1)."""
    truth = GroundTruth(
        task=task,
        modality=sample.modality,
        final_label=sample.label,
        taxon_path=[] if sample.label is None else taxonomy.path(sample.label),
        morph=None if sample.morphology is None else sample.morphology.to_json(),
    )
    if (truth.final_label if task == "task3" else truth.comparable_morphology) is None:
        return None
    return RLPrompt(
        id=f"grpo_{task}_{sample.id}",
        image=sample.image,
        source=sample.source,
        group=sample.group,
        prompt=prompt(style, task, sample.modality),
        ground_truth=truth,
    )
