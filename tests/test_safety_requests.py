"""Bodies, deadlines, errors and the log."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from fake_service import fake_service
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from malformed import GOOD

from dermo_ray.config.safety import SafetySettings
from serve.safety import keys
from serve.safety.body import parse, read_json
from serve.safety.log import log_request
from serve.safety.middleware import protect

LOCAL = "http://127.0.0.1"
JSON = {"Content-Type": "application/json"}


def echo(settings: SafetySettings) -> FastAPI:
    """A service that says how large the objects are that it is sent, and can take its time."""
    api = FastAPI()
    protect(api, settings)

    @api.post("/echo")
    async def count(request: Request) -> dict[str, int]:
        return {"keys": len(await read_json(request, settings))}

    @api.get("/slow")
    async def slow() -> None:
        await asyncio.sleep(60)

    @api.get("/stream")
    async def stream() -> StreamingResponse:
        async def events() -> AsyncIterator[str]:
            yield "data: 1\n\n"
            await asyncio.sleep(60)

        return StreamingResponse(events(), media_type="text/event-stream")

    @api.get("/fails")
    async def fails() -> None:
        raise RuntimeError("the secret of the machine")

    @api.get("/typed")
    async def typed(number: int) -> int:
        return number

    return api


def ask(api: FastAPI, method: str, path: str, client: str = "127.0.0.1", **options: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(api, raise_app_exceptions=False, client=(client, 5000))
        async with httpx.AsyncClient(transport=transport, base_url=LOCAL) as http:
            return await http.request(method, path, **options)

    return asyncio.run(send())


SMALL = SafetySettings(max_body_mib=0.001, body_timeout=0.1, request_timeout=0.2)


def test_a_body_within_the_limit_is_read():
    assert ask(echo(SMALL), "POST", "/echo", content=b'{"a": 1}', headers=JSON).json() == {"keys": 1}


def test_a_body_that_announces_too_much_is_refused_before_it_comes():
    answer = ask(echo(SMALL), "POST", "/echo", content=b"{}", headers={**JSON, "Content-Length": "9" * 30})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


def test_a_body_that_is_too_large_unannounced_is_refused_as_it_comes():
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 1
            yield b" " * 500

    answer = ask(echo(SMALL), "POST", "/echo", content=body(), headers=JSON)
    assert answer.status_code == 413
    assert sent < 10


def test_a_body_that_trickles_in_is_given_up():
    async def body() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" "
            await asyncio.sleep(0.05)

    answer = ask(echo(SMALL), "POST", "/echo", content=body(), headers=JSON)
    assert (answer.status_code, answer.json()["error"]["code"]) == (408, "request_timeout")


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "Application/JSON"])
def test_json_may_say_its_encoding(kind: str):
    assert ask(echo(SMALL), "POST", "/echo", content=b"{}", headers={"Content-Type": kind}).status_code == 200


def test_deep_and_wide_json_within_the_limits_is_read():
    deep = b"[" * 60 + b"1" + b"]" * 60
    wide = parse(b'{"a": ' + deep + b', "b": [0, -9223372036854775808, 1.5, true, null, "\\u00e9\\ud83d\\ude00"]}')
    assert wide["b"] == [0, -(2**63), 1.5, True, None, "é😀"]


def test_a_body_of_millions_of_values_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(json, "loads", lambda *_, **__: pytest.fail("read"))
    for value in (b"[]", b"{}", b"0"):
        answer = ask(
            echo(SafetySettings()),
            "POST",
            "/echo",
            content=b'{"a": [' + b",".join([value] * 10**6) + b"]}",
            headers=JSON,
        )
        assert b"more than 200,000 values" in answer.content


def test_an_answer_that_does_not_begin_in_time_is_a_timeout():
    answer = ask(echo(SMALL), "GET", "/slow")
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")


def test_a_stream_that_takes_too_long_ends_with_an_error_event():
    answer = ask(echo(SMALL), "GET", "/stream")
    first, second, rest = answer.text.split("\n\n")
    name, data = second.split("\n")
    assert (first, name, rest) == ("data: 1", "event: error", "")
    assert json.loads(data.removeprefix("data: "))["error"]["code"] == "timeout"


def test_a_failure_says_nothing_of_its_inside():
    answer = ask(echo(SMALL), "GET", "/fails")
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/echo", 405, "method_not_allowed"),
        ("GET", "/typed?number=private-words", 400, "invalid_value"),
    ],
)
def test_every_error_has_openais_shape_and_repeats_nothing_sent(method: str, path: str, status: int, code: str):
    answer = ask(echo(SMALL), method, path)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (status, code, "invalid_request_error")
    assert "private-words" not in answer.text


LOCALLY = [
    {"Host": "127.0.0.1:8000"},
    {"Host": "localhost"},
    {"Host": "[::1]:8000"},
    {"Origin": "http://localhost:8000"},
]


@pytest.mark.parametrize("headers", LOCALLY)
def test_a_service_without_keys_answers_this_machine(headers: dict[str, str]):
    assert ask(echo(SafetySettings()), "POST", "/echo", content=b"{}", headers={**JSON, **headers}).status_code == 200


ELSEWHERE = [
    {"Host": "evil.example.org"},
    {"Host": "127.0.0.1.example.org"},
    {"Host": "10.0.0.1:8000"},
    {"Origin": "https://evil.example.org"},
    {"Origin": "null"},
]


@pytest.mark.parametrize("headers", ELSEWHERE)
def test_a_service_without_keys_answers_no_page_from_elsewhere(headers: dict[str, str], tmp_path: Path):
    answer = ask(echo(SafetySettings()), "POST", "/echo", content=b"{}", headers={**JSON, **headers})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "not_local")
    with_keys = SafetySettings(keys_file=tmp_path / "keys.yaml")
    assert ask(echo(with_keys), "POST", "/echo", content=b"{}", headers={**JSON, **headers}).status_code == 200


CLIENTS = [("127.0.0.1", 200), ("::1", 200), ("::ffff:127.0.0.1", 200), ("10.0.0.9", 403), ("2001:db8::1", 403)]


@pytest.mark.parametrize(("client", "status"), CLIENTS)
def test_a_service_without_keys_answers_no_other_machine(client: str, status: int):
    answer = ask(echo(SafetySettings()), "POST", "/echo", client, content=b"{}", headers=JSON)
    assert answer.status_code == status


def test_the_log_names_caller_and_route_and_nothing_of_the_content(caplog: pytest.LogCaptureFixture):
    body = {"messages": [{"role": "user", "content": "a private question"}], "image": GOOD}
    with caplog.at_level(logging.INFO, "ray.serve"):
        log_request(SafetySettings(), "lab", "/v1/diagnose", body)
    assert caplog.messages == ["lab asks /v1/diagnose"]


def test_the_log_holds_texts_and_hashes_of_images_where_that_is_switched_on(caplog: pytest.LogCaptureFixture):
    body = {"messages": [{"role": "user", "content": "a question"}], "image": GOOD}
    with caplog.at_level(logging.INFO, "ray.serve"):
        log_request(SafetySettings(log_content=True), "lab", "/v1/diagnose", body)
    assert "a question" in caplog.text
    assert "sha256:" in caplog.text
    assert GOOD[30:90] not in caplog.text


def client(api: FastAPI, key: str) -> openai.AsyncOpenAI:
    http = httpx.AsyncClient(transport=httpx.ASGITransport(api))
    return openai.AsyncOpenAI(base_url=f"{LOCAL}/v1", api_key=key, max_retries=0, http_client=http)


def test_openais_client_understands_every_refusal(tmp_path: Path):
    file = tmp_path / "keys.yaml"
    key = keys.add(file, "lab", "client")
    api = fake_service(SafetySettings(keys_file=file, requests_per_minute=60, burst=4, max_body_mib=0.1))

    async def run() -> None:
        hello: Any = [{"role": "user", "content": "hello"}]
        gif: Any = [{"role": "user", "content": [{"type": "image_url", "image_url": "data:image/gif;base64,R0"}]}]
        large: Any = [{"role": "user", "content": "x" * 200_000}]
        with pytest.raises(openai.AuthenticationError) as unknown:
            await client(api, "wrong").models.list()
        assert unknown.value.code == "invalid_api_key"
        mine = client(api, key)
        answer = await mine.chat.completions.create(model="dermo", messages=hello)
        assert answer.choices[0].message.content == "0 images"
        with pytest.raises(openai.BadRequestError) as bad:
            await mine.chat.completions.create(model="dermo", messages=gif)
        assert (bad.value.code, bad.value.param) == ("invalid_image_url", "messages[0].content[0]")
        with pytest.raises(openai.NotFoundError):
            await mine.chat.completions.create(model="other", messages=hello)
        with pytest.raises(openai.APIStatusError) as too_large:
            await mine.chat.completions.create(model="dermo", messages=large)
        assert too_large.value.status_code == 413
        with pytest.raises(openai.RateLimitError) as limited:
            await mine.models.list()
        assert limited.value.response.headers["Retry-After"] == "1"

    asyncio.run(run())
