"""An ingress that takes connections itself, over real sockets and a fake policy."""

import asyncio
import base64
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from fake_policy import FakePolicies, fake_service
from fastapi import FastAPI
from PIL import Image
from ray_nodes import free_port

from serve.api import build_api
from serve.catalogue import Release
from serve.listener import Listener
from serve.messages import Answer, Usage
from serve.service import Service

PATIENCE = 10.0


def body(**fields: Any) -> dict[str, Any]:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "tan").save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "Describe."}]
    return {"model": "dermo", "messages": [{"role": "user", "content": content}]} | fields


def listening(api: FastAPI, talk: Callable[[httpx.AsyncClient, Listener], Awaitable[None]]) -> None:
    """Have `talk` talk to a listener over `api`, which is closed afterwards."""

    async def run() -> None:
        port = free_port()
        listener = Listener(api, "127.0.0.1", port)
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client:
                await asyncio.wait_for(talk(client, listener), PATIENCE)
        finally:
            await asyncio.wait_for(listener.close(), PATIENCE)

    asyncio.run(run())


class Hanging(FakePolicies):
    """Begins to answer, and says when it was told to stop."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()
        self.stopped = asyncio.Event()

    async def complete(self, release: Release, body: dict[str, Any]) -> Answer:
        async for _ in self.stream(release, body):
            pass
        raise AssertionError("it hangs")

    async def stream(self, release: Release, body: dict[str, Any]) -> AsyncIterator[str | Usage | Answer]:
        try:
            yield "data: {}\n\n"
            self.begun.set()
            await asyncio.Event().wait()
        finally:
            self.stopped.set()


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_nobody_waits_for_any_more_is_cancelled(stream: bool):
    policies = Hanging()
    service = fake_service(policies)

    async def talk(client: httpx.AsyncClient, listener: Listener) -> None:
        asked = asyncio.ensure_future(client.post("/v1/chat/completions", json=body(stream=stream)))
        await policies.begun.wait()
        assert service.under_way == 1
        asked.cancel()
        await policies.stopped.wait()
        while service.under_way:
            await asyncio.sleep(0.01)
        assert 'status="499"' in (await client.get("/metrics")).text

    listening(build_api(service), talk)


def test_answers_and_streams_arrive_whole_one_after_another_on_a_connection():
    async def talk(client: httpx.AsyncClient, listener: Listener) -> None:
        for stream in (False, True, False):
            answer = await client.post("/v1/chat/completions", json=body(stream=stream))
            assert answer.status_code == 200
            assert answer.text.strip().endswith("data: [DONE]" if stream else "}")
        assert 'status="499"' not in (await client.get("/metrics")).text

    listening(build_api(fake_service()), talk)


def test_a_body_without_end_is_read_up_to_its_limit():
    async def talk(client: httpx.AsyncClient, listener: Listener) -> None:
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        status, sent = asyncio.ensure_future(reader.readline()), 0
        while not status.done():
            writer.write(b"10000\r\n" + b" " * 2**16 + b"\r\n")
            sent += 2**16
            await asyncio.wait([status, asyncio.ensure_future(writer.drain())], return_when="FIRST_COMPLETED")
        assert b" 413 " in await status
        assert 2**20 < sent < 16 * 2**20
        writer.close()

    listening(build_api(fake_service(overrides=("safety.max_body_mib=1",))), talk)


def test_a_listener_that_closes_sends_the_answers_under_way_first():
    policies = FakePolicies()
    may_answer = asyncio.Event()

    async def slow(release: Release, body: dict[str, Any]) -> Answer:
        await may_answer.wait()
        return Answer(200, b"{}")

    policies.complete = slow  # type: ignore[method-assign]
    service = fake_service(policies)

    async def talk(client: httpx.AsyncClient, listener: Listener) -> None:
        asked = asyncio.ensure_future(client.post("/v1/chat/completions", json=body()))
        while not service.under_way:
            await asyncio.sleep(0.01)
        closing = asyncio.ensure_future(listener.close())
        await asyncio.sleep(0.3)
        assert not closing.done()
        listener.check()
        may_answer.set()
        await closing
        assert (await asked).status_code == 200
        with pytest.raises(httpx.ConnectError):
            await client.get("/healthz")

    listening(build_api(service), talk)


def test_listeners_of_one_port_stand_in_for_each_other():
    async def talk(client: httpx.AsyncClient, listener: Listener) -> None:
        other = Listener(build_api(fake_service()), "127.0.0.1", client.base_url.port or 0)
        assert [await _healthy(client.base_url) for _ in range(8)] == [True] * 8
        await other.close()
        assert [await _healthy(client.base_url) for _ in range(8)] == [True] * 8

    listening(build_api(fake_service()), talk)


async def _healthy(url: httpx.URL) -> bool:
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE) as client:  # a connection of its own
        return (await client.get("/healthz")).is_success


def test_a_listener_that_fails_is_ill(monkeypatch: pytest.MonkeyPatch):
    async def fail(counter: int) -> bool:
        raise OSError("too many open files")

    async def run() -> None:
        listener = Listener(build_api(fake_service()), "127.0.0.1", free_port())
        listener.check()
        monkeypatch.setattr(listener._server, "on_tick", fail)
        await asyncio.wait([listener._serving], timeout=PATIENCE)
        with pytest.raises(OSError, match="too many open files"):
            listener.check()

    asyncio.run(run())


def test_a_full_service_says_when_to_try_again():
    policies = Hanging()
    limits = ("max_queued=1", "engine.max_num_seqs=1")
    service: Service = fake_service(policies, limits)
    assert service.config.max_under_way == 4

    async def talk(client: httpx.AsyncClient, listener: Listener) -> None:
        asked = [asyncio.ensure_future(client.post("/v1/chat/completions", json=body())) for _ in range(4)]
        while service.under_way < 4:
            await asyncio.sleep(0.01)
        late = await client.post("/v1/chat/completions", json=body())
        assert (late.status_code, late.json()["error"]["code"]) == (503, "overloaded")
        assert late.headers["Retry-After"]
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)

    listening(build_api(service), talk)
