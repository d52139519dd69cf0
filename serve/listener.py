"""HTTP straight to an ingress, without a proxy between it and the client: a process less that every request passes.

Invariants: as behind Ray Serve's proxy, a request whose client leaves is cancelled; a body is read no faster than the
routes ask for it, so that their limits hold.
"""

import asyncio
import socket

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_KEEP_ALIVE = 90
"""Seconds for which a connection without a request stays open, as behind Ray Serve's proxy."""


class Listener:
    """Serves `app` on `host` and `port` from the running event loop on. Raises `OSError` where the port is in use.

    Listeners of one service share a port: the kernel gives each connection to one of those that live.
    """

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        listening = socket.create_server((host, port), reuse_port=True)
        config = uvicorn.Config(
            CancelledWithClient(app),
            timeout_keep_alive=_KEEP_ALIVE,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="error",
        )
        self._server = uvicorn.Server(config)
        self._serving = asyncio.get_running_loop().create_task(self._server.serve(sockets=[listening]))

    def check(self) -> None:
        """Raise what ended the listening, if something has."""
        if self._serving.done():
            self._serving.result()

    async def close(self) -> None:
        """Take no more connections, and return once what was answered has left."""
        self._server.should_exit = True
        await self._serving


class CancelledWithClient:
    """Cancels the answer to a request whose client has left."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, while somebody waits for it."""
        answering = asyncio.current_task()
        assert answering is not None
        leaving: asyncio.Task[Message] | None = None
        answered = left = False

        def cancel(_: asyncio.Task[Message]) -> None:
            nonlocal left
            if not answered:
                left = True
                answering.cancel()

        async def received() -> Message:
            nonlocal leaving
            if leaving is not None:
                return await asyncio.shield(leaving)
            message = await receive()
            if not message.get("more_body", False):  # what comes next is that the client has left
                leaving = asyncio.ensure_future(receive())
                leaving.add_done_callback(cancel)
            return message

        async def sent(message: Message) -> None:
            nonlocal answered
            answered = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, received, sent)
        except asyncio.CancelledError:
            if not left or answering.uncancel():
                raise
        finally:
            answered = True
            if leaving is not None:
                leaving.cancel()
