"""One policy replica: an engine with the releases it holds, behind methods that the ingress and the manager call.

Invariant: a replica ends with its engine. Requests that the engine was answering then are told so, lest one that
crashes engines goes from one to the next; what comes after them is asked again on another replica.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from ray.serve.handle import DeploymentHandle

from actors.engine_process import start_engine
from actors.environment import threads
from actors.hosting import end_process
from dermo_ray.config.serve import ServeConfig
from serve.catalogue import Catalogue, Release
from serve.checkpoints import Checkpoint
from serve.messages import Answer, Completed, Usage
from serve.naming import Names

_LAST_WORDS = 0.5
"""Seconds for answers that say that the engine died to leave this process."""


class Policy:
    """A replica of the deployment `policy`; it starts with all releases of the manager's catalogue loaded."""

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits it
        self, config: ServeConfig, checkpoint: Checkpoint, manager: DeploymentHandle
    ) -> None:
        self._engine = start_engine(
            checkpoint.model,
            config.engine,
            checkpoint.lora_rank,
            on_gpu=config.pool.on_gpu,
            threads=threads(config.pool),
            loads=["serve.chat"],
        )
        from serve.chat import PolicyChat  # not above, since a process that only deploys the application needs no vLLM

        catalogue: Catalogue = await manager.catalogue.remote()
        self._chat = PolicyChat(self._engine, Names(config.name), catalogue.newest)
        for release in catalogue.releases.values():
            await self._chat.hold(release)
        self._living = asyncio.get_running_loop().create_task(self._end_with_engine())

    async def complete(self, release: Release, body: dict[str, Any]) -> Answer:
        """See `Policies`."""
        return await self._chat.complete(release, body)

    async def stream(self, release: Release, body: dict[str, Any]) -> AsyncIterator[str | Usage | Answer]:
        """See `Policies`."""
        async for part in self._chat.stream(release, body):
            yield part

    async def rollout(self, release: Release, body: dict[str, Any], top_logprobs: int) -> Completed | Answer:
        """See `Policies`."""
        return await self._chat.rollout(release, body, top_logprobs)

    async def stream_rollout(self, release: Release, body: dict[str, Any]) -> AsyncIterator[str | Completed | Answer]:
        """See `Policies`."""
        async for part in self._chat.stream_rollout(release, body):
            yield part

    async def hold(self, release: Release) -> str:
        """Load a release beside the others; returns its checksum as it was found."""
        return await self._chat.hold(release)

    async def retain(self, releases: list[Release]) -> list[str]:
        """Unload all but `releases`; returns what is loaded now."""
        await self._chat.retain(releases)
        return self._chat.held

    async def check_health(self) -> None:
        """Ray Serve replaces the replica where this raises."""
        await self._engine.check_health()

    async def _end_with_engine(self) -> None:
        # Ray Serve would look three times, and then let the replica drain, before it starts another
        await self._engine.death()
        await asyncio.sleep(_LAST_WORDS)
        end_process("the engine is dead")

    def __del__(self) -> None:
        """Ray Serve calls it when the replica has drained."""
        if hasattr(self, "_living"):
            self._living.cancel()
        if hasattr(self, "_engine"):
            self._engine.close()
