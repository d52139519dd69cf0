"""Whether engines that run on CPUs fit into the nodes' memory."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dermo_ray.config.pools import EngineSettings, PoolSettings
from jobs.preflight.finding import Finding
from jobs.preflight.model import weight_files

CHECK = "memory"


def check_host_memory(
    pools: Mapping[str, PoolSettings],
    engines: Mapping[str, EngineSettings],
    model: Path | None,
    nodes_gib: Sequence[float],
) -> Iterator[Finding]:
    """Engines on CPUs: weights plus room for keys and values, by worker and in all."""
    weights = sum(path.stat().st_size for path in weight_files(model) if path.is_file()) / 2**30 if model else 0.0
    total = sum(nodes_gib)
    asked = 0.0
    for name, pool in pools.items():
        # an engine's settings stand within its pool's, or beside them where a job has one pool alone
        engine = engines.get(name) or (engines.get("") if len(pools) == 1 else None)
        if engine is None or pool.on_gpu:
            continue
        one = engine.cpu_kv_cache_gib + weights
        asked += pool.workers * one
        if one > max(nodes_gib):
            yield _too_much(f"an engine of {name} takes {one:.1f} GiB", f"the largest node has {max(nodes_gib):.1f}")
            return
    if asked > total:
        yield _too_much(f"the engines take {asked:.1f} GiB together", f"the nodes have {total:.1f}")
    elif asked:
        yield Finding(CHECK, "pass", f"the engines take {asked:.1f} of {total:.1f} GiB")


def _too_much(asked: str, there: str) -> Finding:
    return Finding(CHECK, "fail", f"{asked} and {there}", "lower engine.cpu_kv_cache_gib, or the number of workers")
