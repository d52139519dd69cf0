"""What all formats share: the settings of a corpus, the randomness of one record, and the record itself.

Invariant: the image is marked once, at the head of the first human turn.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from dermo_ray.data.samples import StoredSample
from dermo_ray.data.wording import is_free_text
from dermo_ray.prompts import IMAGE_PLACEHOLDER, Style
from dermo_ray.records import Format, Trajectory, Turn
from dermo_ray.taxonomy import Taxonomy


@dataclass(frozen=True)
class FormatContext:
    """What a record depends on besides its sample."""

    style: Style
    taxonomy: Taxonomy
    labels: tuple[str, ...] = ()
    """The canonical labels of the corpus, from which the wrong options of a diagnosis choice are taken."""
    seed: int = 0
    features_per_image: int = 2
    """How many multiple-choice questions at most to ask about the SkinCon features of one image."""


def randomness(sample: StoredSample, name: Format, context: FormatContext) -> Random:
    """The source of every choice in the records of one sample and format."""
    return Random(f"{context.seed}/{name}/{sample.id}")


def checked(text: str, sample: StoredSample) -> str:
    """`text`, which somebody wrote about `sample`. Raises `ValueError` where it can't stand in a completion."""
    if not is_free_text(text):
        raise ValueError(
            f"{sample.id}: no completion can hold this text, which is empty or has reserved tags: {text!r}"
        )
    return text


def record(
    sample: StoredSample,
    name: Format,
    exchanges: Sequence[tuple[str, str]],
    *,
    about: str | None = None,
    drawn_from: Sequence[str] = (),
) -> Trajectory:
    """The conversation of `exchanges` (question, answer) about the image of `sample`.

    `about` sets apart several records of one sample and format. `drawn_from` names what the answers repeat
    ("morphology", "description", "reasoning"); where a part is machine-made, the record says by whom.
    """
    turns = []
    for number, (question, answer) in enumerate(exchanges):
        turns.append(Turn(from_="human", value=question if number else f"{IMAGE_PLACEHOLDER}\n{question}"))
        turns.append(Turn(from_="gpt", value=answer))
    return Trajectory(
        id="_".join([name, *([] if about is None else [about]), sample.id]),
        image=sample.image,
        format=name,
        source=sample.source,
        group=sample.group,
        conversations=turns,
        annotator=_provenance(sample, drawn_from),
    )


def _provenance(sample: StoredSample, parts: Sequence[str]) -> str | None:
    made = {} if sample.annotator is None else json.loads(sample.annotator)
    used = {part: made[part] for part in parts if part in made}
    return json.dumps(used, sort_keys=True) if used else None
