"""Starting an engine: its own process loads vLLM at the same time as this one, not after it.

vLLM runs an engine in a process that it starts last, and which in a Ray actor loads everything anew: that is half of
the time that an engine takes to be there. Here a fork server (`multiprocessing`'s, as vLLM's own API server may use)
begins to load it first. Invariant: what the engine reads from the environment is set before the fork server starts,
for its children are given no other.
"""

import gc
import importlib
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from typing import TYPE_CHECKING

from actors.orphans import bind_children
from dermo_ray.config.model import ModelSettings
from dermo_ray.config.pools import EngineSettings

if TYPE_CHECKING:
    from actors.engine import Engine


def start_engine(
    model: ModelSettings,
    settings: EngineSettings,
    lora_rank: int | None,
    *,
    on_gpu: bool,
    threads: int = 1,
    receives: bool = False,
    loads: Sequence[str] = (),
) -> "Engine":
    """Start an engine on this process's GPUs, or on `threads` CPU threads. Call it from a running event loop.

    Without `lora_rank`, adapters that it is to load are merged into the model's own weights. With `receives`, learners
    may send it whole weights over NCCL. `loads` are modules that this process will need: they are imported while the
    fork server loads vLLM. What this process starts from now on ends with it.
    """
    bind_children()
    if not on_gpu:
        _prepare_cpu(threads)
    multiprocessing.set_forkserver_preload(["actors.engine_preload"])
    forkserver.ensure_running()
    # here, so that whoever describes an engine's actor need not load vLLM
    with uncollected():
        from vllm.v1.engine import utils

        from actors.engine import Engine

        for module in loads:
            importlib.import_module(module)

    # in a Ray actor vLLM insists on spawning, since Ray's threads make a fork unsafe; a fork server has none of them
    utils.get_mp_context = lambda: multiprocessing.get_context("forkserver")
    return Engine.start(model, settings, lora_rank, on_gpu=on_gpu, receives=receives)


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection during a `with` that loads vLLM, and none later of what is there at its end: that stays.

    Looking through it is a fifth of the time that loading takes. vLLM then collects several times while an engine
    starts, and that start takes a third of its time where those collections pass over the modules. Before a process
    forks, Python's documentation of `gc.freeze` advises just this.
    """
    gc.collect()  # or the garbage of before would stay too
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _prepare_cpu(threads: int) -> None:
    """Settings that vLLM's CPU workers read from their environment."""
    os.environ.update(
        OMP_NUM_THREADS=str(threads),
        VLLM_CPU_OMP_THREADS_BIND="nobind",  # actors share cores as the kernel sees fit
        VLLM_ENABLE_V1_MULTIPROCESSING="0",  # lets the model run inside the engine's process: one process less
    )
