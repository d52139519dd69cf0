"""Trains a policy on the MAVIC reward: rollouts on vLLM, rewards, and DeepSpeed learners, each on a pool of its own.

`max_staleness: 0` alternates sampling and learning (on-policy); above it, both go on at once. The adapter of every
update is published under its version and loaded by every engine. A run that was cut off goes on from its latest
checkpoint when it is started again with the same settings.
"""

import asyncio
import sys
from pathlib import Path

from tqdm import tqdm

from actors.controller import Progress, RunController
from actors.environment import worker_environment
from actors.learner_pool import LearnerPool
from actors.pool import Pool
from actors.reward import RewardWorker
from actors.rollout import rollout_pool
from dermo_ray import checkpoints
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.data.prompts import PromptOrder, read_prompts
from dermo_ray.metrics import MetricsWriter
from dermo_ray.run_directory import claimed
from jobs.cluster import ray_session
from jobs.command import main
from jobs.resources import require

CONFIG = MavicConfig

CHANGEABLE = frozenset({"steps", "rollout", "rewards", "checkpoint_every", "keep_checkpoints"})
"""Settings that a run that goes on may change."""


def run(config: MavicConfig) -> None:
    """Train until `config.steps` updates are made. Raises `UserError` for what can't be run as it is set."""
    prompts = read_prompts(config.data, "train", config.sources)
    with claimed(config.run, config, CHANGEABLE) as checkpoint, ray_session():
        require({"rollout": config.rollout, "rewards": config.rewards, "learner": config.learner})
        from dermo_ray.models.chat import load_processor  # takes seconds; pools that don't fit should show before

        load_processor(config.model.path)  # names what is missing before anything starts
        asyncio.run(_train(config, PromptOrder(prompts, config.seed), checkpoint))


async def _train(config: MavicConfig, order: PromptOrder, checkpoint: Path | None) -> None:
    progress = Progress()
    if checkpoint is not None:
        state = checkpoints.read_state(checkpoint)
        progress = Progress(state["version"], state["next_index"], state["pending"])
    if progress.version >= config.steps:
        print(f"{config.run} has made its {progress.version} updates: nothing to do")
        return
    rollout = rollout_pool(config.rollout, config.model, config.lora.rank, config.data)
    reward, learner = reward_pool(config), LearnerPool(config)
    with (
        MetricsWriter(config.run, progress.version) as writer,
        tqdm(total=config.steps, initial=progress.version, desc="mavic", unit=" updates", file=sys.stderr) as bar,
    ):

        def report(version: int, metrics: dict[str, float]) -> None:
            writer.write(version, metrics)
            bar.set_postfix_str(f"reward {metrics['reward/total']:.3f}, valid {metrics['format_valid']:.3f}")
            bar.update()

        try:
            await asyncio.gather(
                rollout.open(), reward.open(), learner.open(checkpoint / "learner" if checkpoint else None)
            )
            await RunController(config, order, rollout, reward, learner, progress, report).run()
        finally:
            learner.close()
            await reward.close()
            await rollout.close(farewell="close")


def reward_pool(config: MavicConfig) -> Pool:
    """The pool of reward workers, not yet open."""
    settings = config.rewards
    return Pool(
        "reward",
        settings,
        RewardWorker,
        (config.reward,),
        worker_environment(settings),
        start_timeout=settings.timeout,
    )


if __name__ == "__main__":
    main(CONFIG, run, __doc__)
