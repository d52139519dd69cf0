"""A run of jobs.mavic over simulated workers, as a process of its own: `python -m benchmarks.simulated_run FILE`.

Everything but the work of engines, reward terms and learner ranks is the real thing: controller, pools, Ray actors,
ledger, checkpoints, resume, SIGTERM. FILE is JSON: the settings of jobs.mavic under `mavic`, the rest as in
`Simulation`.
"""

import asyncio
import sys
from pathlib import Path

from PIL import Image
from pydantic import BaseModel

from actors.hosting import ray_hosts
from actors.learner_pool import LearnerPool
from actors.mavic import Pools, train
from actors.pool import ray_pool
from benchmarks.simulated import IMAGE, SimulatedEngine, SimulatedRank, SimulatedRewards, prompts
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.data.prompts import PromptOrder
from dermo_ray.run_directory import claimed
from jobs.cluster import ray_session
from jobs.mavic import CHANGEABLE


class Simulation(BaseModel):
    """What is simulated, and how fast."""

    mavic: MavicConfig
    prompts: int = 50
    """Prompts of an epoch."""
    group_seconds: float = 0.3
    """Median time of a group."""
    update_seconds: float = 0.1
    """Time of an update."""
    tokens: int = 16
    """Tokens of a completion."""


def pools(simulation: Simulation) -> Pools:
    config = simulation.mavic
    engine = (simulation.group_seconds, simulation.tokens)
    slots, patience = config.rollout.groups_per_worker, config.rollout.engine.start_timeout
    return Pools(
        ray_pool("rollout", config.rollout, SimulatedEngine, engine, {}, patience, slots, unit="groups"),
        ray_pool("reward", config.rewards, SimulatedRewards, (), {}, patience, slots=2, unit="groups"),
        LearnerPool(
            config,
            lambda rank: ray_hosts(SimulatedRank, (config, rank, simulation.update_seconds), config.learner, {})(),
        ),
    )


def main() -> None:
    simulation = Simulation.model_validate_json(Path(sys.argv[1]).read_text())
    config = simulation.mavic
    order = PromptOrder(prompts(simulation.prompts), config.seed)
    with claimed(config.run, config, CHANGEABLE, config.checkpoint_copy) as checkpoint, ray_session():
        Image.new("RGB", (96, 96)).save(config.data / IMAGE)  # the controller hands every prompt's image on
        asyncio.run(train(config, order, checkpoint, pools(simulation)))


if __name__ == "__main__":
    main()
