"""The Ray Serve application: replicas that each hold one engine and answer over HTTP."""

from fastapi import FastAPI
from ray import serve
from ray.serve import Application

from actors.environment import threads, worker_environment
from dermo_ray.config.serve import ServeConfig
from serve.checkpoints import Checkpoint

_DRAIN_CHECK = 0.2
"""Seconds between two looks at whether a replica that is to stop still has requests."""


@serve.ingress()
class Policy:
    """One replica: an engine with a checkpoint's weights, and the API over it."""

    async def __init__(self, config: ServeConfig, checkpoint: Checkpoint) -> None:  # type: ignore[misc]  # Ray Serve awaits it
        # vLLM is loaded here alone: a process that only deploys the application needs no engine
        from actors.adapters import Adapter
        from actors.engine import Engine
        from serve.chat import PolicyChat

        self._engine = Engine.start(
            checkpoint.model,
            config.engine,
            checkpoint.lora_rank,
            on_gpu=config.pool.on_gpu,
            threads=threads(config.pool),
        )
        if checkpoint.adapter is not None:
            await self._engine.load(Adapter.at(checkpoint.adapter, checkpoint.version))
        self._chat = PolicyChat(self._engine, config.name, checkpoint)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Ray Serve asks for the routes once the replica is built."""
        from serve.api import build_api

        return build_api(self._chat)

    async def check_health(self) -> None:
        """Ray Serve replaces the replica where this raises."""
        await self._engine.check_health()

    def __del__(self) -> None:
        """Ray Serve calls it when the replica has drained."""
        if hasattr(self, "_engine"):
            self._engine.close()


def application(config: ServeConfig, checkpoint: Checkpoint) -> Application:
    """The application that serves `checkpoint` as `config` says, ready for `serve.run`."""
    pool = config.pool
    deployment = serve.deployment(
        name="policy",
        max_constructor_retry_count=1,  # an engine that doesn't start once won't the next time
        num_replicas=pool.workers,
        max_ongoing_requests=config.engine.max_num_seqs,
        graceful_shutdown_timeout_s=config.drain_timeout,
        graceful_shutdown_wait_loop_s=_DRAIN_CHECK,
        ray_actor_options={
            "num_cpus": pool.cpus_per_worker,
            "num_gpus": pool.gpus_per_worker,
            "accelerator_type": pool.accelerator_type,
            **({"label_selector": pool.node_labels} if pool.node_labels else {}),
            "runtime_env": {"env_vars": worker_environment(pool)},
        },
    )(Policy)
    return deployment.bind(config, checkpoint)
