"""Whether the cluster has what the pools ask for, in all and node by node."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from dermo_ray.config.pools import PoolSettings
from jobs.preflight.finding import Finding

CHECK = "cluster resources"

_KIND = "accelerator_type:"
_ROUNDING = 1e-9
"""Shares of a GPU, such as three times a third, are compared up to this."""


@dataclass(frozen=True)
class Node:
    """A node that is alive: how much it has of each resource, and its labels."""

    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)

    def may_hold(self, pool: PoolSettings) -> bool:
        """Whether it has the labels and the accelerator that the pool insists on."""
        kind = pool.accelerator_type
        labelled = all(self.labels.get(name) == value for name, value in pool.node_labels.items())
        return labelled and (kind is None or f"{_KIND}{kind}" in self.resources)


@dataclass(frozen=True)
class Cluster:
    """Its nodes, and how much of each resource is free now; None where that does not matter."""

    nodes: Sequence[Node]
    available: Mapping[str, float] | None = None

    def total(self, resource: str) -> float:
        """How much all nodes have together."""
        return sum(node.resources.get(resource, 0.0) for node in self.nodes)

    @property
    def accelerators(self) -> list[str]:
        """The kinds of GPU, as Ray calls them."""
        names = {name for node in self.nodes for name in node.resources if name.startswith(_KIND)}
        return sorted(name.removeprefix(_KIND) for name in names)


def check_resources(pools: Mapping[str, PoolSettings], cluster: Cluster) -> Iterator[Finding]:
    """One finding for each shortage; one that passes, or warns of a busy cluster, where there is none."""
    shortages = [*_totals(pools, cluster), *_unknown(pools, cluster), *_by_pool(pools, cluster)]
    if shortages:
        yield from shortages
        return
    asked = {name: sum(p.workers * of_a_worker(p, name) for p in pools.values()) for name in ("CPU", "GPU")}
    said = " and ".join(
        f"{amount:g} of {cluster.total(name):g} {name}s" for name, amount in asked.items() if amount or name == "CPU"
    )
    if (homeless := _without_a_place(pools, cluster)) is not None:
        yield Finding(
            CHECK,
            "warn",
            f"{said}, but no node has room for all workers of {homeless}",
            "ask for fewer CPUs or GPUs a worker, so that workers fit what nodes have left",
        )
    elif cluster.available is not None and (busy := _taken(asked, cluster.available)):
        yield Finding(CHECK, "warn", f"{said}; only {busy} are free now", "the pools wait until other jobs have ended")
    else:
        yield Finding(CHECK, "pass", said)


def _taken(asked: Mapping[str, float], available: Mapping[str, float]) -> str:
    """How much is free of what there is too little of now; nothing where there is enough."""
    short = [name for name, amount in asked.items() if amount > available.get(name, 0.0)]
    return " and ".join(f"{available.get(name, 0.0):g} {name}s" for name in short)


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


def _unknown(pools: Mapping[str, PoolSettings], cluster: Cluster) -> Iterator[Finding]:
    """Accelerators and labels that no node has."""
    for name, pool in pools.items():
        if pool.accelerator_type is not None and pool.accelerator_type not in cluster.accelerators:
            yield Finding(
                CHECK,
                "fail",
                f"{name} asks for the accelerator {pool.accelerator_type} and the cluster has "
                f"{', '.join(cluster.accelerators) or 'none'}",
                "name one that is there as accelerator_type, or leave it out",
            )
        elif not any(node.may_hold(pool) for node in cluster.nodes):
            labels = ", ".join(f"{label}={value}" for label, value in pool.node_labels.items())
            yield Finding(
                CHECK,
                "fail",
                f"{name} asks for nodes with {labels} and the cluster has none",
                "correct node_labels, or start nodes with `ray start --labels`",
            )


def _by_pool(pools: Mapping[str, PoolSettings], cluster: Cluster) -> Iterator[Finding]:
    """Pools that the nodes they may use can't hold, one worker or all."""
    for name, pool in pools.items():
        amounts = [
            {resource: node.resources.get(resource, 0.0) for resource in ("CPU", "GPU")}
            for node in cluster.nodes
            if node.may_hold(pool)
        ]
        for resource in ("CPU", "GPU"):
            one = of_a_worker(pool, resource)
            largest = max((amount[resource] for amount in amounts), default=0.0)
            together = sum(amount[resource] for amount in amounts)
            if amounts and one > largest:
                yield Finding(
                    CHECK,
                    "fail",
                    f"a worker of {name} asks for {one:g} {resource}s and the largest node has {largest:g}",
                    f"ask for fewer {resource}s a worker, or add a larger node",
                )
            elif amounts and len(amounts) < len(cluster.nodes) and pool.workers * one > together:
                yield Finding(
                    CHECK,
                    "fail",
                    f"{name} asks for {pool.workers * one:g} {resource}s and the nodes it may use have {together:g}",
                    "ask for fewer workers, or add nodes of that kind",
                )


def _without_a_place(pools: Mapping[str, PoolSettings], cluster: Cluster) -> str | None:
    """The first pool one of whose workers finds no place, largest workers first, each on the first node with room."""
    left = [[node.resources.get("GPU", 0.0), node.resources.get("CPU", 0.0)] for node in cluster.nodes]
    order = sorted(pools, key=lambda name: (pools[name].gpus_per_worker, pools[name].cpus_per_worker), reverse=True)
    for name in order:
        gpus, cpus = pools[name].gpus_per_worker - _ROUNDING, pools[name].cpus_per_worker - _ROUNDING
        fit = [room for room, node in zip(left, cluster.nodes, strict=True) if node.may_hold(pools[name])]
        for _ in range(pools[name].workers):
            room = next((room for room in fit if room[0] >= gpus and room[1] >= cpus), None)
            if room is None:
                return name
            room[0] -= gpus
            room[1] -= cpus
    return None
