"""A whole MAVIC run on a connected cluster: its pools, its progress, its ledger and its metrics.

Invariants: whatever ends the run, every pool that was opened is closed; a run that SIGTERM ends has a checkpoint, the
newest that could be written before the deadline, and says how it goes on.
"""

import asyncio
import logging
import signal
import sys
from collections.abc import Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from actors import progress as progresses
from actors.accounts import RunAccounts
from actors.adapters import ADAPTERS
from actors.controller import Report, RunController
from actors.images import store_images
from actors.learner_pool import LearnerPool
from actors.monitoring import Monitor
from actors.pool import Pool
from actors.replay import Dump, DumpedRewards, DumpedRollouts, DumpOrder, NoLearners
from actors.reward import Rewards, reward_pool
from actors.rollout import Rollouts, rollout_pool
from actors.steering import Steering
from actors.validation import heldout_prompts
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.data.prompts import PromptOrder
from dermo_ray.ledger import Ledger, Opening
from dermo_ray.models.chat import load_processor
from dermo_ray.progress import progress_bar
from dermo_ray.records import RLPrompt
from dermo_ray.rollouts import ScoredCompletion

EVENTS = Path("logs/events.log")
"""The file of the run directory that tells what became of workers and checkpoints, a line an event."""

ResultT = TypeVar("ResultT")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pools:
    """The pools of a run, not yet open. Those that its mode leaves out stay closed."""

    rollout: Pool
    reward: Pool
    learner: LearnerPool
    left_out: Collection[str] = ()

    @classmethod
    def of(cls, config: MavicConfig) -> Self:
        """Engines, reward workers and learner ranks as `config` says."""
        return cls(
            rollout_pool(
                config.rollout,
                config.model,
                config.engine_lora_rank,
                config.data,
                config.sends_weights,
            ),
            reward_pool(config.rewards, config.reward, config.data),
            LearnerPool(config),
            config.left_out,
        )

    async def open(self, learner: Path | None) -> None:
        """Start all workers side by side, the learners from the shards in `learner` where a run goes on."""
        opening = [pool.open() for pool in self.elastic.values()]
        if "learner" not in self.left_out:
            opening.append(self.learner.open(learner))
        await asyncio.gather(*opening)

    @property
    def elastic(self) -> dict[str, Pool]:
        """Those whose workers come and go, by their names in commands."""
        pools = {"rollout": ("rollout", self.rollout), "rewards": ("reward", self.reward)}
        return {name: pool for setting, (name, pool) in pools.items() if setting not in self.left_out}

    async def close(self) -> None:
        """End all workers."""
        self.learner.close()
        await self.reward.close()
        await self.rollout.close()


async def train(
    config: MavicConfig, order: PromptOrder, checkpoint: Path | None, pools: Pools, heldout: Sequence[RLPrompt] = ()
) -> bool:
    """Open `pools`, go on from `checkpoint` until `config.steps` updates are made, and close the pools.

    `heldout` are the prompts that validations choose from. Returns False where SIGTERM ended the run before.
    """
    progress = progresses.read(checkpoint)
    if progress.version >= config.steps:
        print(f"{config.run} has made its {progress.version} updates: nothing to do")
        return True
    write = partial(pools.learner.write, config.run / ADAPTERS)
    rollouts = Rollouts(pools.rollout, config.rollout.timeout, write)
    rewards = Rewards(pools.reward, config.rewards.timeout)
    pools.learner.engines = rollouts.actors
    dump = Dump.read(config.replay_from, order.prompts) if config.replay_from is not None else None
    if dump is not None:
        order = DumpOrder(dump)
    opening = Opening(resumed_from=progress.version, prompts=len(order.prompts), batch_groups=config.batch_groups)
    with _reported(config, progress.version, pools.elastic) as report, Ledger(config.run, opening) as ledger:
        controller = RunController(
            config,
            order,
            rollouts if dump is None else DumpedRollouts(dump, load_processor(config.model.path), config),
            rewards if dump is None or config.mode == "replay" else DumpedRewards(dump),
            pools.learner if config.mode != "rollout_only" else NoLearners(),
            ledger,
            progress,
            report,
            heldout_prompts(heldout, config),
            accounts_of(pools),
            partial(store_images, config.data) if dump is None else None,
        )
        steering = Steering(config.run, config.steps, pools.elastic, pools.learner, lambda: controller.version)

        async def conduct() -> None:
            await pools.open(checkpoint / "learner" if checkpoint is not None else None)
            await _alongside(controller.run(), steering.run())

        try:
            return await _unless_terminated(conduct(), controller, config.preemption_deadline)
        finally:
            await pools.close()


def accounts_of(pools: Pools) -> RunAccounts:
    """Accounts that know when the engines and the reward workers are at work, and how many tokens came of it."""
    accounts, rollout, reward = RunAccounts(), pools.rollout, pools.reward
    rollout.changed = lambda: accounts.rollout(busy=rollout.busy)
    reward.changed = lambda: accounts.reward(busy=reward.busy)
    accounts.count_tokens = lambda: {worker.name: worker.work for worker in rollout.workers}
    return accounts


async def _unless_terminated(run: Coroutine[Any, Any, None], controller: RunController, deadline: float) -> bool:
    """Whether `run` came to its end. After SIGTERM it stops; what takes longer than `deadline` s is cut off."""
    loop, task, stopping = asyncio.get_running_loop(), asyncio.ensure_future(run), []

    def on_sigterm() -> None:
        _log.warning("SIGTERM: a last checkpoint is written, within %g s", deadline)
        stopping.append(loop.create_task(controller.stop("SIGTERM")))
        loop.call_later(deadline if controller.running else 0.0, task.cancel)

    before = signal.getsignal(signal.SIGTERM)
    loop.add_signal_handler(signal.SIGTERM, on_sigterm)
    try:
        await task
    except asyncio.CancelledError:
        if not stopping:
            raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before)
    if not stopping:
        return True
    _log.warning(
        "stopped after update %d; the same command goes on from update %d", controller.version, controller.saved
    )
    return False


async def _alongside(work: Coroutine[Any, Any, ResultT], helper: Coroutine[Any, Any, ResultT]) -> ResultT:
    """The result of `work`; `helper` goes on as long, and its error is an error of both."""
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(helper)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task.done()).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def _reported(config: MavicConfig, version: int, pools: Mapping[str, Pool]) -> Iterator[Report]:
    """What takes the metrics of every update; events go to stderr and to `EVENTS` meanwhile."""
    with (
        _events_written(config.run / EVENTS),
        Monitor(config, version, pools) as monitor,
        progress_bar(config.steps, "mavic", " updates", initial=version) as bar,
    ):

        def report(version: int, metrics: dict[str, float], rows: Sequence[ScoredCompletion]) -> None:
            monitor.update(version, metrics, rows)
            bar.set_postfix_str(f"reward {metrics['reward/total']:.3f}, valid {metrics['format_valid']:.3f}")
            bar.update()

        yield report


@contextmanager
def _events_written(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    logger, file, terminal = logging.getLogger("actors"), logging.FileHandler(path), logging.StreamHandler(sys.stderr)
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    terminal.setFormatter(logging.Formatter("%(message)s"))
    logger.setLevel(logging.INFO)
    for handler in (file, terminal):
        logger.addHandler(handler)
    try:
        yield
    finally:
        for handler in (file, terminal):
            logger.removeHandler(handler)
        file.close()
