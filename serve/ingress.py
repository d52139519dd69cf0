"""The ingress: the process that receives HTTP requests, and follows the manager's catalogue."""

import asyncio
import logging
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.handle import DeploymentHandle

from dermo_ray.config.serve import ServeConfig
from serve.api import build_api
from serve.catalogue import Catalogue
from serve.handles import ReplicaPolicies
from serve.listener import Listener
from serve.safety.errors import Refused
from serve.service import Service

LOGGER = logging.getLogger("ray.serve")

_PAUSE = 1.0
"""Seconds after which the manager is asked again, when it could not be."""


class ManagedReleases:
    """`Releases` over the deployment `manager`."""

    def __init__(self, manager: DeploymentHandle) -> None:
        self._manager = manager

    async def push(self, folder: str) -> Catalogue:
        """See `Releases`."""
        return await self._order("push", Path(folder))

    async def promote(self, label: str) -> Catalogue:
        """See `Releases`."""
        return await self._order("promote", label)

    async def roll_back(self) -> Catalogue:
        """See `Releases`."""
        return await self._order("roll_back")

    async def pin(self, label: str) -> Catalogue:
        """See `Releases`."""
        return await self._order("pin", label)

    async def unpin(self, label: str) -> Catalogue:
        """See `Releases`."""
        return await self._order("unpin", label)

    async def canary(self, label: str, share: float) -> Catalogue:
        """See `Releases`."""
        return await self._order("canary", label, share)

    async def _order(self, method: str, *arguments: Any) -> Catalogue:
        try:
            catalogue: Catalogue = await getattr(self._manager, method).remote(*arguments)
        except RayActorError:
            message = "The manager of checkpoints has failed and is being replaced. See what is held, and try again."
            raise Refused(503, message, code="manager_lost", headers={"Retry-After": "5"}) from None
        return catalogue


@serve.ingress()
class Ingress:
    """A replica of the deployment `ingress`; with `listens` it takes connections itself, else behind a proxy."""

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits it
        self, config: ServeConfig, policy: DeploymentHandle, manager: DeploymentHandle, listens: bool
    ) -> None:
        catalogue: Catalogue = await manager.catalogue.remote()
        self._service = Service(config, catalogue, ReplicaPolicies(policy), ManagedReleases(manager))
        self._following = asyncio.get_running_loop().create_task(self._follow(manager))
        self._api = build_api(self._service)
        self._listener = Listener(self._api, config.host, config.port) if listens else None

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Ray Serve asks for the routes once the replica is built."""
        return self._api

    async def check_health(self) -> None:
        """Ray Serve replaces the replica where this raises."""
        if self._listener is not None:
            self._listener.check()

    async def drain(self) -> None:
        """Refuse new requests, and return once those under way are answered: what they wait for must not go first."""
        await self._service.drain()
        if self._listener is not None:
            await self._listener.close()

    async def _follow(self, manager: DeploymentHandle) -> None:
        """Go by the manager's catalogue, whatever becomes of the manager in between."""
        while True:
            try:
                catalogue = await manager.follow.remote(self._service.catalogue.revision)
            except Exception as error:
                LOGGER.warning("the manager can't be followed (%s); trying again", type(error).__name__)
                await asyncio.sleep(_PAUSE)
                continue
            if catalogue.revision != self._service.catalogue.revision:
                self._service.follow(catalogue)
