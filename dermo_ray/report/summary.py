"""What a whole run came to: the model behind `summary.json`."""

from pydantic import FiniteFloat

from dermo_ray.bench.heldout import Evaluation, Measured, Scores
from dermo_ray.bench.statistics import Interval
from dermo_ray.records import Record


class Rates(Record):
    """One share for each stage."""

    sft: FiniteFloat
    mavic: FiniteFloat


class Gain(Record):
    """One measure after each stage, and the paired difference."""

    sft: FiniteFloat
    mavic: FiniteFloat
    diff: FiniteFloat
    """`mavic` minus `sft`, on the same prompts."""
    ci95: tuple[FiniteFloat, FiniteFloat]
    """The ends of the difference's 95 % bootstrap interval."""


class Summary(Record):
    """The figures of one run of prepare, sft, mavic, evaluate and serve."""

    source: str
    seed: int
    format_valid: Rates
    """Share of completions at temperature 1 without any format fault."""
    reward_heldout: Gain
    """Mean total reward at temperature 1 on held-out prompts."""
    reward_greedy: Gain
    """Mean total reward of greedy completions on the same prompts."""
    diagnosis_accuracy: Gain | None = None
    """At temperature 1; None where no prompt asks for a diagnosis."""
    balanced_accuracy: Gain | None = None
    """Of the diagnosis, at temperature 1."""
    seconds: dict[str, FiniteFloat]
    """Wall time of each stage."""
    peak_rss_gib: FiniteFloat
    """Most memory of all processes together; what they share counts once (proportional set size)."""
    versions: dict[str, str]
    """Python and the packages that the figures depend on."""
    served_answer: str
    """What the served adapter answered about a held-out image."""

    @classmethod
    def of(
        cls,
        evaluation: Evaluation,
        *,
        source: str,
        seed: int,
        seconds: dict[str, float],
        peak_rss_gib: float,
        versions: dict[str, str],
        served_answer: str,
    ) -> "Summary":
        """The summary of a run whose policies were measured both at temperature 1 and greedily.

        Raises `ValueError` where either way of decoding was not measured on both.
        """
        before, after, difference = evaluation.before, evaluation.after, evaluation.difference
        if not (before.sampled and after.sampled and before.greedy and after.greedy):
            raise ValueError("a summary needs sampled and greedy completions of both policies")
        if not (difference.sampled and difference.greedy):
            raise ValueError("a summary needs prompts that both policies answered, sampled and greedily")
        sampled = before.sampled, after.sampled, difference.sampled
        return cls(
            source=source,
            seed=seed,
            format_valid=Rates(
                sft=before.sampled.scores.format_valid.mean, mavic=after.sampled.scores.format_valid.mean
            ),
            reward_heldout=_gain("reward", *sampled),
            reward_greedy=_gain("reward", before.greedy, after.greedy, difference.greedy),
            diagnosis_accuracy=_gain("diagnosis_accuracy", *sampled) if after.labels else None,
            balanced_accuracy=_gain("balanced_accuracy", *sampled) if after.labels else None,
            seconds=seconds,
            peak_rss_gib=peak_rss_gib,
            versions=versions,
            served_answer=served_answer,
        )


def _gain(name: str, before: Measured, after: Measured, difference: Scores) -> Gain:
    change: Interval = getattr(difference, name)
    return Gain(
        sft=getattr(before.scores, name).mean,
        mavic=getattr(after.scores, name).mean,
        diff=change.mean,
        ci95=(change.low, change.high),
    )
