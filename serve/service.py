"""What the routes share: who may ask, which release answers, and what is counted about it."""

import asyncio
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Protocol

from fastapi import Request
from fastapi.responses import Response

from dermo_ray.cct import diagnosis
from dermo_ray.config.serve import ServeConfig
from dermo_ray.taxonomy import Taxonomy
from serve.catalogue import Catalogue, Release
from serve.comparison import Comparison
from serve.messages import Answer, Policies, Usage
from serve.metrics import Metrics
from serve.naming import Names
from serve.safety.body import read_json
from serve.safety.errors import RETRY_AFTER, Refused, unavailable
from serve.safety.images import Images
from serve.safety.keys import Caller, Keys
from serve.safety.log import log_request
from serve.safety.rate import RateLimit

_CLIENT_LEFT = 499
"""What web servers write where a client did not wait for its answer."""
_DEADLINE_SLACK = 0.1
"""Seconds by which the deadline of a request may have begun before its ticket."""
_DRAIN_CHECK = 0.05
"""Seconds between two looks at whether requests are under way."""


class Releases(Protocol):
    """The manager as the ingress sees it; all raise `UserError` for what can't be done."""

    async def push(self, folder: str) -> Catalogue:
        """Take the checkpoint in `folder`."""
        ...

    async def promote(self, label: str) -> Catalogue:
        """Let `label` answer to the bare name."""
        ...

    async def roll_back(self) -> Catalogue:
        """Let the release before answer again."""
        ...

    async def pin(self, label: str) -> Catalogue:
        """Keep `label` loaded."""
        ...

    async def unpin(self, label: str) -> Catalogue:
        """Let `label` go with the others."""
        ...

    async def canary(self, label: str, share: float) -> Catalogue:
        """Let `label` answer a share of the requests."""
        ...


class Service:
    """One ingress process, apart from its routes. Raises `UserError` for keys or a taxonomy that can't be read."""

    def __init__(self, config: ServeConfig, catalogue: Catalogue, policies: Policies, releases: Releases) -> None:
        self.config = config
        self.policies = policies
        self.releases = releases
        self.names = Names(config.name)
        self.keys = Keys.load(config.safety.keys_file)
        self.rate = RateLimit(config.safety)
        self.images = Images(config.safety)
        self.taxonomy = Taxonomy.load(config.taxonomy)
        self.question = diagnosis(self.taxonomy)
        self.metrics = Metrics()
        self.comparison = Comparison()
        self.under_way = 0
        self.closing = False
        self.catalogue = catalogue
        self.metrics.follow(catalogue)

    def follow(self, catalogue: Catalogue) -> None:
        """Let requests that begin from now on go by `catalogue`, unless a later one is known: news come by two ways."""
        if catalogue.session == self.catalogue.session and catalogue.revision < self.catalogue.revision:
            return
        self.catalogue = catalogue
        self.metrics.follow(catalogue)
        self.comparison.forget_all_but(catalogue.releases)

    async def admit(self, request: Request) -> dict[str, Any]:
        """The body of a request that may be answered. Raises `Refused` for one that may not."""
        caller = self.identify(request)
        body = await read_json(request, self.config.safety)
        log_request(self.config.safety, caller.name, request.url.path, body)
        return body

    def identify(self, request: Request) -> Caller:
        """Who sends a request. Raises `Refused`: 401 where that is not known, 429 where it is one too many."""
        caller = self.keys.caller(request.headers.get("authorization"))
        self.rate.admit(caller.name)
        return caller

    def release_for(self, model: Any) -> tuple[Release, bool]:
        """The release for a request to `model`, and whether its name asks for CCT. Raises `Refused` (404, 400)."""
        if not isinstance(model, str):
            raise Refused(400, "`model` must name one of /v1/models.", code="invalid_value", param="model")
        found = self.names.find(model, self.catalogue)
        if found is None:
            names = ", ".join(name for name, _ in self.names.all(self.catalogue))
            raise Refused(404, f"There is no such model. Served here: {names}.", code="model_not_found", param="model")
        return found

    def ticket(self, route: str) -> "Ticket":
        """A ticket for a request to `route`. Raises `Refused` (503) where the service is about to end, or is full."""
        self.check_open()
        if self.under_way >= self.config.max_under_way:
            raise unavailable("Too many requests are under way. Try again in a moment.", "overloaded")
        return Ticket(self, route)

    def check_open(self) -> None:
        """Raise `Refused` (503) where the service is about to end."""
        if self.closing:
            raise unavailable("The service is being stopped. Try again in a moment.", "stopping")

    async def drain(self) -> None:
        """Refuse what comes from now on, and return once nothing is under way."""
        self.closing = True
        while self.under_way:
            await asyncio.sleep(_DRAIN_CHECK)


class Ticket:
    """A request from its beginning to its end, for the metrics: the body of a `with`, or a stream that outlives it."""

    def __init__(self, service: Service, route: str) -> None:
        self._service = service
        self._route = route
        self._begun = time.monotonic()
        self._streams = False
        self.release: Release | None = None
        self.status = 200
        self.usage = Usage()

    def __enter__(self) -> "Ticket":
        self._service.under_way += 1
        self._service.metrics.begun(self._route)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.status = self._status_of(error)
        if error is not None or not self._streams:
            self._end()

    @property
    def seconds(self) -> float:
        """Since the request began."""
        return time.monotonic() - self._begun

    def answer(self, answer: Answer) -> Response:
        """The engine's answer as it is; one that says that none can be had now, with when to ask again."""
        self.status = answer.status
        headers = {"Retry-After": RETRY_AFTER} if answer.status == 503 else None
        return Response(answer.content, answer.status, headers, media_type="application/json")

    def over(self, events: AsyncIterator[str]) -> AsyncIterator[str]:
        """`events`, at whose end the request ends; to be called before the `with` is left."""
        self._streams = True
        return self._until_the_end(events)

    async def _until_the_end(self, events: AsyncIterator[str]) -> AsyncIterator[str]:
        try:
            async for event in events:
                yield event
        except BaseException as error:
            self.status = self._status_of(error)
            raise
        finally:
            self._end()

    def _end(self) -> None:
        self._service.under_way -= 1
        catalogue, release = self._service.catalogue, self.release
        state = "none" if release is None else "gone"
        if release is not None and release.label in catalogue.releases:
            state = catalogue.state(release.label)
        self._service.metrics.ended(self._route, self.status, self.seconds, state, self.usage)
        if release is not None:
            self._service.comparison.answered(release.label, self.status, self.seconds, self.usage)

    def _status_of(self, error: BaseException) -> int:
        if isinstance(error, Refused):
            return error.status
        if isinstance(error, Exception):
            return 500
        # both end the task: who left says nothing about a release, but one that takes too long has failed
        late = self.seconds > self._service.config.safety.request_timeout - _DEADLINE_SLACK
        return 504 if late else _CLIENT_LEFT
