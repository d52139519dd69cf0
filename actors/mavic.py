"""A whole MAVIC run on a connected cluster: its pools, its progress, its ledger and its metrics.

Invariants: whatever ends the run, every pool that was opened is closed; a run that SIGTERM ends has a checkpoint, the
newest that could be written before the deadline, and says how it goes on.
"""

import asyncio
import logging
import signal
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from tqdm import tqdm

from actors import progress as progresses
from actors.controller import Report, RunController
from actors.learner_pool import LearnerPool
from actors.pool import Pool
from actors.reward import Rewards, reward_pool
from actors.rollout import Rollouts, rollout_pool
from actors.steering import Steering
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.data.prompts import PromptOrder
from dermo_ray.ledger import Ledger, Opening
from dermo_ray.metrics import MetricsWriter

EVENTS = Path("logs/events.log")
"""The file of the run directory that tells what became of workers and checkpoints, a line an event."""

ResultT = TypeVar("ResultT")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pools:
    """The three pools of a run, not yet open."""

    rollout: Pool
    reward: Pool
    learner: LearnerPool

    @classmethod
    def of(cls, config: MavicConfig) -> Self:
        """Engines, reward workers and learner ranks as `config` says."""
        return cls(
            rollout_pool(config.rollout, config.model, config.lora.rank, config.data),
            reward_pool(config.rewards, config.reward, config.data),
            LearnerPool(config),
        )

    async def open(self, learner: Path | None) -> None:
        """Start all workers side by side, the learners from the shards in `learner` where a run goes on."""
        await asyncio.gather(self.rollout.open(), self.reward.open(), self.learner.open(learner))

    async def close(self) -> None:
        """End all workers."""
        self.learner.close()
        await self.reward.close()
        await self.rollout.close()


async def train(config: MavicConfig, order: PromptOrder, checkpoint: Path | None, pools: Pools) -> bool:
    """Open `pools`, go on from `checkpoint` until `config.steps` updates are made, and close the pools.

    Returns False where SIGTERM ended the run before.
    """
    progress = progresses.read(checkpoint)
    if progress.version >= config.steps:
        print(f"{config.run} has made its {progress.version} updates: nothing to do")
        return True
    opening = Opening(resumed_from=progress.version, prompts=len(order.prompts), batch_groups=config.batch_groups)
    with _reported(config, progress.version) as report, Ledger(config.run, opening) as ledger:
        controller = RunController(
            config,
            order,
            Rollouts(pools.rollout, config.rollout.timeout),
            Rewards(pools.reward, config.rewards.timeout),
            pools.learner,
            ledger,
            progress,
            report,
        )
        elastic = {"rollout": pools.rollout, "reward": pools.reward}
        steering = Steering(config.run, config.steps, elastic, pools.learner, lambda: controller.version)

        async def conduct() -> None:
            await pools.open(checkpoint / "learner" if checkpoint is not None else None)
            await _alongside(controller.run(), steering.run())

        try:
            return await _unless_terminated(conduct(), controller, config.preemption_deadline)
        finally:
            await pools.close()


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
def _reported(config: MavicConfig, version: int) -> Iterator[Report]:
    """What takes the metrics of every update; events go to stderr and to `EVENTS` meanwhile."""
    with (
        _events_written(config.run / EVENTS),
        MetricsWriter(config.run, version) as writer,
        tqdm(total=config.steps, initial=version, desc="mavic", unit=" updates", file=sys.stderr) as bar,
    ):

        def report(version: int, metrics: dict[str, float], alarm: str | None) -> None:
            writer.write(version, metrics)
            if alarm is not None:
                bar.write(f"update {version}: {alarm}", file=sys.stderr)
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
