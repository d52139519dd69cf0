"""What becomes of scored groups: rewards as the advantages see them, advantages, metrics, rows of the run's record.

Pure functions. The reward that is recorded and reported is the one that the reward pool gave; penalties for length and
divergence go into the advantages alone.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any

from actors.messages import CompletionName, ScoredGroup, TrainingGroup
from dermo_ray.algorithms import advantages, overlong_penalty
from dermo_ray.config.algorithm import AlgorithmSettings
from dermo_ray.rollouts import ScoredCompletion
from rewards.watch import Watched

_ALIKE = 1e-6
"""Rewards closer than this are equal in the 32 bits in which advantages are computed."""


def overlong_penalties(scored: ScoredGroup, settings: AlgorithmSettings, max_tokens: int) -> list[float]:
    """What each completion loses for its length."""
    return [
        settings.overlong_penalty
        * overlong_penalty(
            len(completion.token_ids),
            truncated=completion.truncated,
            max_tokens=max_tokens,
            share=settings.overlong_share,
        )
        for completion in scored.group.completions
    ]


def shaped_rewards(scored: ScoredGroup, settings: AlgorithmSettings, max_tokens: int) -> list[float]:
    """The reward of each completion, less its penalty for length."""
    penalties = overlong_penalties(scored, settings, max_tokens)
    return [reward.total - penalty for reward, penalty in zip(scored.rewards, penalties, strict=True)]


def teaches_nothing(scored: ScoredGroup, settings: AlgorithmSettings, max_tokens: int) -> bool:
    """Whether no completion of a group would move the policy: rewards are equal, or all completions are masked."""
    if settings.truncated == "mask" and all(completion.truncated for completion in scored.group.completions):
        return True
    rewards = shaped_rewards(scored, settings, max_tokens)
    return max(rewards) - min(rewards) < _ALIKE


def with_advantages(
    batch: Sequence[ScoredGroup],
    settings: AlgorithmSettings,
    max_tokens: int,
    divergences: Sequence[float] = (),
) -> list[TrainingGroup]:
    """Each group with its completions' advantages, computed over the whole batch.

    `divergences`, one for each completion in order or none at all, are taken off the rewards, times
    `settings.kl_coefficient`.
    """
    rewards = [reward for scored in batch for reward in shaped_rewards(scored, settings, max_tokens)]
    if divergences:
        rewards = [r - settings.kl_coefficient * d for r, d in zip(rewards, divergences, strict=True)]
    group_ids = [position for position, scored in enumerate(batch) for _ in scored.rewards]
    values = iter(advantages(rewards, group_ids, estimator=settings.estimator).tolist())
    return [TrainingGroup(scored, [next(values) for _ in scored.rewards]) for scored in batch]


def describe(groups: Sequence[ScoredGroup], version: int) -> dict[str, float]:
    """What groups look like: rewards by term, faults, lengths, staleness."""
    rewards = [reward for scored in groups for reward in scored.rewards]
    completions = [completion for scored in groups for completion in scored.group.completions]
    lengths = [len(completion.token_ids) for completion in completions]
    totals = [[reward.total for reward in scored.rewards] for scored in groups]
    staleness = [version - scored.group.version for scored in groups]
    ages = token_ages(groups, version)
    metrics = {
        "reward/total": fmean(reward.total for reward in rewards),
        "reward_std_in_group": fmean(pstdev(values) for values in totals),
        "format_valid": fmean(float(not reward.faults) for reward in rewards),
        "gate": fmean(reward.gate for reward in rewards),
        "entropy": -fmean(value for completion in completions for value in completion.logprobs),
        "tokens": float(sum(lengths)),
        "completion_tokens": fmean(lengths),
        "truncated": fmean(float(completion.truncated) for completion in completions),
        "staleness/mean": fmean(staleness),
        "staleness/max": float(max(staleness)),
    }
    metrics |= {f"staleness/age_{age}": share for age, share in ages.items()}
    for term in sorted({name for reward in rewards for name in reward.terms}):
        metrics[f"reward/{term}"] = fmean(reward.terms[term] for reward in rewards if term in reward.terms)
    faults = Counter(fault for reward in rewards for fault in reward.faults)
    return metrics | {f"faults/{name}": count / len(rewards) for name, count in sorted(faults.items())}


def token_ages(groups: Sequence[ScoredGroup], version: int) -> dict[int, float]:
    """The share of sampled tokens by how many updates older their policy was than `version`."""
    counts: Counter[int] = Counter()
    for group in (scored.group for scored in groups):
        for completion in group.completions:
            versions = completion.versions or [group.version] * len(completion.token_ids)
            counts.update(version - sampled_by for sampled_by in versions)
    total = max(1, counts.total())
    return {age: count / total for age, count in sorted(counts.items())}


def watched(scored: ScoredGroup) -> Watched:
    """A group as the watch for gamed rewards takes it."""
    return Watched(scored.rewards, [len(completion.token_ids) for completion in scored.group.completions])


def completion_rows(
    training: TrainingGroup, step: int, logprobs: Mapping[CompletionName, Sequence[float]]
) -> list[ScoredCompletion]:
    """The rows of a group that was trained on in the run's record of rollouts; `logprobs` are the learner's."""
    index = training.scored.group.prompt.index
    return [
        scored_completion(
            training.scored,
            sample,
            "mavic",
            step=step,
            advantage=advantage,
            learner_logprobs=logprobs.get((index, sample)),
            greedy=False,
        )
        for sample, advantage in enumerate(training.advantages)
    ]


def dropped_rows(scored: ScoredGroup, step: int) -> list[ScoredCompletion]:
    """The rows of a group that dynamic sampling left out of update `step`: they have no advantage."""
    return [
        scored_completion(scored, sample, "mavic", step=step, greedy=False) for sample in range(len(scored.rewards))
    ]


def scored_completion(scored: ScoredGroup, sample: int, policy: str, **more: Any) -> ScoredCompletion:
    """Completion `sample` of a group as a row; `more` are the fields that the group does not know."""
    group, reward = scored.group, scored.rewards[sample]
    completion, record = group.completions[sample], group.prompt.record
    return ScoredCompletion(
        policy=policy,
        version=group.version,
        prompt_id=record.id,
        image=record.image,
        task=record.ground_truth.task,
        modality=record.ground_truth.modality,
        text=completion.text,
        tokens=len(completion.token_ids),
        finish_reason=completion.finish_reason,
        logprob=fmean(completion.logprobs) if completion.logprobs else 0.0,
        token_ids=tuple(completion.token_ids),
        token_logprobs=tuple(completion.logprobs),
        token_versions=tuple(completion.versions or [group.version] * len(completion.token_ids)),
        reward=reward.total,
        terms=reward.terms,
        weights=reward.weights,
        gate=reward.gate,
        gated=tuple(sorted(reward.gated)),
        faults=reward.faults,
        ground_truth=record.ground_truth.model_dump_json(),
        sample=sample,
        **more,
    )
