"""The run controller: admits prompts, collects scored groups, updates the policy, publishes it.

It runs on one asyncio loop, on the driver, and knows its pools through `actors.interfaces` alone. Invariants: a group
is admitted only while the capacity gate has room, so no completion is more than `max_staleness` updates old when it is
trained on; every admitted prompt is trained on once, or recorded once as dropped because its group taught nothing or as
unscored because its reward could not be computed; the ledger tells what an update was made from before a checkpoint
holds that update. An update that is an anomaly is neither published nor in a checkpoint; its batch is left to look at.
"""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from actors import progress as progresses
from actors.accounts import RunAccounts
from actors.adapters import ADAPTERS, Published, Sent, retire
from actors.batch import (
    completion_rows,
    describe,
    dropped_rows,
    overlong_penalties,
    teaches_nothing,
    watched,
    with_advantages,
)
from actors.interfaces import CheckpointError, Learners, RewardError, Rewards, Rollouts
from actors.messages import Group, Prompt, Sampling, ScoredGroup, TrainingGroup, sampling_seed
from actors.progress import Progress, ledger_entry
from actors.queue import GroupQueue
from actors.validation import Validations
from dermo_ray import checkpoint_copies, checkpoints, rollouts
from dermo_ray.anomalies import Anomalies
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.data.prompts import PromptOrder
from dermo_ray.ledger import Ledger
from dermo_ray.records import RLPrompt
from dermo_ray.rollouts import ScoredCompletion
from dermo_ray.run_directory import CHECKPOINTS, ROLLOUTS
from rewards.watch import Watch

Report = Callable[[int, dict[str, float], Sequence[ScoredCompletion]], None]
"""Takes the number of an update that was made, its metrics and the rows."""

EARLY_STOP = "early stop"
"""The reason to end a run whose validations bring no gain any more; started again, it makes no further update."""

ANOMALIES = "anomalies"
"""The folder of the run directory with the batches of updates that stopped the run."""

_log = logging.getLogger(__name__)

StoreImages = Callable[[RLPrompt], Any]
"""Puts the images of a prompt where all pools can read them, and returns the reference."""


class AnomalyError(RuntimeError):
    """An update is so unlike those before it that somebody should look at it."""


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
        rollout: Rollouts,
        reward: Rewards,
        learner: Learners,
        ledger: Ledger,
        progress: Progress,
        report: Report,
        heldout: Sequence[Prompt] = (),
        accounts: RunAccounts | None = None,
        store_images: StoreImages | None = None,
    ) -> None:
        """`heldout` are the prompts of the validations."""
        self._config = config
        self._order = order
        self._rollout, self._reward, self._learner = rollout, reward, learner
        self._ledger = ledger
        self._report = report
        self.version = progress.version
        """Learner updates made."""
        self._score = progress.score
        self._unscored = progress.unscored
        """Groups that were given up, those included that the ledger does not tell of yet."""
        self._given_up: list[Group] = []
        """Those that it will tell of with the next update."""
        self._queue = GroupQueue(
            config.batch_groups,
            config.algorithm.max_refill * config.batch_groups if config.algorithm.dynamic_sampling else 0,
            taken=progress.version * config.batch_groups,
            next_index=progress.next_index,
            pending=progress.pending,
            ready=[(scored, self._teaches_nothing(scored)) for scored in progress.ready],
        )
        self._change = asyncio.Condition()
        self._groups: set[asyncio.Task[None]] = set()
        self._published = progress.version
        """What new requests use."""
        self._loading: asyncio.Task[None] | None = None
        self.saved = progress.version
        """The update of the newest checkpoint."""
        self.running = False
        """Whether `run` is at work."""
        self._stop_reason: str | None = None
        self._watch = Watch(config.watch, progress.watch)
        self._anomalies = Anomalies(config.anomaly)
        self._validations = Validations(config, heldout, rollout, reward, progress.best)
        self._accounts = accounts or RunAccounts()
        self._store_images = store_images

    async def run(self) -> str | None:
        """Make the updates that are left. The first error of any pool ends the run.

        Returns None, or the reason that `stop` was given; there is a checkpoint of the last update either way.
        """
        if self._validations.exhausted:
            _log.warning("stopped early after update %d: %s", self.version, self._validations)
            return EARLY_STOP
        self.running = True
        try:
            async with asyncio.TaskGroup() as tasks:
                await self._publish(tasks)
                await self._loaded()
                admission = tasks.create_task(self._admit(tasks))
                while self.version < self._config.steps and await self._step(tasks):
                    pass
                if self.saved < self.version or self._validations.exhausted:
                    await self._checkpoint()  # an early stop's own may be older than the validation that brought it
                admission.cancel()
                for group in self._groups:
                    group.cancel()
        except BaseExceptionGroup as failures:
            first = failures.exceptions[0]
            raise first from first.__cause__
        finally:
            self._validations.cancel()
        return self._stop_reason

    async def stop(self, reason: str) -> None:
        """End the run with a checkpoint, after the update that is being made but without waiting for another batch."""
        async with self._change:
            self._stop_reason = reason
            self._change.notify_all()

    # -- from prompts to scored groups ---------------------------------------------------------------------------------

    async def _admit(self, tasks: asyncio.TaskGroup) -> None:
        """Start a group whenever there is room; a group that is dropped makes room for another."""
        while True:
            async with self._change:
                await self._change.wait_for(lambda: self._room() > 0)
            index = self._queue.admit()
            group = tasks.create_task(self._group(Prompt(index, self._order[index])))
            self._groups.add(group)
            group.add_done_callback(self._groups.discard)

    def _room(self) -> int:
        config, running, ahead = self._config, self._queue.running, self._queue.ahead()
        left = config.steps * config.batch_groups - ahead if self._stop_reason is None else 0
        room = capacity(
            config.rollout.max_concurrent,
            running,
            config.max_staleness,
            self._published,
            config.batch_groups,
            accepted=ahead - running,
        )
        if min(room, left) <= 0:
            full = "concurrency" if running >= config.rollout.max_concurrent else "staleness"
            self._accounts.rollout(wait="end" if left <= 0 else full)
        return min(room, left)

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
        with self._accounts.group("sampling"):
            group = await self._rollout.sample(prompt, sampling)
        try:
            with self._accounts.group("scoring"):
                scored = await self._reward.score(group)
        except RewardError as error:
            self._unscored += 1
            if self._unscored > config.rewards.max_unscored:
                raise
            _log.warning("%s; the group is given up, %d of %d", error, self._unscored, config.rewards.max_unscored)
            async with self._change:
                self._given_up.append(group)
                self._queue.give_up(prompt.index)
                self._change.notify_all()
            return
        async with self._change:
            self._queue.finish(scored, self._teaches_nothing(scored))
            self._accounts.resize("ready", self._queue.waiting)
            self._change.notify_all()

    def _teaches_nothing(self, scored: ScoredGroup) -> bool:
        return teaches_nothing(scored, self._config.algorithm, self._config.rollout.max_tokens)

    # -- from scored groups to policy versions -------------------------------------------------------------------------

    async def _step(self, tasks: asyncio.TaskGroup) -> bool:
        """Make one update; False where the run is to stop instead."""
        config, version = self._config, self.version
        clock = Clock()
        taken = await self._batch()
        if taken is None:
            return False
        batch, dropped = taken
        clock.lap("seconds/wait_rollout")
        algorithm, max_tokens = config.algorithm, config.rollout.max_tokens
        with self._accounts.learner():
            divergences = await self._learner.divergences(batch) if algorithm.kl_in_reward else []
        training = with_advantages(batch, algorithm, max_tokens, divergences)
        metrics = self._describe(batch, dropped, divergences, version)
        await self._update(training, metrics, version)
        self._check_engine(metrics)
        self._score = metrics["reward/total"]
        self.version += 1
        if self._watch.news is not None:
            _log.warning("update %d: %s", self.version, self._watch.news)
        clock.lap("seconds/update")
        await self._account_for(batch, dropped, version)
        await self._publish(tasks)
        clock.lap("seconds/publish")
        with self._accounts.learner():
            logprobs = await self._learner.trained_logprobs()
        rows = [row for group in training for row in completion_rows(group, version, logprobs)]
        trained = len(rows)
        rows += [row for group in dropped for row in dropped_rows(group, version)]
        await asyncio.to_thread(rollouts.write, rows, rollouts.step_file(config.run / ROLLOUTS, version))
        if self.version - self.saved >= config.checkpoint_every or self.version % config.checkpoint_every == 0:
            await self._checkpoint()
        if self.version == config.steps:
            await self._validations.finish()
        metrics |= self._validations.results()
        clock.lap("seconds/bookkeeping")
        metrics |= clock.laps | self._accounts.close()
        metrics["tokens_per_second"] = metrics["tokens"] / sum(clock.laps.values())
        metrics["samples_per_second"] = trained / sum(clock.laps.values())
        self._report(self.version, metrics, rows)
        if self._validations.exhausted:
            _log.warning("early stop after update %d: %s", self.version, self._validations)
            await self.stop(EARLY_STOP)
        return True

    async def _update(self, training: Sequence[TrainingGroup], metrics: dict[str, float], version: int) -> None:
        """Update the policy and add what the learners report to `metrics`; what stops the run leaves its batch behind.

        Raises `AnomalyError`, or what the learners raise.
        """
        try:
            with self._accounts.learner():
                metrics |= await self._learner.update(training, version)
        except Exception:
            await self._leave_behind(training, metrics, version)
            raise
        if "grad_norm" in metrics and (found := self._anomalies.observe(metrics["grad_norm"], metrics["reward/total"])):
            folder = await self._leave_behind(training, metrics, version)
            raise AnomalyError(f"update {version}: {found}; its batch is in {folder}")

    async def _leave_behind(self, training: Sequence[TrainingGroup], metrics: dict[str, float], version: int) -> Path:
        """Write the batch of an update and its metrics for a person to look at; the folder that they are in."""
        folder = self._config.run / ANOMALIES
        rows = [row for group in training for row in completion_rows(group, version, {})]
        await asyncio.to_thread(rollouts.write, rows, rollouts.step_file(folder, version))
        rollouts.step_file(folder, version).with_suffix(".json").write_text(json.dumps(metrics, indent=2))
        return folder

    async def _batch(self) -> tuple[list[ScoredGroup], list[ScoredGroup]] | None:
        """The groups of the next update and those dropped for them; None where the run is to stop instead."""
        self._accounts.learner_waits_for_groups()
        async with self._change:
            taken = None
            while self._stop_reason is None and (taken := self._queue.batch()) is None:
                await self._change.wait()
        self._accounts.resize("ready", self._queue.waiting)
        self._accounts.learner_waits("bookkeeping")
        return taken

    async def _account_for(self, batch: Sequence[ScoredGroup], dropped: Sequence[ScoredGroup], version: int) -> None:
        """Tell the ledger of update `version`."""
        entries = [ledger_entry(scored.group, version, "trained") for scored in batch]
        entries += [ledger_entry(scored.group, version, "dropped") for scored in dropped]
        entries += [ledger_entry(group, version, "unscored") for group in self._given_up]
        self._given_up.clear()
        await asyncio.to_thread(self._ledger.record, entries)

    def _describe(
        self, batch: Sequence[ScoredGroup], dropped: Sequence[ScoredGroup], divergences: Sequence[float], version: int
    ) -> dict[str, float]:
        """What the policy wrote for this update: leaving out the groups that teach nothing must not flatter it."""
        algorithm, sampled = self._config.algorithm, [*batch, *dropped]
        newest = (
            0 if self._config.mode == "rollout_only" else version
        )  # no policy comes after the one that it began with
        metrics = describe(sampled, newest) | self._watch.observe(map(watched, sampled))
        if algorithm.dynamic_sampling:
            metrics["dropped_groups"] = float(len(dropped))
        if algorithm.overlong_penalty > 0:
            limit = self._config.rollout.max_tokens
            metrics["overlong_penalty"] = fmean(x for s in sampled for x in overlong_penalties(s, algorithm, limit))
        if divergences:
            metrics["kl_per_completion"] = fmean(divergences)
        return metrics

    def _check_engine(self, metrics: dict[str, float]) -> None:
        """Stop where the engines can't have sampled from the weights that the learner has.

        The tokens of the learner's own version tell, few as they may be among older ones; what was recorded by another
        run tells nothing.
        """
        gap, limit = metrics.get("engine_gap", 0.0), self._config.algorithm.max_logprob_gap
        if self._config.mode == "train" and gap > limit:
            raise RuntimeError(
                f"update {self.version}: engine and learner disagree by {gap:.3f} nats a token at the same "
                f"policy version (limit {limit}): the engines do not serve the published weights"
            )

    async def _publish(self, tasks: asyncio.TaskGroup) -> None:
        """Publish the learner's weights. Where the next batch is there, the learners go on while engines load them."""
        config, folder, version = self._config, self._config.run / ADAPTERS, self.version
        weights = None
        await self._loaded()
        if config.engine_lora_rank is None:
            await self._validations.finish()  # a completion would go on with other weights than it is to measure
        if config.samples:
            with self._accounts.learner():
                weights = await self._learner.publish(folder, version)
        self._loading = tasks.create_task(self._load(weights, version))
        measure = self._validations.due(version)
        if measure or not self._queue.full:
            await self._loaded()
        if measure:
            await self._validations.begin(version, weights)

    async def _load(self, weights: Published | Sent | None, version: int) -> None:
        """Let new requests use policy `version` once every engine has proved to have its weights."""
        config = self._config
        if weights is not None:
            self._accounts.rollout(wait="weights")
            await self._rollout.load(weights)
        oldest = version if config.engine_lora_rank is None else version - config.max_staleness - 1
        retire(config.run / ADAPTERS, keep={*range(oldest, version + 1), *self._validations.measured})
        async with self._change:
            self._published = version
            self._change.notify_all()

    async def _loaded(self) -> None:
        """Wait for the engines to have what was published last."""
        if self._loading is not None and not self._loading.done():
            self._accounts.learner_waits("weights")
            await self._loading
            self._accounts.learner_waits("bookkeeping")

    async def _checkpoint(self) -> None:
        """Write a checkpoint. Where that fails the run tries again after the next update; the last must work.

        A disk may be full for a while, and the checkpoint before this one is still there.
        """
        config, folder = self._config, self._config.run / CHECKPOINTS
        progress = self._progress()  # now: more groups are admitted while files are written
        try:
            partial = checkpoints.begin(folder, progress.version)
            with self._accounts.learner():
                await self._learner.save(partial)
            final = await asyncio.to_thread(progresses.write, partial, progress)
        except (CheckpointError, OSError) as error:
            if self._stop_reason is not None or self.version == config.steps:
                raise
            await asyncio.to_thread(checkpoints.discard, folder, progress.version)
            _log.warning(
                "the checkpoint of update %d could not be written (%s); "
                "the one of update %d stays, and the next update tries again",
                progress.version,
                error,
                self.saved,
            )
            return
        self._learner.saved(final)
        self.saved = progress.version
        keep, keep_best = config.keep_checkpoints, config.keep_best
        await asyncio.to_thread(checkpoints.retain, folder, keep, keep_best, self._validations.kept)
        if config.checkpoint_copy is not None:
            await self._copy(final, config.checkpoint_copy)

    async def _copy(self, checkpoint: Path, url: str) -> None:
        """Copy a checkpoint to `url`. Where that fails or takes too long the run goes on, which is said."""
        config, copied = self._config, Future[None]()
        copied.set_running_or_notify_cancel()

        def copy() -> None:
            try:
                checkpoint_copies.upload(config.run, checkpoint, url, config.keep_checkpoints, config.keep_best)
                copied.set_result(None)
            except Exception as error:
                copied.set_exception(error)

        # a daemon, for which no end of the run waits: the other side may never answer
        threading.Thread(target=copy, name="copy", daemon=True).start()
        try:
            async with asyncio.timeout(config.checkpoint_copy_timeout):
                await asyncio.wrap_future(copied)
        except Exception as error:  # each kind of file system has errors of its own
            reason = f"not within {config.checkpoint_copy_timeout:g} s" if isinstance(error, TimeoutError) else error
            _log.warning("%s could not be copied to %s (%s); the next one will be", checkpoint.name, url, reason)

    def _progress(self) -> Progress:
        queue, given_up = self._queue, [group.prompt.index for group in self._given_up]
        pending = sorted(queue.pending + given_up)  # what the ledger does not tell of yet is tried again
        unscored = self._unscored - len(given_up)
        best = replace(self._validations.best)
        memory = self._watch.memory
        return Progress(self.version, queue.next_index, pending, queue.ready, unscored, best, self._score, memory)


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
