"""The reward on held-out prompts, measured on the pools of a run while it trains.

Its prompts share the engines' batches with those of training, and keep the adapter that is measured whatever is
published meanwhile. Invariants: every validation asks the same prompts with the same seeds; only completions of the
version that is measured count, so that a prompt that can't be scored, or where whole weights changed, is left out.
"""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from actors.adapters import Adapter, Published, Sent
from actors.batch import scored_completion
from actors.interfaces import RewardError, Rewards, Rollouts
from actors.messages import Prompt, Sampling, ScoredGroup, sampling_seed
from dermo_ray import checkpoints, rollouts
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.data.prompts import PromptOrder
from dermo_ray.early_stopping import Best
from dermo_ray.records import RLPrompt
from dermo_ray.run_directory import CHECKPOINTS

VALIDATION = "validation"

_log = logging.getLogger(__name__)


def heldout_prompts(prompts: Sequence[RLPrompt], config: MavicConfig) -> list[Prompt]:
    """The prompts that each validation of a run asks; their indices are below 0, where training has none."""
    order = PromptOrder(list(prompts), config.seed)
    count = min(config.validation.prompts, len(prompts))
    return [Prompt(-1 - number, order[number]) for number in range(count)]


class Validations:
    """A run's validations, one at a time beside the training, and the best of them.

    The checkpoint of the best one is what `checkpoints/best` points at.
    """

    def __init__(
        self, config: MavicConfig, prompts: Sequence[Prompt], rollout: Rollouts, reward: Rewards, best: Best
    ) -> None:
        self._config, self._prompts = config, prompts
        self._rollout, self._reward = rollout, reward
        self.best = best
        self._task: asyncio.Task[dict[str, float]] | None = None
        self._version = -1
        """What the task measures."""
        self._results: dict[str, float] = {}

    def due(self, version: int) -> bool:
        """Whether `version` is to be measured, and was not yet."""
        every = self._config.validation.every
        return every > 0 and version % every == 0 and version != self.best.last

    async def begin(self, version: int, weights: Published | Sent | None) -> None:
        """Measure policy `version`, which was just published, from now on; waits where the last one is not done."""
        await self.finish()
        self._collect()
        self._version = version
        apart = self._config.engine_lora_rank is not None
        adapter = weights if apart and isinstance(weights, Adapter) else None
        measuring = validate(self._config, self._prompts, version, adapter, self._rollout, self._reward)
        self._task = asyncio.get_running_loop().create_task(measuring)

    async def finish(self) -> None:
        """Wait for the one that is under way."""
        if self._task is not None:
            await asyncio.wait({self._task})

    def results(self) -> dict[str, float]:
        """Metrics of what was measured since the last call. Raises what went wrong meanwhile."""
        self._collect()
        results, self._results = self._results, {}
        return results

    @property
    def exhausted(self) -> bool:
        """Whether there was no gain for too long."""
        return self.best.exhausted(self._config.validation.patience)

    @property
    def measured(self) -> set[int]:
        """The policy version that is being measured, if any: engines may still ask for its adapter."""
        return {self._version} if self._task is not None else set()

    @property
    def kept(self) -> set[int]:
        """The versions whose checkpoints must stay: the best one, and what may turn out to be it."""
        return self.measured | ({self.best.version} if self.best.version is not None else set())

    def cancel(self) -> None:
        """Give up what is under way."""
        if self._task is not None:
            self._task.cancel()

    def __str__(self) -> str:
        return (
            f"{self.best.without_gain} validations in a row without a gain over {self.best.reward} "
            f"of version {self.best.version}"
        )

    def _collect(self) -> None:
        if self._task is None or not self._task.done():
            return
        task, self._task = self._task, None
        self._results = task.result()
        reward = self._results.get("validation/reward")
        if reward is None:
            return
        checkpoint = self._config.run / CHECKPOINTS / checkpoints.step_name(self._version)
        if self._version > 0 and not checkpoint.is_dir():  # where the run begins there is none to keep
            _log.warning("validation of update %d does not count: %s could not be written", self._version, checkpoint)
            return
        if self.best.observe(self._version, reward, self._config.validation.min_gain) and checkpoint.is_dir():
            checkpoints.point_at(checkpoint, checkpoints.BEST)


async def validate(
    config: MavicConfig,
    prompts: Sequence[Prompt],
    version: int,
    adapter: Adapter | None,
    rollout: Rollouts,
    reward: Rewards,
) -> dict[str, float]:
    """Metrics of policy `version`: `adapter`, or where there is none what the engines have.

    Its completions go to `validation/step_000020.parquet` of the run.
    """

    async def answer(prompt: Prompt) -> ScoredGroup | None:
        sampling = Sampling(
            n=config.validation.samples,
            temperature=config.rollout.temperature,
            max_tokens=config.rollout.max_tokens,
            seed=sampling_seed(config.seed, prompt.index),
        )
        group = await rollout.sample(prompt, sampling, adapter)
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
