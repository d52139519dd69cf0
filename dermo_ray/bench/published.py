"""The paper's result table, and what of ours may stand beside it.

Source: Table 3 of arXiv 2601.01868v1 in a third party's transcription (`published.yaml`).
"""

from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

import yaml

from dermo_ray.records import Record


class PublishedTable(Record):
    """Accuracy in percent, models down and columns across."""

    columns: dict[str, str]
    """Task, or task/data set: what the paper calls it."""
    rows: dict[str, list[float | None]]


@cache
def published() -> PublishedTable:
    """The paper's table."""
    text = resources.files("dermo_ray.bench").joinpath("published.yaml").read_text(encoding="utf-8")
    values: dict[str, Any] = yaml.safe_load(text)
    return PublishedTable.model_validate(values)


def comparability(*, released: bool, limited: bool, compat: bool, missing: Sequence[str] = ()) -> str:
    """What a reader must know before setting our figures beside the paper's; `missing` are tasks and data sets."""
    if not released:
        return (
            "Nothing here compares with the paper's figures: these items were built from other images in the form of "
            "the benchmark's, not read from its files."
        )
    items = (
        "Items are a sample of the benchmark's files, so figures compare within their intervals at most."
        if limited
        else "Items come from the benchmark's files."
    )
    rules = (
        "Rows marked compat are scored by the rules of the authors' scripts, as the paper's are; the others by the "
        "option that is named."
        if compat
        else "The paper's figures were scored by the authors' scripts, ours by the option that is named: set "
        "compat=true for the same rules."
    )
    limits = (
        "CCT here is ours, as the paper's formulas are not public. Hierarchical diagnosis has no public walk, open "
        "tasks depend on the judge, and the paper's columns for them are not known: none of these compare."
    )
    gaps = f" Not asked: {'; '.join(missing)}; means are over what was asked." if missing else ""
    return f"{items}{gaps} {rules} {limits}"
