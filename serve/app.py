r"""The Ray Serve application: an ingress, the manager of releases, and policy replicas that each hold one engine.

HTTP -> ingress (keys, limits, CCT, page, metrics) -> policy replicas (vLLM)
\-> manager (finds checkpoints, loads them everywhere, promotes)

Started by `jobs.serve`, the ingress takes connections itself; by Ray Serve's own commands, behind Ray Serve's proxy.
"""

import json
import uuid
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application

from actors.environment import worker_environment
from dermo_ray.config.base import load
from dermo_ray.config.serve import ServeConfig
from dermo_ray.taxonomy import Taxonomy
from serve.checkpoints import Checkpoint, resolve
from serve.gate import Gate
from serve.ingress import Ingress
from serve.manager import Manager
from serve.replica import Policy
from serve.safety.keys import Keys

_DRAIN_CHECK = 0.2
"""Seconds between two looks at whether a replica that is to stop still has requests."""
_HEALTH_CHECK = 1.0
"""Seconds between two looks at whether a replica is well."""
_LIGHT = {"num_cpus": 0}
"""What ingress and manager reserve: they wait for others most of the time."""
_ON_THE_HEAD = {"node:__internal_head__": 0.001}
"""What an actor asks for that is to run on the cluster's head: Ray gives that node one of it."""
_LEAN = {
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2**31 - 1),
}
"""Ray Serve's own loops and ours in one, since no request blocks it and each message between threads has its price;
and no limit to the messages of gRPC, which by default holds less than a photograph: the ingress limits what comes in.

<https://docs.ray.io/en/latest/serve/advanced-guides/performance.html>
"""


def application(config: ServeConfig, checkpoint: Checkpoint, *, listens: bool) -> Application:
    """The application that begins with `checkpoint` and goes on as `config` says, ready for `serve.run`.

    With `listens` its ingresses run on the cluster's head and listen there, on the host and port of `config`.

    Raises `UserError` where the gate has no prompts, and for keys or a taxonomy that can't be read.
    """
    pool = config.pool
    Keys.load(config.safety.keys_file)  # read again where they are used; here a mistake shows before anything starts
    Taxonomy.load(config.taxonomy)
    gate = None if config.live.gate is None else Gate.open(config.live.gate, config.taxonomy)
    manager = serve.deployment(
        name="manager", num_replicas=1, max_ongoing_requests=1000, ray_actor_options=_LIGHT,
        health_check_period_s=_HEALTH_CHECK,
    )(Manager).bind(config, checkpoint, gate, uuid.uuid4().hex)  # fmt: skip
    policy = serve.deployment(
        name="policy",
        max_constructor_retry_count=1,  # an engine that doesn't start once won't the next time
        num_replicas=pool.workers if pool.max_workers is None else None,
        autoscaling_config=None
        if pool.max_workers is None
        else {
            "min_replicas": pool.workers,
            "max_replicas": pool.max_workers,
            "target_ongoing_requests": pool.target_ongoing_requests,
        },
        max_ongoing_requests=config.engine.max_num_seqs,
        max_queued_requests=config.max_queued,
        health_check_period_s=_HEALTH_CHECK,
        graceful_shutdown_timeout_s=config.drain_timeout,
        graceful_shutdown_wait_loop_s=_DRAIN_CHECK,
        ray_actor_options={
            "num_cpus": pool.cpus_per_worker,
            "num_gpus": pool.gpus_per_worker,
            "accelerator_type": pool.accelerator_type,
            **({"label_selector": pool.node_labels} if pool.node_labels else {}),
            "runtime_env": {"env_vars": worker_environment(pool) | _LEAN},
        },
        logging_config={"enable_access_log": False},  # the ingress has a line for each request already
    )(Policy).bind(config, checkpoint, manager)
    ingress = serve.deployment(
        name="ingress",
        num_replicas=config.ingresses,
        max_ongoing_requests=config.max_under_way,
        health_check_period_s=_HEALTH_CHECK,
        graceful_shutdown_timeout_s=config.drain_timeout,
        graceful_shutdown_wait_loop_s=_DRAIN_CHECK,
        ray_actor_options={
            **_LIGHT,
            "resources": _ON_THE_HEAD if listens else {},
            "runtime_env": {"env_vars": _LEAN},
        },
    )(Ingress)
    return ingress.bind(config, policy, manager, listens)


def build(args: dict[str, Any]) -> Application:
    """The application of `serve run serve.app:build config=FILE [key.sub=value ...]`, and of `args` in `serve deploy`.

    All but `config` are settings of `ServeConfig`, as overrides or, in YAML, nested. Where Ray Serve listens is its own
    affair (`http_options`); `host` still decides whether keys are asked for.
    """
    settings = dict(args)
    file = settings.pop("config", None)
    # what a command line gives is text, which may spell a list or null
    overrides = [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items()]
    config = load(ServeConfig, None if file is None else Path(file), overrides)
    return application(config, resolve(config.run, config.checkpoint), listens=False)
