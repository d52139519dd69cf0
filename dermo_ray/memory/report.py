"""Whether the pools of a run fit into GPUs of one kind, in words."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dermo_ray.config.mavic import MavicConfig
from dermo_ray.config.sft import SftConfig
from dermo_ray.errors import UserError
from dermo_ray.memory.architecture import architecture_of, read_configuration
from dermo_ray.memory.gpus import GPUS
from dermo_ray.memory.pools import PoolMemory, engine_memory, learner_memory


@dataclass(frozen=True)
class MemoryReport:
    """The pools of a run that ask for GPUs, on GPUs of `gib` GiB each."""

    gpu: str
    gib: float
    pools: tuple[PoolMemory, ...]

    @property
    def problems(self) -> list[str]:
        """What does not fit, a line each, with the way out; empty where all fits."""
        found = []
        for pool in self.pools:
            room = min(pool.claimed, self.gib)
            if pool.needed > room:
                found.append(f"{pool.pool} needs {pool.needed:.1f} GiB and has {room:.1f} of one {self.gpu}: {_CURE}")
        sharing = [pool for pool in self.pools if pool.gpus_per_worker < 1]
        claimed = sum(pool.claimed for pool in sharing)
        if not found and len(sharing) > 1 and claimed > self.gib:
            shares = ", ".join(f"{pool.pool} {pool.claimed:.1f}" for pool in sharing)
            found.append(
                f"{shares} GiB together take {claimed:.1f} GiB of one {self.gpu}, which has {self.gib:.1f}: "
                "lower rollout.engine.gpu_memory_utilization or learner.sharding.micro_batch_tokens"
            )
        return found

    @property
    def lines(self) -> list[str]:
        """One line a pool."""
        return [
            f"{pool.pool}: {pool.claimed:.1f} of {self.gib:.1f} GiB ({self.gpu}): "
            + ", ".join(f"{name} {value:.1f}" for name, value in pool.parts.items() if value >= 0.05)
            + (f"; {pool.note}" if pool.note else "")
            for pool in self.pools
        ]


_CURE = "take a larger GPU, a smaller model, fewer tokens at once, or model.gradient_checkpointing=true"


def memory_report(
    config: MavicConfig | SftConfig, gpu: str, architecture: Mapping[str, Any] | None = None
) -> MemoryReport:
    """What each pool of `config` that asks for GPUs takes of a GPU that Ray calls `gpu`.

    `architecture` is a `config.json`; None reads that of `config.model.path`. Builds the model without its weights, in
    seconds. Raises `UserError` for a GPU that is not in `GPUS` and where there is no `config.json`.
    """
    if gpu not in GPUS:
        raise UserError(f"no figures for the GPU {gpu}: there are {', '.join(GPUS)}")
    given = read_configuration(config.model.path) if architecture is None else architecture
    sizes = architecture_of(given, config.lora, config.vision)
    pools = []
    if isinstance(config, SftConfig):
        if config.pool.on_gpu:
            longest, pool = config.max_length, config.pool
            pools.append(learner_memory("pool", pool, config.sharding, config.model, sizes, longest, branched=False))
        return MemoryReport(gpu, GPUS[gpu], tuple(pools))
    rollout, learner = config.rollout, config.learner
    if rollout.on_gpu:
        pools.append(engine_memory("rollout", rollout, rollout.engine, config.model, sizes, GPUS[gpu]))
    if learner.on_gpu:
        longest = rollout.engine.max_model_len
        pools.append(learner_memory("learner", learner, learner.sharding, config.model, sizes, longest, branched=True))
    return MemoryReport(gpu, GPUS[gpu], tuple(pools))
