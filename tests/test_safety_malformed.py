"""Whatever is sent, the answer is a refusal and no failure."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from fake_service import fake_service
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from malformed import CHAT, DIAGNOSE, GOOD, Malformed, encoded, fault_of, noise, requests, throw, uri
from schemathesis.checks import not_a_server_error

from dermo_ray.config.safety import SafetySettings
from serve.safety import keys

LOCAL = "http://127.0.0.1"
FEW = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


async def sent(api: Any, malformed: list[Malformed]) -> dict[str, str]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url=LOCAL) as client:
        return await throw(client, malformed)


async def answers(api: Any, path: str, contents: list[bytes]) -> list[httpx.Response]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url=LOCAL) as client:
        return [
            await client.post(path, content=content, headers={"Content-Type": "application/json"})
            for content in contents
        ]


def ask(**change: Any) -> bytes:
    return json.dumps({"image": GOOD, "modality": "clinical", **change}).encode()


def test_hundreds_of_malformed_requests_are_refused_in_the_shape_that_clients_read():
    malformed = requests()
    assert len(malformed) >= 500
    assert len({request.name for request in malformed}) == len(malformed)
    assert asyncio.run(sent(fake_service(), malformed)) == {}


def test_the_requests_that_were_made_worse_are_taken_as_they_were():
    chat = {"model": "dermo", "messages": [{"role": "user", "content": [{"type": "text", "text": "?"}]}]}
    api = fake_service()
    for path, body in ((DIAGNOSE, ask()), (DIAGNOSE, ask(stream=True)), (CHAT, json.dumps(chat).encode())):
        (answer,) = asyncio.run(answers(api, path, [body]))
        assert answer.status_code == 200


FIELDS = ("image", "model", "modality", "stream", "cct", "messages", "content", "type", "text", "image_url", "url")
KEYS = st.text() | st.sampled_from(FIELDS)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@given(
    body=st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=12),
)
@FEW
def test_no_json_makes_the_service_fail(body: Any):
    api = fake_service()
    for path in (DIAGNOSE, CHAT):
        (answer,) = asyncio.run(answers(api, path, [json.dumps(body).encode()]))
        assert fault_of(answer) is None


@given(data=st.binary(max_size=3000))
@FEW
def test_no_bytes_in_place_of_an_image_or_a_body_make_the_service_fail(data: bytes):
    api = fake_service()
    bodies = [ask(image=uri(data)), ask(image=f"data:image/png;base64,{data.decode('latin-1')}"), data]
    assert [fault_of(answer) for answer in asyncio.run(answers(api, DIAGNOSE, bodies))] == [None] * 3


PLACES = st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=8)


@given(kind=st.sampled_from(["PNG", "JPEG", "WEBP"]), places=PLACES)
@FEW
def test_no_damage_to_an_image_makes_the_service_fail(kind: str, places: list[tuple[float, int]]):
    damaged = bytearray(encoded(noise(), kind))
    for share, value in places:
        damaged[int(share * len(damaged))] = value
    (answer,) = asyncio.run(answers(fake_service(), DIAGNOSE, [ask(image=uri(bytes(damaged)))]))
    assert answer.status_code == 200 or fault_of(answer) is None


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str]:
    """What the service says about itself, and a key to it."""
    file: Path = tmp_path_factory.mktemp("keys") / "keys.yaml"
    key = keys.add(file, "fuzz", "client")
    api = fake_service(SafetySettings(keys_file=file, requests_per_minute=None))
    return schemathesis.openapi.from_asgi("/openapi.json", api), key


@pytest.mark.parametrize("path", [DIAGNOSE, CHAT])
def test_no_request_made_from_the_openapi_document_makes_the_service_fail(described: tuple[Any, str], path: str):
    schema, key = described

    @given(case=schema[path]["POST"].as_strategy())
    @FEW
    def call(case: Any) -> None:
        response = case.call(headers={"Authorization": f"Bearer {key}"})
        case.validate_response(response, checks=[not_a_server_error])

    call()


def test_a_picture_in_base64_is_decoded_whole():
    half = base64.b64encode(encoded(noise(256, 256), "JPEG")).decode()[:-400]
    answered = asyncio.run(answers(fake_service(), DIAGNOSE, [ask(image=f"data:image/jpeg;base64,{half}")]))
    assert answered[0].json()["error"]["code"] == "damaged_image"
