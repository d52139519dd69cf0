"""Checks, before anything starts, that the cluster can hold the pools a job asks for."""

from collections.abc import Mapping

import ray

from dermo_ray.config.pools import PoolSettings
from dermo_ray.errors import UserError


def require(pools: Mapping[str, PoolSettings]) -> None:
    """Compare what `pools` (by name) ask for with what the connected cluster has in all.

    Raises `UserError` naming both numbers where CPUs or GPUs don't suffice, where no node is large enough for one
    worker, or where a node with the accelerator asked for isn't there.
    """
    cluster = ray.cluster_resources()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for resource in ("CPU", "GPU"):
        asked = {name: pool.workers * _of_a_worker(pool, resource) for name, pool in pools.items()}
        total, available = sum(asked.values()), cluster.get(resource, 0.0)
        if total > available:
            shares = ", ".join(f"{name} {amount:g}" for name, amount in asked.items() if amount)
            raise UserError(
                f"{total:g} {resource}s are asked for ({shares}) and the cluster has {available:g}: "
                f"ask for fewer workers or {resource}s a worker, or use a larger cluster"
            )
        largest = max((node.get(resource, 0.0) for node in nodes), default=0.0)
        for name, pool in pools.items():
            if _of_a_worker(pool, resource) > largest:
                raise UserError(
                    f"a worker of {name} asks for {_of_a_worker(pool, resource):g} {resource}s "
                    f"and the largest node has {largest:g}"
                )
    for name, pool in pools.items():
        if pool.accelerator_type is not None and f"accelerator_type:{pool.accelerator_type}" not in cluster:
            kinds = sorted(key.partition(":")[2] for key in cluster if key.startswith("accelerator_type:"))
            has = ", ".join(kinds) or "none"
            raise UserError(f"{name} asks for the accelerator {pool.accelerator_type} and the cluster has {has}")


def _of_a_worker(pool: PoolSettings, resource: str) -> float:
    return pool.cpus_per_worker if resource == "CPU" else pool.gpus_per_worker
