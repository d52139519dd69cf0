"""CCT's adaptation over the stream of a task's items, beside plain CCT. Off unless `cct.adaptation` asks for it."""

from collections.abc import Sequence

import numpy as np

from dermo_ray.bench.columns import Columns
from dermo_ray.bench.measures import Bootstrap
from dermo_ray.bench.paired import PairedComparison
from dermo_ray.bench.paired import compare as compare_paired
from dermo_ray.bench.responses import Response, Step
from dermo_ray.cct import CCTResult, adapt
from dermo_ray.config.cct import AdaptationSettings, CCTConfig
from dermo_ray.records import Record
from dermo_ray.taxonomy import fold_label


class Adapted(Record):
    """Plain CCT (`before`) and adapted CCT (`after`) on the questions that some rollout answered."""

    accuracy: PairedComparison
    confidence: tuple[float, float]
    """Mean confidence before and after."""
    prior: dict[str, float] | None
    """How frequent each label is taken to be; None where the prior was left alone."""


def adapted(responses: Sequence[Response], answers: Columns, config: CCTConfig, bootstrap: Bootstrap) -> Adapted | None:
    """The adapted answers of a task whose answers are labels; None where nothing is to be adapted.

    Steps of a walk have options of their own at every node: there is no one distribution of labels to shift.
    """
    if config.adaptation == AdaptationSettings() or max(answers.places) > 0:
        return None
    steps: dict[str, Step] = {response.item: response.steps[0] for response in responses}
    rows = [row for row, item in enumerate(answers.items) if item.id in steps and steps[item.id].answer is not None]
    if not rows:
        return None
    results = [_result(steps[answers.items[row].id]) for row in rows]
    stream = adapt(results, config)
    truth = [fold_label(answers.truth[row]) for row in rows]
    before = [fold_label(result.answer) == label for result, label in zip(results, truth, strict=True)]
    after = [fold_label(result.answer) == label for result, label in zip(stream.results, truth, strict=True)]
    return Adapted(
        accuracy=compare_paired(np.array(before), np.array(after), groups=answers.groups[rows], **bootstrap._asdict()),
        confidence=(
            float(np.mean([result.confidence for result in results])),
            float(np.mean([result.confidence for result in stream.results])),
        ),
        prior=stream.prior,
    )


def _result(step: Step) -> CCTResult:
    answer = step.answer or next(iter(step.posterior))
    return CCTResult(answer, step.confidence or 0.0, dict(step.posterior), step.abstain)
