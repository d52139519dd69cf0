"""The run controller: admits prompts, collects scored groups, updates the policy, publishes it.

It runs on one asyncio loop, on the driver. Invariants: a group is admitted only while the capacity gate has room, so no
completion is more than `max_staleness` updates old when it is trained on; every admitted prompt is trained on once, or
recorded once as dropped because its group taught nothing; engines answer with a version only after all of them proved
that they loaded the published files.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean

import ray

from actors import refill
from actors.adapters import retire
from actors.batch import (
    completion_rows,
    describe,
    dropped_rows,
    overlong_penalties,
    teaches_nothing,
    watched,
    with_advantages,
)
from actors.learner_pool import LearnerPool
from actors.messages import Prompt, Sampling, ScoredGroup, sampling_seed
from actors.pool import Pool, PoolError
from dermo_ray import checkpoints, rollouts
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.data.prompts import PromptOrder
from dermo_ray.records import RLPrompt
from dermo_ray.run_directory import CHECKPOINTS
from rewards.watch import Watch

ROLLOUTS = "rollouts"

Report = Callable[[int, dict[str, float], str | None], None]
"""Takes the number of an update that was made, its metrics, and an alarm where there is cause for one."""

StoreImages = Callable[[RLPrompt], "ray.ObjectRef[list[bytes]]"]
"""Puts the images of a prompt where all pools can read them."""


@dataclass
class Progress:
    """How far a run has come; what a checkpoint restores besides weights and optimizer."""

    version: int = 0
    """Learner updates made."""
    next_index: int = 0
    """The first prompt index that was never admitted."""
    pending: list[int] = field(default_factory=list)
    """Indices that were admitted but neither trained on nor dropped yet; a resumed run samples them first."""


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
        store_images: StoreImages | None = None,
    ) -> None:
        self._config = config
        self._order = order
        self._rollout, self._reward, self._learner = rollout, reward, learner
        self._progress = progress
        self._report = report
        self._store_images = store_images
        self._running: set[int] = set()
        self._ready: dict[int, ScoredGroup] = {}
        """Scored groups by the index of their prompt."""
        self._constant: set[int] = set()
        """Those of them that dynamic sampling may drop."""
        self._taken = progress.version * config.batch_groups
        """Groups that updates were made from, or will be next."""
        self._change = asyncio.Condition()
        self._again = sorted(progress.pending)
        self._published = progress.version
        self._watch = Watch(config.watch)

    async def run(self) -> None:
        """Make the updates that are left. The first error of any pool ends the run."""
        await self._publish()
        try:
            async with asyncio.TaskGroup() as tasks:
                admission = tasks.create_task(self._admit(tasks))
                while self._progress.version < self._config.steps:
                    await self._step()
                admission.cancel()
        except BaseExceptionGroup as failures:
            first = failures.exceptions[0]
            raise first from first.__cause__

    async def _admit(self, tasks: asyncio.TaskGroup) -> None:
        """Start a group whenever there is room; a group that is dropped makes room for another."""
        while True:
            async with self._change:
                await self._change.wait_for(lambda: self._room() > 0)
            index = self._next_index()
            self._running.add(index)
            tasks.create_task(self._group(Prompt(index, self._order[index])))

    def _room(self) -> int:
        config = self._config
        ahead = self._ahead()
        room = capacity(
            config.rollout.max_concurrent,
            len(self._running),
            config.max_staleness,
            self._published,
            config.batch_groups,
            accepted=ahead - len(self._running),
        )
        return min(room, config.steps * config.batch_groups - ahead)

    def _ahead(self) -> int:
        """How many groups, at most, are trained on before one that is admitted now."""
        under_way = sorted([*self._running, *self._ready])
        constant = (index in self._constant for index in under_way)
        return self._taken + sum(refill.kept(constant, self._config.batch_groups, self._most_dropped()))

    def _most_dropped(self) -> int:
        algorithm = self._config.algorithm
        return algorithm.max_refill * self._config.batch_groups if algorithm.dynamic_sampling else 0

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
        if self._store_images is not None:
            prompt = replace(prompt, stored=await asyncio.to_thread(self._store_images, prompt.record))
        group = await self._rollout.call("sample", prompt, sampling, timeout=config.rollout.timeout)
        scored = await self._reward.call("score", group, timeout=config.rewards.timeout)
        async with self._change:
            self._running.remove(prompt.index)
            self._ready[prompt.index] = scored
            if teaches_nothing(scored, config.algorithm, config.rollout.max_tokens):
                self._constant.add(prompt.index)
            self._change.notify_all()

    async def _step(self) -> None:
        config, version = self._config, self._progress.version
        clock = Clock()
        batch, dropped = await self._batch()
        clock.lap("seconds/wait_rollout")
        algorithm, max_tokens = config.algorithm, config.rollout.max_tokens
        divergences = await self._learner.divergences(batch) if algorithm.kl_in_reward else []
        training = with_advantages(batch, algorithm, max_tokens, divergences)
        metrics = self._describe(batch, dropped, divergences, version)
        metrics |= await self._learner.update(training, version)
        self._check_engine(metrics, batch)
        self._progress.version += 1
        clock.lap("seconds/update")
        await self._publish()
        clock.lap("seconds/publish")
        rows = [row for group in training for row in completion_rows(group, version)]
        trained = len(rows)
        rows += [row for group in dropped for row in dropped_rows(group, version)]
        await asyncio.to_thread(rollouts.write, rows, rollouts.step_file(config.run / ROLLOUTS, version))
        if self._progress.version % config.checkpoint_every == 0 or self._progress.version == config.steps:
            await self._checkpoint()
        clock.lap("seconds/bookkeeping")
        metrics |= clock.laps
        metrics["tokens_per_second"] = metrics["tokens"] / sum(clock.laps.values())
        metrics["samples_per_second"] = trained / sum(clock.laps.values())
        self._report(self._progress.version, metrics, self._watch.alarm())

    async def _batch(self) -> tuple[list[ScoredGroup], list[ScoredGroup]]:
        """The groups of the next update, those admitted first, however long the last takes; and those dropped for them.

        The gate bounds staleness in this order alone: a straggler that younger groups overtake is trained on too late.
        """

        def complete() -> tuple[list[int], list[int]] | None:
            oldest = min(self._running, default=math.inf)
            settled = sorted(index for index in self._ready if index < oldest)
            return refill.first_batch(settled, self._constant, self._config.batch_groups, self._most_dropped())

        async with self._change:
            batch = await self._change.wait_for(complete)
            assert batch is not None  # the wait is over once it is something
            trained, dropped = batch
            self._taken += len(trained)
            self._constant.difference_update(trained, dropped)
            return [self._ready.pop(index) for index in trained], [self._ready.pop(index) for index in dropped]

    def _describe(
        self, batch: Sequence[ScoredGroup], dropped: Sequence[ScoredGroup], divergences: Sequence[float], version: int
    ) -> dict[str, float]:
        """What the policy wrote for this update: leaving out the groups that teach nothing must not flatter it."""
        algorithm, sampled = self._config.algorithm, [*batch, *dropped]
        metrics = describe(sampled, version) | self._watch.observe(map(watched, sampled))
        if algorithm.dynamic_sampling:
            metrics["dropped_groups"] = float(len(dropped))
        if algorithm.overlong_penalty > 0:
            limit = self._config.rollout.max_tokens
            metrics["overlong_penalty"] = fmean(x for s in sampled for x in overlong_penalties(s, algorithm, limit))
        if divergences:
            metrics["kl_per_completion"] = fmean(divergences)
        return metrics

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
        progress.pending = sorted([*self._running, *self._ready, *self._again])
        state = {"step": progress.version, **asdict(progress)}  # now: more groups are admitted while files are written
        folder = self._config.run / CHECKPOINTS
        partial = checkpoints.begin(folder, progress.version)
        await self._learner.save(partial)
        await asyncio.to_thread(checkpoints.commit, partial, state)
        checkpoints.retain(folder, self._config.keep_checkpoints)


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
