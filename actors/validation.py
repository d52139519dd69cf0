"""The reward on held-out prompts, measured on the pools of a run while it trains.

The prompts go to the engines all at once, when the version to be measured is the newest, and share the engines' batches
with training. Invariants: every validation asks the same prompts with the same seeds; only completions of the version
that is measured count, so that a prompt that had to be asked again after an update, or can't be scored, is left out.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from actors.batch import scored_completion
from actors.interfaces import RewardError, Rewards, Rollouts
from actors.messages import Prompt, Sampling, ScoredGroup, sampling_seed
from dermo_ray import rollouts
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.data.prompts import PromptOrder
from dermo_ray.records import RLPrompt

VALIDATION = "validation"


def heldout_prompts(prompts: Sequence[RLPrompt], config: MavicConfig) -> list[Prompt]:
    """The prompts that each validation of a run asks; their indices are below 0, out of the way of those of training."""
    order = PromptOrder(list(prompts), config.seed)
    count = min(config.validation.prompts, len(prompts))
    return [Prompt(-1 - number, order[number]) for number in range(count)]


async def validate(
    config: MavicConfig, prompts: Sequence[Prompt], version: int, rollout: Rollouts, reward: Rewards
) -> dict[str, float]:
    """Metrics of policy `version`, the newest one; its completions go to `validation/step_000020.parquet` of the run."""

    async def answer(prompt: Prompt) -> ScoredGroup | None:
        sampling = Sampling(
            n=config.validation.samples,
            temperature=config.rollout.temperature,
            max_tokens=config.rollout.max_tokens,
            seed=sampling_seed(config.seed, prompt.index),
        )
        group = await rollout.sample(prompt, sampling)
        try:
            return await reward.score(group)
        except RewardError:
            return None

    scored = await asyncio.gather(*map(answer, prompts))
    of_version = [group for group in scored if group is not None and group.group.version == version]
    rows = [
        scored_completion(group, sample, "mavic", step=rollouts.EVALUATION, greedy=False)
        for group in of_version
        for sample in range(len(group.rewards))
    ]
    await asyncio.to_thread(rollouts.write, rows, rollouts.step_file(Path(config.run, VALIDATION), version))
    return measures(of_version) | {"validation/version": float(version)}


def measures(groups: Sequence[ScoredGroup]) -> dict[str, float]:
    """Means over all completions; without one there is nothing but their number."""
    rewards = [reward for group in groups for reward in group.rewards]
    metrics = {"validation/completions": float(len(rewards))}
    if not rewards:
        return metrics
    metrics["validation/reward"] = fmean(reward.total for reward in rewards)
    metrics["validation/format_valid"] = fmean(float(not reward.faults) for reward in rewards)
    for term in sorted({name for reward in rewards for name in reward.terms}):
        values = [reward.terms[term] for reward in rewards if term in reward.terms]
        metrics[f"validation/{term}"] = fmean(values)
    return metrics
