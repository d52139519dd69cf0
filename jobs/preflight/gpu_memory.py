"""Whether each pool fits its share of a GPU, by the estimate of `dermo_ray.memory`."""

from collections.abc import Iterator, Mapping

from dermo_ray.config.mavic import MavicConfig
from dermo_ray.config.pools import PoolSettings
from dermo_ray.config.sft import SftConfig
from dermo_ray.errors import UserError
from dermo_ray.memory import GPUS, memory_report
from jobs.preflight.finding import Finding
from jobs.preflight.resources import Cluster

CHECK = "GPU memory"


def check_gpu_memory(config: MavicConfig | SftConfig, gpu: str) -> Iterator[Finding]:
    """The estimate for a GPU that Ray calls `gpu`."""
    if gpu not in GPUS:
        yield Finding(CHECK, "warn", f"how much memory {gpu} has is not known", "no estimate: watch the first update")
        return
    try:
        report = memory_report(config, gpu)
    except UserError as error:
        yield Finding(CHECK, "fail", str(error))
        return
    for problem in report.problems:
        found, _, fix = problem.partition(": ")
        yield Finding(CHECK, "fail", found, fix)
    if not report.problems:
        yield Finding(CHECK, "pass", "; ".join(report.lines))


def gpus_of(pools: Mapping[str, PoolSettings], cluster: Cluster) -> list[str]:
    """The kinds of GPU that pools may land on: those they insist on, else all that the cluster has."""
    on_gpu = [pool for pool in pools.values() if pool.on_gpu]
    insisted = {pool.accelerator_type for pool in on_gpu if pool.accelerator_type is not None}
    if any(pool.accelerator_type is None for pool in on_gpu):
        insisted |= set(cluster.accelerators)
    return sorted(insisted)
