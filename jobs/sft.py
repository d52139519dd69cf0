"""Supervised fine-tuning of a policy on prepared conversations: Ray Train ranks, DeepSpeed, an adapter or all weights.

Give `run`, `data` and `model.path`; `lora.rank=64` trains an adapter. Each checkpoint holds `model/`, or `adapter/`,
that transformers, PEFT and vLLM load. Called again, the job goes on from its latest checkpoint; what it trains, on
what and how must then be as before.
"""

import json
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.train import WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.config import LoggingConfig, RunConfig, ScalingConfig
from tqdm import tqdm

from actors.environment import worker_environment
from dermo_ray import checkpoints
from dermo_ray.config.pools import PoolSettings
from dermo_ray.config.sft import SftConfig
from dermo_ray.data import conversations
from dermo_ray.errors import UserError
from dermo_ray.metrics import METRICS
from dermo_ray.run_directory import claimed
from jobs.cluster import ray_session
from jobs.command import main
from jobs.resources import require

CONFIG = SftConfig

_CHANGEABLE = ("run", "resume", "epochs", "steps", "checkpoint_every", "keep_checkpoints", "validation")
"""Settings in which a resumed run may differ: how long it goes on, and how it is watched."""


def run(config: SftConfig) -> None:
    """Train as `config` says, from the latest checkpoint where there is one.

    Raises `UserError` for a folder without prepared data or model, a run directory that is taken, more resources than
    the cluster has, and a conversation that is too long.
    """
    size = conversations.count(config.data, "train")
    if config.validation.every:
        conversations.count(config.data, "val")
    steps = config.steps or math.ceil(config.epochs * size / config.batch_size)
    with claimed(config.run, config, _CHANGEABLE) as checkpoint:
        done = _steps_done(config, checkpoint)
        if done < steps:
            with ray_session():
                require({"pool": config.pool})
                from dermo_ray.models.chat import load_processor  # takes seconds; a pool that doesn't fit shows before

                load_processor(config.model.path)  # names what is missing before anything starts
                with _progress(config.run / METRICS, done, steps):
                    _train(config, done, steps, checkpoint)
        print(f"{config.run}: {max(done, steps):,} updates done, {size:,} conversations an epoch")


def _steps_done(config: SftConfig, checkpoint: Path | None) -> int:
    """Updates that `checkpoint` has seen. Raises `UserError` where this run can't go on from it."""
    if checkpoint is None:
        return 0
    state = checkpoints.read_state(checkpoint)
    if not config.resume:
        raise UserError(f"{config.run} has a run of {state['step']} updates: choose another run, or set resume=true")
    if state["data"] != conversations.content_hash(config.data):
        raise UserError(f"{config.data} is not what {config.run} was trained on: choose another run, or that data")
    return int(state["step"])


def _train(config: SftConfig, done: int, steps: int, checkpoint: Path | None) -> None:
    def train_rank() -> None:
        from actors import supervised  # in the worker: it brings DeepSpeed with it, which the driver has no use for

        supervised.train_rank(supervised.Assignment(config, done, steps, checkpoint))

    trainer = TorchTrainer(
        train_rank,
        torch_config=TorchConfig(backend="nccl" if config.pool.on_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=config.pool.workers,
            use_gpu=config.pool.on_gpu,
            resources_per_worker=_resources(config.pool),
            accelerator_type=config.pool.accelerator_type,
        ),
        run_config=RunConfig(  # type: ignore[arg-type]  # static types of ray.train are those of its first version
            name="ray",
            storage_path=str(config.run / "logs"),
            worker_runtime_env={"env_vars": worker_environment(config.pool)},
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    on_interrupt = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit()
    except WorkerGroupError as error:
        for failure in error.worker_failures.values():
            if isinstance(failure, UserError):
                raise failure from error
        raise
    finally:
        signal.signal(signal.SIGINT, on_interrupt)  # Ray Train leaves a handler of its own behind


def _resources(pool: PoolSettings) -> dict[str, float]:
    cpus = {"CPU": pool.cpus_per_worker}
    return cpus | {"GPU": pool.gpus_per_worker} if pool.on_gpu else cpus


@contextmanager
def _progress(metrics: Path, done: int, steps: int) -> Iterator[None]:
    """A progress bar on stderr that follows the metrics file, which rank 0 writes, during the body of a `with`."""
    ended = threading.Event()
    began = time.time()

    def follow() -> None:
        with tqdm(total=steps, initial=done, desc="sft", unit=" steps", file=sys.stderr) as bar:
            while True:
                last_time = ended.wait(0.5)
                entry = _last_entry(metrics)
                if entry is not None and entry["time"] > began:
                    speed = f"{entry['samples_per_second']:.1f} samples/s"
                    bar.set_postfix_str(f"loss {entry['loss']:.4f}, {speed}", refresh=False)
                    bar.update(entry["step"] - bar.n)
                if last_time:
                    return

    follower = threading.Thread(target=follow, name="progress")
    follower.start()
    try:
        yield
    finally:
        ended.set()
        follower.join()


def _last_entry(metrics: Path) -> dict[str, Any] | None:
    """The last whole line of the metrics file, None where there is none."""
    if not metrics.exists():
        return None
    with metrics.open("rb") as file:
        file.seek(max(0, metrics.stat().st_size - 4096))
        *lines, _ = file.read().split(b"\n")
    entry: dict[str, Any] | None = json.loads(lines[-1]) if lines else None
    return entry


if __name__ == "__main__":
    main(CONFIG, run, __doc__)
