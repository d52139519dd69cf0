"""Fitzpatrick17k's nine-way and three-way partition of its 114 conditions, which benchmarks on it group by."""

from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import NamedTuple

import yaml


class Partition(NamedTuple):
    """The published columns `nine_partition_label` and `three_partition_label` of a condition."""

    nine: str
    three: str


@cache
def partitions() -> Mapping[str, Partition]:
    """Partition of each condition by its published label, such as "basal cell carcinoma morpheiform"."""
    text = resources.files("dermo_ray.data").joinpath("partitions.yaml").read_text(encoding="utf-8")
    return MappingProxyType(
        {
            label: Partition(nine, three)
            for three, groups in yaml.safe_load(text).items()
            for nine, labels in groups.items()
            for label in labels
        }
    )
