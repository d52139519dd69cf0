"""The check of pools against the cluster, as a job needs it before anything starts."""

from collections.abc import Mapping

import ray

from dermo_ray.config.pools import PoolSettings
from dermo_ray.errors import UserError
from jobs.preflight.resources import Cluster, Node, check_resources


def connected_cluster() -> Cluster:
    """The cluster that this process is connected to."""
    nodes = [Node(node["Resources"], node["Labels"]) for node in ray.nodes() if node["Alive"]]
    return Cluster(nodes, ray.available_resources())


def require(pools: Mapping[str, PoolSettings]) -> None:
    """Compare what `pools` (by name) ask for with what the connected cluster has in all.

    Raises `UserError` naming both numbers where CPUs or GPUs don't suffice, where no node is large enough for one
    worker, or where a node with the accelerator asked for isn't there.
    """
    for finding in check_resources(pools, connected_cluster()):
        if finding.status == "fail":
            raise UserError(finding.line)
