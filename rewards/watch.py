"""Watches a run for a policy that games its reward, from the scored groups of each update alone.

The suspect is consistency, which a learned model gives; the witness is morphology, which annotations give. Where the
first rises while the second falls, the policy has found what pleases the model and is not there.
Everything is a pure function of the groups but `Watch`, which remembers as many updates as its settings say.
"""

import math
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from itertools import combinations
from statistics import StatisticsError, correlation, fmean
from typing import NamedTuple, NotRequired, TypedDict

from scipy import stats

from dermo_ray.config.watch import WatchSettings
from rewards.mavic import Reward

LEARNED, REFERENCE = "consistency", "morphology"


class Watched(NamedTuple):
    """One scored group: the reward and the length in tokens of each completion."""

    rewards: Sequence[Reward]
    lengths: Sequence[int]


class WatchMemory(TypedDict):
    """What a watch remembers, as a checkpoint keeps it."""

    baseline: list[float]
    """Mean lengths of the first updates."""
    trend: list[tuple[float, float]]
    """Means of the learned and of the reference term where both apply, newest last."""
    alarmed: NotRequired[bool]
    """Whether the alarm is on."""


class Watch:
    """Follows a run, update by update; one that goes on begins with the `memory` of the one before."""

    def __init__(self, settings: WatchSettings, memory: WatchMemory | None = None) -> None:
        self._settings = settings
        self._baseline = list(memory["baseline"]) if memory else []
        self._trend = deque(memory["trend"] if memory else (), maxlen=settings.window)
        self._alarmed = memory.get("alarmed", False) if memory else False
        self.news: str | None = None
        """One line where the alarm began or ended with the update that was observed last."""

    @property
    def memory(self) -> WatchMemory:
        """What it remembers now."""
        return {"baseline": list(self._baseline), "trend": list(self._trend), "alarmed": self._alarmed}

    def observe(self, groups: Iterable[Watched]) -> dict[str, float]:
        """The metrics of one update's groups; docs/reward.md explains each. One that is undefined is left out."""
        groups, self.news = list(groups), None
        rewards = [reward for group in groups for reward in group.rewards]
        length = fmean(length for group in groups for length in group.lengths)
        if len(self._baseline) < self._settings.window:
            self._baseline.append(length)
        metrics = {
            "watch/gated": gated_share(rewards),
            "watch/constant_groups": constant_share(groups),
            "watch/length_drift": length / fmean(self._baseline) - 1 if any(self._baseline) else 0.0,
        }
        diagnoses = [reward.diagnosis for reward in rewards if reward.diagnosis is not None]
        if diagnoses:
            metrics["watch/diagnosis_entropy"] = entropy(diagnoses)
        both = [(r.terms[LEARNED], r.terms[REFERENCE]) for r in rewards if {LEARNED, REFERENCE} <= r.terms.keys()]
        if both:
            learned, reference = (fmean(values) for values in zip(*both, strict=True))
            self._trend.append((learned, reference))
            metrics["watch/consistency_gap"] = learned - reference
            self._look_at_trend()
            metrics["watch/alarm"] = float(self._alarmed)
        for (first, second), value in correlations(rewards).items():
            metrics[f"watch/correlation/{first}_{second}"] = value
        return metrics

    def _look_at_trend(self) -> None:
        """The alarm is on where, over the last `window` updates, the learned term rose while the reference fell."""
        learned, reference = zip(*self._trend, strict=True)
        alarmed = (
            len(self._trend) == self._settings.window
            and rises(learned, self._settings.significance)
            and falls(reference, self._settings.significance)
        )
        if alarmed and not self._alarmed:
            self.news = (
                f"alarm: over the last {len(self._trend)} updates {LEARNED} (the concept model's) rose from "
                f"{learned[0]:.3f} to {learned[-1]:.3f} while {REFERENCE} (the annotations') fell from "
                f"{reference[0]:.3f} to {reference[-1]:.3f}: the policy may be gaming the concept model"
            )
        elif self._alarmed and not alarmed:
            self.news = (
                f"the alarm is over: {LEARNED} is at {learned[-1]:.3f} and {REFERENCE} at {reference[-1]:.3f}, and "
                f"over the last {len(self._trend)} updates they no longer part"
            )
        self._alarmed = alarmed


def correlations(rewards: Sequence[Reward]) -> dict[tuple[str, str], float]:
    """Pearson's correlation of each two terms, over the completions that both apply to.

    Pairs of which a term is constant there, or that fewer than two completions have, are left out.
    """
    names = list(dict.fromkeys(name for reward in rewards for name in reward.terms))
    found = {}
    for first, second in combinations(names, 2):
        pairs = [(r.terms[first], r.terms[second]) for r in rewards if {first, second} <= r.terms.keys()]
        if len(pairs) < 2:
            continue
        try:
            found[first, second] = correlation(*zip(*pairs, strict=True))
        except StatisticsError:  # a constant term correlates with nothing
            continue
    return found


def gated_share(rewards: Sequence[Reward]) -> float:
    """Share of completions whose gate is not fully open."""
    return fmean(reward.gate < 1.0 for reward in rewards)


def constant_share(groups: Sequence[Watched]) -> float:
    """Share of groups whose completions all earn the same, so that their advantages are 0."""
    totals = ([reward.total for reward in group.rewards] for group in groups)
    return fmean(max(values) - min(values) < 1e-9 for values in totals)


def entropy(labels: Sequence[str]) -> float:
    """Entropy in nats of how often each label is stated; 0 where only one is."""
    shares = (count / len(labels) for count in Counter(labels).values())
    return sum(-share * math.log(share) for share in shares)


def rises(values: Sequence[float], significance: float) -> bool:
    """Whether the least-squares slope is above 0 by a one-sided t-test."""
    if max(values) == min(values):
        return False
    return bool(stats.linregress(range(len(values)), values, alternative="greater").pvalue < significance)


def falls(values: Sequence[float], significance: float) -> bool:
    """Whether the least-squares slope is below 0 by a one-sided t-test."""
    return rises([-value for value in values], significance)
