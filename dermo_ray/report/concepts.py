"""The report of a concept model: its measures as tables, and what the linear head learned as a table and a picture.

One HTML file that needs nothing else; the picture is also a file of its own, `linear_head.png`.
"""

import base64
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from dermo_ray.models.concepts.scores import ConceptMeasures
from dermo_ray.models.concepts.vocabulary import CONCEPTS
from dermo_ray.morphology import Schema
from dermo_ray.report.html import REPORT
from dermo_ray.report.pages import interval, render
from dermo_ray.staging import staged_file

PICTURE = "linear_head.png"
_TOP = 4
"""Concepts shown for and against each diagnosis."""

Weights = Mapping[str, Mapping[str, float]]
"""Logits by label and concept."""


def write_concept_report(run: Path, measures: ConceptMeasures) -> Path:
    """Write `report.html` and `linear_head.png` into the folder `run`; returns the path of the first."""
    picture = linear_head_picture(measures.weights) if measures.weights else None
    if picture is not None:
        (run / PICTURE).write_bytes(picture)
    path = run / REPORT
    with staged_file(path) as aside:
        aside.write_text(concept_report(measures, picture), encoding="utf-8")
    return path


def concept_report(measures: ConceptMeasures, picture: bytes | None) -> str:
    """The page as text; `picture` is the PNG of the linear head, None where no diagnosis was learned."""
    return render(
        "concepts.html",
        {"interval": interval},
        measures=measures,
        top={schema: _top(weights) for schema, weights in measures.weights.items()},
        picture=None if picture is None else f"data:image/png;base64,{base64.b64encode(picture).decode()}",
    )


def linear_head_picture(weights: Mapping[Schema, Weights]) -> bytes:
    """A PNG with a panel a schema: diagnoses down, concepts across, red for and blue against.

    Concepts that say next to nothing about any diagnosis (below 5 % of the largest weight) are left out.
    """
    panels = []
    for schema, by_label in weights.items():
        matrix = np.array([[by_label[label][concept] for concept in CONCEPTS[schema]] for label in by_label])
        reach = float(np.abs(matrix).max())
        speaking = np.abs(matrix).max(axis=0) >= 0.05 * reach
        names = [name for name, speaks in zip(CONCEPTS[schema], speaking, strict=True) if speaks]
        panels.append((list(by_label), names, matrix[:, speaking], reach))
    heights = [2.6 + 0.26 * len(labels) for labels, *_ in panels]
    width = 3.2 + 0.24 * max(len(names) for _, names, *_ in panels)
    figure = Figure(figsize=(width, sum(heights)), layout="constrained")
    grid = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
    for axes, (labels, names, matrix, reach) in zip(grid[:, 0], panels, strict=True):
        image = axes.imshow(matrix, cmap="RdBu_r", vmin=-(reach or 1.0), vmax=reach or 1.0, aspect="auto")
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
        axes.set_yticks(range(len(labels)), labels, fontsize=9)
        figure.colorbar(image, ax=axes, label="logits for the diagnosis", pad=0.01)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _top(weights: Weights) -> dict[str, tuple[list[tuple[str, float]], list[tuple[str, float]]]]:
    """The concepts that say most for and most against each label."""
    result = {}
    for label, by_concept in weights.items():
        ranked = sorted(by_concept.items(), key=lambda item: -item[1])
        speaking_for = [item for item in ranked[:_TOP] if item[1] > 0]
        result[label] = speaking_for, [item for item in ranked[: -_TOP - 1 : -1] if item[1] < 0]
    return result
