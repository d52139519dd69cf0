"""Held-out prompts answered by the policy of a run and by the one that it started from, on the same engines."""

import asyncio
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from actors.adapters import Adapter
from actors.batch import scored_completion
from actors.messages import Prompt, Sampling, sampling_seed
from actors.reward import RewardWorker
from actors.rollout import rollout_pool
from dermo_ray.config.mavic import RolloutSettings
from dermo_ray.config.model import ModelSettings
from dermo_ray.config.reward import RewardConfig
from dermo_ray.progress import progress_bar
from dermo_ray.rollouts import EVALUATION, ScoredCompletion


async def sample_both(
    prompts: Sequence[Prompt],
    policies: tuple[str, str],
    model: ModelSettings,
    adapter: Adapter,
    lora_rank: int | None,
    data: Path,
    reward: RewardConfig,
    settings: RolloutSettings,
    seed: int,
) -> list[ScoredCompletion]:
    """Every prompt answered by both policies, sampled and greedily, and scored.

    `policies` names the base `model` and that model with `adapter`. Progress goes to standard error.
    """
    pool = rollout_pool(settings, model, lora_rank, data)
    pool.start_arguments = (adapter,)
    scorer = RewardWorker(reward, data)
    room = asyncio.Semaphore(settings.max_concurrent)

    async def answer(prompt: Prompt, policy: str, greedy: bool) -> list[ScoredCompletion]:
        sampling = Sampling(
            n=1 if greedy else settings.group_size,
            temperature=0.0 if greedy else settings.temperature,
            max_tokens=settings.max_tokens,
            seed=sampling_seed(seed, prompt.index),
        )
        async with room:
            group = await pool.call("sample", prompt, sampling, policy == policies[1], timeout=settings.timeout)
        scored = scorer.score(group)
        bar.update(len(scored.rewards))
        return [
            scored_completion(scored, sample, policy, step=EVALUATION, greedy=greedy)
            for sample in range(len(scored.rewards))
        ]

    total = 2 * len(prompts) * (settings.group_size + 1)
    with progress_bar(total, "evaluate", " completions") as bar:
        try:
            await pool.open()
            answers = await asyncio.gather(*(answer(*which) for which in product(prompts, policies, (False, True))))
        finally:
            await pool.close()
    return [row for rows in answers for row in rows]
