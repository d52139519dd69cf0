"""Whether the cluster has what the pools ask for, in all and node by node."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dermo_ray.config.pools import PoolSettings
from jobs.preflight.finding import Finding

CHECK = "cluster resources"
_KIND = "accelerator_type:"


@dataclass(frozen=True)
class Cluster:
    """What Ray says of its nodes that are alive: resources by name, and how much of them is free now."""

    nodes: Sequence[Mapping[str, float]]
    available: Mapping[str, float]

    def total(self, resource: str) -> float:
        """How much all nodes have together."""
        return sum(node.get(resource, 0.0) for node in self.nodes)

    @property
    def accelerators(self) -> list[str]:
        """The kinds of GPU, as Ray calls them."""
        return sorted({name.removeprefix(_KIND) for node in self.nodes for name in node if name.startswith(_KIND)})


def check_resources(pools: Mapping[str, PoolSettings], cluster: Cluster) -> Iterator[Finding]:
    """One finding for each shortage; one that passes, or warns of a busy cluster, where there is none."""
    shortages = [*_totals(pools, cluster), *_largest(pools, cluster), *_accelerators(pools, cluster)]
    if shortages:
        yield from shortages
        return
    asked = {name: sum(p.workers * of_a_worker(p, name) for p in pools.values()) for name in ("CPU", "GPU")}
    said = " and ".join(
        f"{amount:g} of {cluster.total(name):g} {name}s" for name, amount in asked.items() if amount or name == "CPU"
    )
    if (homeless := _without_a_place(pools, cluster)) is not None:
        yield Finding(
            CHECK, "warn", f"{said}, but no node has room for all workers of {homeless}",
            "ask for fewer CPUs or GPUs a worker, so that workers fit what nodes have left",
        )  # fmt: skip
    elif busy := [name for name, amount in asked.items() if amount > cluster.available.get(name, 0.0)]:
        free = " and ".join(f"{cluster.available.get(name, 0.0):g} {name}s" for name in busy)
        yield Finding(CHECK, "warn", f"{said}; only {free} are free now", "the pools wait until other jobs have ended")
    else:
        yield Finding(CHECK, "pass", said)


def of_a_worker(pool: PoolSettings, resource: str) -> float:
    """How many CPUs or GPUs one worker asks for."""
    return pool.cpus_per_worker if resource == "CPU" else pool.gpus_per_worker


def _totals(pools: Mapping[str, PoolSettings], cluster: Cluster) -> Iterator[Finding]:
    for resource in ("CPU", "GPU"):
        asked = {name: pool.workers * of_a_worker(pool, resource) for name, pool in pools.items()}
        total, there = sum(asked.values()), cluster.total(resource)
        if total > there:
            shares = ", ".join(f"{name} {amount:g}" for name, amount in asked.items() if amount)
            yield Finding(
                CHECK,
                "fail",
                f"{total:g} {resource}s are asked for ({shares}) and the cluster has {there:g}",
                f"ask for fewer workers or {resource}s a worker, or use a larger cluster",
            )


def _largest(pools: Mapping[str, PoolSettings], cluster: Cluster) -> Iterator[Finding]:
    for resource in ("CPU", "GPU"):
        largest = max((node.get(resource, 0.0) for node in cluster.nodes), default=0.0)
        for name, pool in pools.items():
            if of_a_worker(pool, resource) > largest:
                yield Finding(
                    CHECK,
                    "fail",
                    f"a worker of {name} asks for {of_a_worker(pool, resource):g} {resource}s "
                    f"and the largest node has {largest:g}",
                    f"ask for fewer {resource}s a worker, or add a larger node",
                )


def _accelerators(pools: Mapping[str, PoolSettings], cluster: Cluster) -> Iterator[Finding]:
    for name, pool in pools.items():
        if pool.accelerator_type is not None and pool.accelerator_type not in cluster.accelerators:
            yield Finding(
                CHECK,
                "fail",
                f"{name} asks for the accelerator {pool.accelerator_type} and the cluster has "
                f"{', '.join(cluster.accelerators) or 'none'}",
                "name one that is there as accelerator_type, or leave it out",
            )


def _without_a_place(pools: Mapping[str, PoolSettings], cluster: Cluster) -> str | None:
    """The first pool one of whose workers finds no place, largest workers first, each on the first node with room."""
    workers = [(pool.gpus_per_worker, pool.cpus_per_worker, name) for name, pool in pools.items()] if pools else []
    left = [[node.get("GPU", 0.0), node.get("CPU", 0.0)] for node in cluster.nodes]
    for gpus, cpus, name in sorted(workers, reverse=True):
        for _ in range(pools[name].workers):
            room = next((node for node in left if node[0] >= gpus - 1e-9 and node[1] >= cpus - 1e-9), None)
            if room is None:
                return name
            room[0] -= gpus
            room[1] -= cpus
    return None
