"""A whole MAVIC run on a connected cluster: its pools, its progress and its metrics.

Invariant: whatever ends the run, every pool that was opened is closed.
"""

import asyncio
import sys
from functools import partial
from pathlib import Path

from actors.controller import Progress, RunController
from actors.environment import worker_environment
from actors.images import store_images
from actors.learner_pool import LearnerPool
from actors.pool import Pool
from actors.reward import RewardWorker
from actors.rollout import rollout_pool
from dermo_ray import checkpoints
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.data.prompts import PromptOrder
from dermo_ray.metrics import MetricsWriter
from dermo_ray.progress import progress_bar


async def train(config: MavicConfig, order: PromptOrder, checkpoint: Path | None) -> None:
    """Open the three pools, go on from `checkpoint` until `config.steps` updates are made, and close the pools."""
    progress = Progress()
    if checkpoint is not None:
        state = checkpoints.read_state(checkpoint)
        progress = Progress(state["version"], state["next_index"], state["pending"])
    if progress.version >= config.steps:
        print(f"{config.run} has made its {progress.version} updates: nothing to do")
        return
    rollout = rollout_pool(config.rollout, config.model, config.lora.rank, config.data)
    reward, learner = _reward_pool(config), LearnerPool(config)
    with (
        MetricsWriter(config.run, progress.version) as writer,
        progress_bar(config.steps, "mavic", " updates", initial=progress.version) as bar,
    ):

        def report(version: int, metrics: dict[str, float], alarm: str | None) -> None:
            writer.write(version, metrics)
            if alarm is not None:
                bar.write(f"update {version}: {alarm}", file=sys.stderr)
            bar.set_postfix_str(f"reward {metrics['reward/total']:.3f}, valid {metrics['format_valid']:.3f}")
            bar.update()

        try:
            await asyncio.gather(
                rollout.open(), reward.open(), learner.open(checkpoint / "learner" if checkpoint else None)
            )
            store = partial(store_images, config.data)
            await RunController(config, order, rollout, reward, learner, progress, report, store).run()
        finally:
            learner.close()
            await reward.close()
            await rollout.close(farewell="close")


def _reward_pool(config: MavicConfig) -> Pool:
    """The pool of reward workers, not yet open."""
    settings = config.rewards
    return Pool(
        "reward",
        settings,
        RewardWorker,
        (config.reward, config.data),
        worker_environment(settings),
        start_timeout=settings.timeout,
    )
