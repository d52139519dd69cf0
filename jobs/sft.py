"""Supervised fine-tuning of a policy on prepared conversations: Ray Train ranks, DeepSpeed, an adapter or all weights.

Give `run`, `data` and `model.path`; `lora.rank=64` trains an adapter. Each checkpoint holds `model/`, or `adapter/`,
that transformers, PEFT and vLLM load. Called again, the job goes on from its latest checkpoint; what it trains, on
what and how must then be as before. SIGTERM makes it finish an update, write a checkpoint and exit with status 0.
"""

import math
from pathlib import Path

from dermo_ray.config.sft import SftConfig
from dermo_ray.data import conversations
from dermo_ray.data.mixture import BatchOrder
from dermo_ray.metrics import METRICS
from dermo_ray.run_directory import claimed
from jobs import preflight, training
from jobs.cluster import ray_session
from jobs.command import main

CONFIG = SftConfig

_CHANGEABLE = ("run", "resume", "epochs", "steps", "checkpoint_every", "keep_checkpoints", "validation")
"""Settings in which a resumed run may differ: how long it goes on, and how it is watched."""


def run(config: SftConfig) -> None:
    """Train as `config` says, from the latest checkpoint where there is one.

    Raises `UserError` for a folder without prepared data or model, a mixture of formats that the data don't have, a run
    directory that is taken, more resources than the cluster has, and a conversation that is too long.
    """
    size = conversations.count(config.data, "train")
    BatchOrder(*conversations.formats(config.data, "train"), config.batch_size, config.seed, config.mixture)
    if config.validation.every:
        conversations.count(config.data, "val")
    steps = config.steps or math.ceil(config.epochs * size / config.batch_size)
    with claimed(config.run, config, _CHANGEABLE) as checkpoint:
        state = training.resumed_state(config, checkpoint)
        done = 0 if state is None else int(state["step"])
        if done < steps:
            with ray_session():
                preflight.ensure("sft", config)
                with (
                    training.stoppable(config.run),
                    training.progress("sft", config.run / METRICS, done, steps),
                ):
                    _train(config, done, steps, checkpoint)
        print(f"{config.run}: {max(done, steps):,} updates done, {size:,} conversations an epoch")


def _train(config: SftConfig, done: int, steps: int, checkpoint: Path | None) -> None:
    def train_rank() -> None:
        from actors import supervised  # in the worker: it brings DeepSpeed with it, which the driver has no use for

        supervised.train_rank(supervised.Assignment(config, done, steps, checkpoint))

    training.fit(train_rank, config.pool, config.run)


if __name__ == "__main__":
    main(CONFIG, run, __doc__)
