"""The run controller: admits prompts, collects scored groups, updates the policy, publishes it.

It runs on one asyncio loop, on the driver. Invariants: a group is admitted only while the capacity gate has room, so no
completion is more than `max_staleness` updates old when it is trained on; every admitted prompt is trained on once;
engines answer with a version only after all of them proved that they loaded the published files.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, pstdev
from typing import Any

from actors.adapters import retire
from actors.learner_pool import LearnerPool
from actors.messages import Prompt, Sampling, ScoredGroup, TrainingGroup, sampling_seed
from actors.pool import Pool, PoolError
from dermo_ray import checkpoints, rollouts
from dermo_ray.algorithms import advantages
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.data.prompts import PromptOrder
from dermo_ray.rollouts import ScoredCompletion
from dermo_ray.run_directory import CHECKPOINTS
from rewards.watch import Watch, Watched

ROLLOUTS = "rollouts"

Report = Callable[[int, dict[str, float], str | None], None]
"""Takes the number of an update that was made, its metrics, and an alarm where there is cause for one."""


@dataclass
class Progress:
    """How far a run has come; what a checkpoint restores besides weights and optimizer."""

    version: int = 0
    """Learner updates made."""
    next_index: int = 0
    """The first prompt index that was never admitted."""
    pending: list[int] = field(default_factory=list)
    """Indices that were admitted but not yet trained on; a resumed run samples them first."""


def capacity(max_concurrent: int, running: int, max_staleness: int, version: int, batch: int, accepted: int) -> int:
    """How many more groups may be admitted now.

    A group admitted now is trained on after those that were accepted or are running, so by then the learner has made
    (accepted + running) / batch updates; the second bound keeps that within `max_staleness` of `version`. The gate is
    AReaL's (Fu et al., arXiv 2505.24298, section 5.1).
    """
    return min(max_concurrent - running, (max_staleness + version + 1) * batch - (accepted + running))


class RunController:
    """Conducts one MAVIC run over three open pools."""

    def __init__(
        self,
        config: MavicConfig,
        order: PromptOrder,
        rollout: Pool,
        reward: Pool,
        learner: LearnerPool,
        progress: Progress,
        report: Report,
    ) -> None:
        self._config = config
        self._order = order
        self._rollout, self._reward, self._learner = rollout, reward, learner
        self._progress = progress
        self._report = report
        self._running: set[int] = set()
        self._ready: list[ScoredGroup] = []
        self._accepted = progress.version * config.batch_groups
        self._change = asyncio.Condition()
        self._again = sorted(progress.pending)
        self._published = progress.version
        self._watch = Watch(config.watch)

    async def run(self) -> None:
        """Make the updates that are left. The first error of any pool ends the run."""
        await self._publish()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._admit(tasks))
                while self._progress.version < self._config.steps:
                    await self._step()
        except BaseExceptionGroup as failures:
            first = failures.exceptions[0]
            raise first from first.__cause__

    async def _admit(self, tasks: asyncio.TaskGroup) -> None:
        """Start a group whenever the gate has room, until the run has all the prompts it needs."""
        limit = self._config.steps * self._config.batch_groups
        while self._accepted + len(self._running) < limit:
            async with self._change:
                await self._change.wait_for(lambda: self._room() > 0)
            index = self._next_index()
            self._running.add(index)
            tasks.create_task(self._group(Prompt(index, self._order[index])))

    def _room(self) -> int:
        config = self._config
        return capacity(
            config.rollout.max_concurrent,
            len(self._running),
            config.max_staleness,
            self._published,
            config.batch_groups,
            self._accepted,
        )

    def _next_index(self) -> int:
        if self._again:
            return self._again.pop(0)
        self._progress.next_index += 1
        return self._progress.next_index - 1

    async def _group(self, prompt: Prompt) -> None:
        config = self._config
        sampling = Sampling(
            n=config.rollout.group_size,
            temperature=config.rollout.temperature,
            max_tokens=config.rollout.max_tokens,
            seed=sampling_seed(config.seed, prompt.index),
        )
        group = await self._rollout.call("sample", prompt, sampling, timeout=config.rollout.timeout)
        scored = await self._reward.call("score", group, timeout=config.rewards.timeout)
        async with self._change:
            self._running.remove(prompt.index)
            self._accepted += 1
            self._ready.append(scored)
            self._change.notify_all()

    async def _step(self) -> None:
        config, version = self._config, self._progress.version
        clock = Clock()
        batch = await self._batch()
        clock.lap("seconds/wait_rollout")
        training = with_advantages(batch, config.algorithm.estimator)
        metrics = describe(training, version) | self._watch.observe(map(_watched, batch))
        metrics |= await self._learner.update(training, version)
        self._check_engine(metrics, batch)
        self._progress.version += 1
        clock.lap("seconds/update")
        await self._publish()
        clock.lap("seconds/publish")
        rows = [row for group in training for row in completion_rows(group, version)]
        await asyncio.to_thread(rollouts.write, rows, rollouts.step_file(config.run / ROLLOUTS, version))
        if self._progress.version % config.checkpoint_every == 0 or self._progress.version == config.steps:
            await self._checkpoint()
        clock.lap("seconds/bookkeeping")
        metrics |= clock.laps
        metrics["tokens_per_second"] = metrics["tokens"] / sum(clock.laps.values())
        metrics["samples_per_second"] = len(rows) / sum(clock.laps.values())
        self._report(self._progress.version, metrics, self._watch.alarm())

    async def _batch(self) -> list[ScoredGroup]:
        """The groups of the next update: those admitted first, however long the last of them takes.

        The gate bounds staleness in this order alone: a straggler that younger groups overtake is trained on too late.
        """
        size = self._config.batch_groups

        def complete() -> bool:
            self._ready.sort(key=lambda scored: scored.group.prompt.index)
            if len(self._ready) < size:
                return False
            return self._ready[size - 1].group.prompt.index < min(self._running, default=math.inf)

        async with self._change:
            await self._change.wait_for(complete)
            batch, self._ready = self._ready[:size], self._ready[size:]
        return batch

    def _check_engine(self, metrics: dict[str, float], batch: Sequence[ScoredGroup]) -> None:
        """Stop where the engines can't have sampled from the weights that the learner has."""
        gap, limit = metrics["rollout_logprob_diff"], self._config.algorithm.max_logprob_gap
        if all(scored.group.version == self._progress.version for scored in batch) and gap > limit:
            raise RuntimeError(
                f"update {self._progress.version}: engine and learner disagree by {gap:.3f} nats a token at the same "
                f"policy version (limit {limit}): the engines do not serve the published weights"
            )

    async def _publish(self) -> None:
        """Publish the learner's adapter, and let new requests use it once every engine has proved that it is loaded."""
        folder = self._config.run / "adapters"
        adapter = await self._learner.publish(folder, self._progress.version)
        for checksum in await self._rollout.broadcast("load", adapter, timeout=self._config.rollout.timeout):
            if checksum != adapter.checksum:
                raise PoolError(f"a rollout worker loaded {checksum[:12]} as policy version {adapter.version}")
        self._rollout.start_arguments = (adapter,)
        retire(folder, keep={adapter.version - age for age in range(self._config.max_staleness + 2)})
        async with self._change:
            self._published = adapter.version
            self._change.notify_all()

    async def _checkpoint(self) -> None:
        progress = self._progress
        untrained = [scored.group.prompt.index for scored in self._ready]
        progress.pending = sorted([*self._running, *untrained, *self._again])
        state = {"step": progress.version, **asdict(progress)}  # now: more groups are admitted while files are written
        folder = self._config.run / CHECKPOINTS
        partial = checkpoints.begin(folder, progress.version)
        await self._learner.save(partial)
        await asyncio.to_thread(checkpoints.commit, partial, state)
        checkpoints.retain(folder, self._config.keep_checkpoints)


def with_advantages(batch: Sequence[ScoredGroup], estimator: str) -> list[TrainingGroup]:
    """Each group with its completions' advantages, computed over the whole batch."""
    rewards = [reward.total for scored in batch for reward in scored.rewards]
    group_ids = [position for position, scored in enumerate(batch) for _ in scored.rewards]
    values = iter(advantages(rewards, group_ids, estimator=estimator).tolist())
    return [TrainingGroup(scored, [next(values) for _ in scored.rewards]) for scored in batch]


def describe(batch: Sequence[TrainingGroup], version: int) -> dict[str, float]:
    """What a batch looks like: rewards by term, faults, lengths, staleness."""
    groups = [training.scored for training in batch]
    rewards = [reward for scored in groups for reward in scored.rewards]
    completions = [completion for scored in groups for completion in scored.group.completions]
    lengths = [len(completion.token_ids) for completion in completions]
    totals = [[reward.total for reward in scored.rewards] for scored in groups]
    staleness = [version - scored.group.version for scored in groups]
    metrics = {
        "reward/total": fmean(reward.total for reward in rewards),
        "reward_std_in_group": fmean(pstdev(values) for values in totals),
        "format_valid": fmean(float(not reward.faults) for reward in rewards),
        "gate": fmean(reward.gate for reward in rewards),
        "entropy": -fmean(value for completion in completions for value in completion.logprobs),
        "tokens": float(sum(lengths)),
        "completion_tokens": fmean(lengths),
        "truncated": fmean(float(completion.finish_reason == "length") for completion in completions),
        "staleness/mean": fmean(staleness),
        "staleness/max": float(max(staleness)),
    }
    for term in sorted({name for reward in rewards for name in reward.terms}):
        metrics[f"reward/{term}"] = fmean(reward.terms[term] for reward in rewards if term in reward.terms)
    faults = Counter(fault for reward in rewards for fault in reward.faults)
    return metrics | {f"faults/{name}": count / len(rewards) for name, count in sorted(faults.items())}


def _watched(scored: ScoredGroup) -> Watched:
    return Watched(scored.rewards, [len(completion.token_ids) for completion in scored.group.completions])


def completion_rows(training: TrainingGroup, step: int) -> list[ScoredCompletion]:
    """The rows of a group in the run's record of rollouts."""
    rows = []
    for sample, advantage in enumerate(training.advantages):
        rows.append(scored_completion(training.scored, sample, "mavic", step=step, advantage=advantage, greedy=False))
    return rows


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


class Clock:
    """Seconds between named moments."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        """What has passed since the last lap goes by `name`."""
        now = time.monotonic()
        self.laps[name] = now - self._last
        self._last = now
