"""Measuring a model: metrics and their uncertainty."""

from dermo_ray.bench.statistics import (
    Interval,
    accuracy,
    balanced_accuracy,
    bootstrap_mean,
    bootstrap_statistic,
    paired_difference,
)

__all__ = [
    "Interval",
    "accuracy",
    "balanced_accuracy",
    "bootstrap_mean",
    "bootstrap_statistic",
    "paired_difference",
]
