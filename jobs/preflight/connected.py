"""What the connected cluster has, as preflight compares it with what is asked for."""

import ray

from jobs.preflight.resources import Cluster, Node


def connected_cluster() -> Cluster:
    """The cluster that this process is connected to."""
    nodes = [Node(node["Resources"], node["Labels"]) for node in ray.nodes() if node["Alive"]]
    return Cluster(nodes, ray.available_resources())
