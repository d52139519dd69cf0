"""What surrounds every route: errors in OpenAI's shape, a deadline, and a check of who is asked.

Invariants: no answer takes longer than the settings say, and one that is cut off says so where it still can. A service
without keys answers this machine alone, and only under its own names, so that no page from elsewhere reaches it either.
"""

import asyncio
import json

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dermo_ray.config.safety import SafetySettings, is_loopback
from serve.safety.errors import Refused, answer_errors


def protect(api: FastAPI, settings: SafetySettings) -> None:
    """Put all of it around the routes of `api`."""
    answer_errors(api)
    api.add_middleware(Deadline, seconds=settings.request_timeout)
    if settings.keys_file is None:
        api.add_middleware(LocalOnly)


class LocalOnly:
    """Refuses requests that come from another machine, name another, or come from a page of another site."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 403."""
        if scope["type"] == "http" and not _is_local(scope):
            message = "A service without keys answers on this machine alone, under its own name: use 127.0.0.1."
            await Refused(403, message, code="not_local").response()(scope, receive, send)
            return
        await self._app(scope, receive, send)


class Deadline:
    """Ends an answer that takes too long: 504 where it has not begun, an error event in a stream that has."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, in time."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun: Message | None = None

        async def watched(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = message
            await send(message)

        try:
            async with asyncio.timeout(self._seconds) as clock:
                await self._app(scope, receive, watched)
        except TimeoutError:
            if not clock.expired():
                raise
            refused = Refused(504, f"No answer within {self._seconds:g} s. Try again later.", code="timeout")
            if begun is None:
                await refused.response()(scope, receive, send)
            elif "text/event-stream" in Headers(raw=begun["headers"]).get("content-type", ""):
                event = f"event: error\ndata: {json.dumps(refused.body())}\n\n"
                await send({"type": "http.response.body", "body": event.encode(), "more_body": False})
            else:
                raise


def _is_local(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    origin = headers.get("origin", "")
    client = (scope.get("client") or ("", 0))[0]
    named = [_without_port(headers.get("host", "")), _without_port(origin.partition("://")[2]), client]
    return origin != "null" and all(is_loopback(name) for name in named if name)


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host
