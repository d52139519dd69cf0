"""The policy replicas through Ray Serve's handle, with what can go wrong on the way turned into a refusal or a retry.

Invariant: a request whose replica dies is asked again on another, unless part of its answer is on its way already;
where no replica can answer, the client is told when to try again.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from serve.catalogue import Release
from serve.messages import Answer, Completed, Usage
from serve.safety.errors import Refused, unavailable

_ATTEMPTS = 3
_READY_TIMEOUT = 5.0


class ReplicaPolicies:
    """`Policies` over the deployment `policy`."""

    def __init__(self, handle: DeploymentHandle) -> None:
        # by gRPC, which costs less than calls of Ray actors
        self._handle = handle.options(_by_reference=False)
        self._streams = handle.options(_by_reference=False, stream=True)

    async def complete(self, release: Release, body: dict[str, Any]) -> Answer:
        """See `Policies`."""
        answer: Answer = await _answered(lambda: self._handle.complete.remote(release, body))
        return answer

    async def rollout(self, release: Release, body: dict[str, Any], top_logprobs: int) -> Completed | Answer:
        """See `Policies`."""
        answer: Completed | Answer = await _answered(lambda: self._handle.rollout.remote(release, body, top_logprobs))
        return answer

    async def ready(self) -> None:
        """Raise `Refused` unless a replica's engine is well; not in line with requests, so that load is no illness."""
        try:
            asked = self._handle.broadcast("check_health")
            found = await asked.results_async(timeout_s=_READY_TIMEOUT, return_exceptions=True)
        except (DeploymentUnavailableError, TimeoutError):
            raise _busy() from None
        if all(isinstance(result, BaseException) for result in found):
            raise _lost()

    def stream(self, release: Release, body: dict[str, Any]) -> AsyncIterator[str | Usage | Answer]:
        """See `Policies`."""
        return _streamed(lambda: self._streams.stream.remote(release, body))

    def stream_rollout(self, release: Release, body: dict[str, Any]) -> AsyncIterator[str | Completed | Answer]:
        """See `Policies`."""
        return _streamed(lambda: self._streams.stream_rollout.remote(release, body))


async def _answered(ask: Callable[[], Any]) -> Any:
    for _ in range(_ATTEMPTS):
        asked = ask()
        try:
            return await asked
        except asyncio.CancelledError:  # it took too long: the replica is to have room for others
            asked.cancel()
            raise
        except RayActorError:
            continue
        except (BackPressureError, DeploymentUnavailableError):
            raise _busy() from None
    raise _lost()


async def _streamed(ask: Callable[[], Any]) -> AsyncIterator[Any]:
    for _ in range(_ATTEMPTS):
        begun, ended, parts = False, False, ask()
        try:
            async for part in parts:
                begun = True
                yield part
            ended = True
            return
        except RayActorError:
            if begun:
                raise _lost() from None
        except (BackPressureError, DeploymentUnavailableError):
            raise _busy() from None
        finally:
            if not ended:  # the client may have left
                parts.cancel()
    raise _lost()


def _busy() -> Refused:
    return unavailable("Too many requests are waiting, or no replica is up. Try again in a moment.", "overloaded")


def _lost() -> Refused:
    return unavailable("The replica that was answering has failed. Try again.", "replica_lost")
