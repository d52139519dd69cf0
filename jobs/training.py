"""How a job runs a Ray Train loop: its ranks in a pool of their own, and progress that follows the metrics."""

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.train import WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.config import LoggingConfig, RunConfig, ScalingConfig

from actors.environment import training_environment
from dermo_ray import checkpoints
from dermo_ray.config.concepts import ConceptsConfig
from dermo_ray.config.pools import PoolSettings
from dermo_ray.config.sft import SftConfig
from dermo_ray.data.conversations import content_hash
from dermo_ray.errors import UserError
from dermo_ray.progress import progress_bar
from dermo_ray.run_directory import STOP


def fit(train_rank: Callable[[], None], pool: PoolSettings, run: Path) -> None:
    """Call `train_rank` in every worker of `pool`, within one process group, and wait; Ray's files go to `run/logs`.

    Raises the `UserError` that a rank raised, and `WorkerGroupError` for every other failure of one.
    """
    packed = cloudpickle.dumps(train_rank)  # Ray Train's controller hands it on unread, without its imports

    def unpacked() -> None:
        cloudpickle.loads(packed)()

    trainer = TorchTrainer(
        unpacked,
        torch_config=TorchConfig(backend="nccl" if pool.on_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=pool.workers,
            use_gpu=pool.on_gpu,
            resources_per_worker=_resources(pool),
            accelerator_type=pool.accelerator_type,
            label_selector=pool.node_labels or None,
        ),
        run_config=RunConfig(  # type: ignore[arg-type]  # static types of ray.train are those of its first version
            name="ray",
            storage_path=str(run / "logs"),
            worker_runtime_env={"env_vars": training_environment(pool)},
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


@contextmanager
def stoppable(run: Path) -> Iterator[None]:
    """SIGTERM reaches the ranks, during the body of a `with`, as a file of `run`, which all nodes share.

    After a body that ended so the process exits with status 0: whatever job runs this one, such as the demo, was meant
    too.
    """
    asked = run / STOP
    asked.unlink(missing_ok=True)  # a run that was killed may have left it
    before = signal.signal(signal.SIGTERM, lambda *_: asked.touch())
    try:
        yield
        stopped = asked.exists()
    finally:
        signal.signal(signal.SIGTERM, before)
        asked.unlink(missing_ok=True)
    if stopped:
        print("SIGTERM: stopped with a checkpoint, from which the same command goes on", file=sys.stderr)
        sys.exit(0)


def resumed_state(config: SftConfig | ConceptsConfig, checkpoint: Path | None) -> dict[str, Any] | None:
    """What `checkpoint` says of itself, None without one. Raises `UserError` where this run can't go on from it."""
    if checkpoint is None:
        return None
    state = checkpoints.read_state(checkpoint)
    if not config.resume:
        raise UserError(f"{config.run} has a run of {state['step']} updates: choose another run, or set resume=true")
    if state["data"] != content_hash(config.data):
        raise UserError(f"{config.data} is not what {config.run} was trained on: choose another run, or that data")
    return state


@contextmanager
def progress(name: str, metrics: Path, done: int, steps: int) -> Iterator[None]:
    """Progress on stderr that follows the metrics file, which rank 0 writes, during the body of a `with`."""
    ended = threading.Event()
    began = time.time()

    def follow() -> None:
        with progress_bar(steps, name, " steps", initial=done) as bar:
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


def _resources(pool: PoolSettings) -> dict[str, float]:
    cpus = {"CPU": pool.cpus_per_worker}
    return cpus | {"GPU": pool.gpus_per_worker} if pool.on_gpu else cpus


def _last_entry(metrics: Path) -> dict[str, Any] | None:
    """The last whole line of the metrics file, None where there is none."""
    if not metrics.exists():
        return None
    with metrics.open("rb") as file:
        file.seek(max(0, metrics.stat().st_size - 4096))
        *lines, _ = file.read().split(b"\n")
    entry: dict[str, Any] | None = json.loads(lines[-1]) if lines else None
    return entry
