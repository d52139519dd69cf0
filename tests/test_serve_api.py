import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import schemathesis
from fake_policy import PROMPT_TOKENS, FakePolicies, completion, fake_service
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from jsonschema import validate
from malformed import requests, throw
from PIL import Image
from schemathesis.checks import not_a_server_error

from serve.api import build_api
from serve.catalogue import Release
from serve.messages import Answer, Completed, Usage
from serve.safety.errors import Refused
from serve.safety.keys import add

BASE = "http://127.0.0.1"


def picture(size: tuple[int, int] = (40, 30), colour: str = "tan") -> str:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def by_seed(release: Release, body: dict[str, Any]) -> str:
    """Three of four rollouts agree."""
    return completion("Melanoma" if body["seed"] % 4 else "Melanocytic Nevus")


@pytest.fixture
def policies() -> FakePolicies:
    return FakePolicies()


@pytest.fixture
def api(policies: FakePolicies) -> FastAPI:
    return build_api(fake_service(policies))


def call(api: FastAPI, method: str, path: str, **arguments: Any) -> httpx.Response:
    """One request, from start to end."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(api, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=BASE, timeout=60) as client:
            return await client.request(method, path, **arguments)

    return asyncio.run(ask())


def diagnose(api: FastAPI, **changes: Any) -> httpx.Response:
    return call(api, "POST", "/v1/diagnose", json={"image": picture(), "modality": "dermoscopic"} | changes)


def chat(api: FastAPI, **changes: Any) -> httpx.Response:
    image, text = {"url": picture()}, "dermoscopic: diagnose"
    content = [{"type": "image_url", "image_url": image}, {"type": "text", "text": text}]
    body = {"model": "dermo", "messages": [{"role": "user", "content": content}]} | changes
    return call(api, "POST", "/v1/chat/completions", json=body)


def events(answer: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    blocks = [block.split("\n") for block in answer.text.strip().split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


def test_a_diagnosis_tells_morphology_reasoning_and_version(api: FastAPI):
    answer = diagnose(api).json()
    assert answer["diagnosis"] == "Melanoma"
    assert answer["path"]
    assert (answer["model"], answer["version"]) == ("dermo@step_000060", 60)
    assert answer["system_fingerprint"] == "dermo@step_000060/v60"
    assert answer["confidence"] == pytest.approx(0.905, abs=1e-3)
    assert answer["reasoning"] == "The network is atypical."
    assert answer["findings"][0] == {"name": "Pigment Network", "value": "atypical", "present": True}
    assert [finding["present"] for finding in answer["findings"][1:]] == [False] * 6
    assert (answer["cct"], answer["abstain"], answer["faults"]) == (None, False, [])
    assert answer["usage"]["prompt_tokens"] == PROMPT_TOKENS
    assert "not a medical device" in answer["notice"]


def test_cct_shows_views_and_says_how_each_voted(policies: FakePolicies, api: FastAPI):
    policies.write = by_seed
    answer = diagnose(api, model="dermo+cct", view_images=True).json()
    cct = answer["cct"]
    assert answer["diagnosis"] == "Melanoma"
    assert sum(candidate["probability"] for candidate in answer["posterior"]) == pytest.approx(1)
    assert answer["confidence"] == answer["posterior"][0]["probability"]
    assert [view["name"] for view in cct["views"]] == [
        "identity", "even_light_flip_horizontal", "even_light_quarter_turn_left", "even_light_half_turn",
    ]  # fmt: skip
    assert all(view["image"].startswith("data:image/jpeg") for view in cct["views"])
    assert (cct["planned"], cct["sampled"], len(cct["votes"])) == (8, 8, 8)
    assert sum(vote["weight"] for vote in cct["votes"]) == pytest.approx(1)
    assert answer["usage"]["prompt_tokens"] == 8 * PROMPT_TOKENS
    shown = {part["image_url"]["url"] for _, body in policies.asked for part in body["messages"][0]["content"][:1]}
    assert len(shown) <= 4  # each view is encoded once


def test_a_photograph_is_scaled_down_until_it_fits_into_a_prompt(policies: FakePolicies):
    large = picture((3000, 1500))
    for overrides, side in (((), 1024), (("max_side=null",), 3000)):
        api = build_api(fake_service(policies, overrides))
        for answer in (diagnose(api, image=large), diagnose(api, image=large, cct={"samples_per_view": 1})):
            assert answer.status_code == 200
        urls = [body["messages"][0]["content"][0]["image_url"]["url"] for _, body in policies.asked]
        shown = [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]
        assert {max(image.size) for image in shown} == {side}
        policies.asked.clear()


def test_a_request_can_change_cct_within_bounds(api: FastAPI):
    answer = diagnose(api, cct={"samples_per_view": 1, "tau": 1.0}).json()
    assert answer["cct"]["planned"] == 4
    refused = diagnose(api, cct={"samples_per_view": 10**6})
    assert refused.status_code == 400
    assert "cct" in refused.json()["error"]["param"]
    assert diagnose(api, model="dermo+cct", cct=False).json()["cct"] is None


def test_a_silent_policy_gives_no_diagnosis_and_abstains(policies: FakePolicies, api: FastAPI):
    policies.write = lambda release, body: "I can't say."
    for changes in ({}, {"cct": True}):
        answer = diagnose(api, **changes).json()
        assert (answer["diagnosis"], answer["abstain"], answer["posterior"]) == (None, True, [])
        assert "missing_block" in answer["faults"]


def test_a_label_outside_the_taxonomy_has_no_path(policies: FakePolicies, api: FastAPI):
    policies.write = lambda release, body: completion("Moonburn")
    assert diagnose(api).json()["path"] == []


@pytest.mark.parametrize("cct", [False, True])
def test_a_streamed_diagnosis_ends_with_the_whole_response(policies: FakePolicies, api: FastAPI, cct: bool):
    told = events(diagnose(api, stream=True, cct=cct))
    names = [name for name, _ in told]
    assert (names[0], names[-1]) == ("start", "result")
    result = told[-1][1]
    assert "".join(data["text"] for name, data in told if name == "delta") == result["text"]
    votes = [data for name, data in told if name == "vote"]
    assert [vote["done"] for vote in votes] == (list(range(1, 9)) if cct else [])
    assert told[0][1]["planned"] == (8 if cct else 1)
    assert result["system_fingerprint"] == told[0][1]["system_fingerprint"]


def test_a_stream_that_fails_before_its_first_event_keeps_its_status(policies: FakePolicies, api: FastAPI):
    policies.failure = Refused(503, "No replica.", code="overloaded", headers={"Retry-After": "1"})
    answer = diagnose(api, stream=True)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize(("status", "retry_after"), [(400, None), (503, "1")])
def test_what_the_engine_refuses_is_the_answer(
    policies: FakePolicies, api: FastAPI, status: int, retry_after: str | None
):
    refusal = Answer(status, b'{"error": {"message": "no", "type": "BadRequestError", "param": null, "code": 400}}')

    async def refuse(release: Release, body: dict[str, Any], top_logprobs: int = 0) -> Completed | Answer:
        return refusal

    async def refuse_to_stream(release: Release, body: dict[str, Any]) -> AsyncIterator[str | Completed | Answer]:
        yield refusal

    policies.rollout = policies.complete = refuse  # type: ignore[method-assign, assignment]
    policies.stream = policies.stream_rollout = refuse_to_stream  # type: ignore[method-assign, assignment]
    for answer in (
        *(diagnose(api, **asked) for asked in ({}, {"cct": True}, {"stream": True}, {"stream": True, "cct": True})),
        *(chat(api, **asked) for asked in ({}, {"stream": True}, {"model": "dermo+cct"})),
    ):
        assert (answer.status_code, answer.headers.get("retry-after")) == (status, retry_after)
        assert answer.json()["error"]["message"] == "no"


def test_a_stream_that_breaks_off_ends_with_an_error_and_counts_as_a_failure(policies: FakePolicies, api: FastAPI):
    async def break_off(release: Release, body: dict[str, Any]) -> AsyncIterator[str | Usage | Answer]:
        yield "data: {}\n\n"
        raise Refused(503, "The replica has failed.", code="replica_lost")

    policies.stream = break_off  # type: ignore[method-assign]
    first, last = (line for line in chat(api, stream=True).text.split("\n") if line)
    assert first == "data: {}"
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "replica_lost"
    assert failures(api) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_release_that_takes_too_long_has_failed(policies: FakePolicies, stream: bool):
    api = build_api(fake_service(policies, ("safety.request_timeout=0.3",)))

    async def never(release: Release, body: dict[str, Any]) -> Answer:
        await asyncio.sleep(60)
        raise AssertionError

    async def hang(release: Release, body: dict[str, Any]) -> AsyncIterator[str | Usage | Answer]:
        yield "data: {}\n\n"
        await asyncio.sleep(60)

    policies.complete, policies.stream = never, hang  # type: ignore[method-assign]
    answer = chat(api, stream=stream)
    assert (answer.status_code, "No answer within 0.3 s" in answer.text) == (200 if stream else 504, True)
    assert 'dermo_ray_requests_total{route="chat",state="promoted",status="504"} 1.0' in metrics(api)
    assert failures(api) == 1


def test_a_service_that_is_to_end_answers_what_it_has_taken_in_and_nothing_else(policies: FakePolicies):
    service = fake_service(policies)
    api = build_api(service)
    go_on = asyncio.Event()
    complete = policies.complete

    async def slow(release: Release, body: dict[str, Any]) -> Answer:
        await go_on.wait()
        return await complete(release, body)

    async def end() -> None:
        policies.complete = slow  # type: ignore[method-assign]
        transport = httpx.ASGITransport(api, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=BASE) as client:
            body = {"model": "dermo", "messages": [{"role": "user", "content": "?"}]}
            asked = asyncio.ensure_future(client.post("/v1/chat/completions", json=body))
            await asyncio.sleep(0.1)
            draining = asyncio.ensure_future(service.drain())
            await asyncio.sleep(0.1)
            late = await client.post("/v1/chat/completions", json=body)
            assert (late.status_code, late.json()["error"]["code"]) == (503, "stopping")
            assert late.headers["retry-after"] == "1"
            assert (await client.get("/readyz")).status_code == 503
            assert not draining.done()
            go_on.set()
            assert (await asked).status_code == 200
            await asyncio.wait_for(draining, 5)

    asyncio.run(end())


def test_news_of_the_catalogue_that_come_late_change_nothing():
    service = fake_service()
    before = service.catalogue
    service.follow(before.take(Release(label="step_000080", version=80)).promote("step_000080", 1))
    service.follow(before)
    assert service.catalogue.promoted == "step_000080"
    service.follow(before.model_copy(update={"session": "another"}))
    assert service.catalogue.promoted == "step_000060"


def test_chat_passes_the_body_on_as_it_is_and_the_answer_back(policies: FakePolicies, api: FastAPI):
    answer = chat(api, temperature=0.3, logit_bias={"5": 1})
    assert answer.json()["choices"][0]["message"]["content"] == completion("Melanoma")
    ((_, body),) = policies.asked
    assert (body["temperature"], body["logit_bias"]) == (0.3, {"5": 1})


def test_chat_streams_events_as_they_come(api: FastAPI):
    lines = [line for line in chat(api, stream=True).text.split("\n") if line]
    assert lines[-1] == "data: [DONE]"
    text = "".join(json.loads(line[6:])["choices"][0]["delta"]["content"] for line in lines[:-1])
    assert text == completion("Melanoma")


def test_chat_by_cct_answers_with_the_spokesman_and_its_votes(policies: FakePolicies, api: FastAPI):
    policies.write = by_seed
    answer = chat(api, model="dermo+cct").json()
    assert answer["choices"][0]["message"]["content"] == completion("Melanoma")
    assert answer["cct"]["answer"] == "Melanoma"
    # the text speaks of dermoscopy
    assert {view["name"] for view in answer["cct"]["views"]} >= {"even_light_half_turn"}
    streamed = chat(api, cct=True, stream=True, stream_options={"include_usage": True}).text
    chunks = [json.loads(line[6:]) for line in streamed.split("\n") if line.startswith("data: {")]
    assert chunks[0]["choices"][0]["delta"]["content"] == completion("Melanoma")
    assert chunks[1]["cct"]["planned"] == 8
    assert chunks[-1]["usage"]["total_tokens"] > 0


def test_chat_by_cct_reads_the_letter_of_a_multiple_choice(policies: FakePolicies, api: FastAPI):
    policies.write = lambda release, body: "B) Melanoma"
    answer = chat(api, cct={"options": {"A": "Nevus", "B": "Melanoma"}, "modality": "clinical"}).json()
    assert answer["cct"]["answer"] == "Melanoma"
    assert {view["name"] for view in answer["cct"]["views"]} >= {"light_crop"}
    refused = chat(api, cct={"options": {"A": "Nevus"}})
    assert refused.json()["error"]["param"] == "cct.options"


@pytest.mark.parametrize(
    ("changes", "status", "param"),
    [
        ({"model": "other"}, 404, "model"),
        ({"model": "dermo@step_000061"}, 404, "model"),
        ({"model": 3}, 400, "model"),
        ({"messages": "hello"}, 400, "messages"),
        ({"n": 17}, 400, "n"),
        ({"n": "17"}, 400, "n"),
        ({"stream": "yes"}, 400, "stream"),
        ({"cct": {"alpha": -1}}, 400, "cct.alpha"),
        ({"cct": True, "n": 2}, 400, "n"),
        ({"cct": True, "logprobs": True}, 400, "logprobs"),
        ({"temperature": 2.1}, 400, "temperature"),
        ({"temperature": "1"}, 400, "temperature"),
        ({"repetition_penalty": 0.01}, 400, "repetition_penalty"),
        ({"use_beam_search": True}, 400, "use_beam_search"),
        ({"allowed_token_ids": [3]}, 400, "allowed_token_ids"),
        ({"cct": True, "seed": -1}, 400, "seed"),
        ({"cct": True, "messages": [{"role": "user", "content": "no image"}]}, 400, "messages"),
    ],
)
def test_a_bad_chat_request_is_refused_in_openai_s_shape(
    api: FastAPI, policies: FakePolicies, changes: dict[str, Any], status: int, param: str
):
    answer = chat(api, **changes)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
    assert not policies.asked


@pytest.mark.parametrize(
    "changes", [{"image": "x"}, {"modality": "xray"}, {"extra": 1}, {"seed": -1}, {"max_tokens": 0}]
)
def test_a_bad_diagnosis_request_is_refused(api: FastAPI, policies: FakePolicies, changes: dict[str, Any]):
    answer = diagnose(api, **changes)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert not policies.asked


def test_openai_s_client_reads_answers_errors_and_models(api: FastAPI):
    async def ask() -> None:
        transport = httpx.ASGITransport(api)
        http = httpx.AsyncClient(transport=transport)
        async with openai.AsyncOpenAI(base_url=f"{BASE}/v1", api_key="none", http_client=http, max_retries=0) as client:
            content: Any = [{"type": "image_url", "image_url": {"url": picture()}}]
            messages: Any = [{"role": "user", "content": content}]
            answer = await client.chat.completions.create(model="dermo+cct", messages=messages)
            assert answer.choices[0].finish_reason == "stop"
            assert answer.model_extra is not None
            assert answer.model_extra["cct"]["answer"] == "Melanoma"
            assert [model.id async for model in client.models.list()][:2] == ["dermo", "dermo+cct"]
            with pytest.raises(openai.NotFoundError) as caught:
                await client.chat.completions.create(model="other", messages=messages)
            assert caught.value.code == "model_not_found"
            with pytest.raises(openai.BadRequestError):
                await client.chat.completions.create(model="dermo", messages=messages, n=99)

    asyncio.run(ask())


def test_checkpoints_are_pushed_promoted_compared_and_rolled_back_over_http(policies: FakePolicies, api: FastAPI):
    def order(name: str, **body: Any) -> httpx.Response:
        return call(api, "POST", f"/admin/{name}", json=body)

    assert order("push", folder="/runs/x/step_000080").json()["candidate"] == "step_000080"
    assert diagnose(api).json()["version"] == 60
    assert diagnose(api, model="dermo@step_000080").json()["version"] == 80
    assert order("canary", checkpoint="step_000080", share=1.0).json()["canary_share"] == 1
    assert diagnose(api).json()["version"] == 80
    assert order("promote", checkpoint="step_000080").json()["promoted"] == "step_000080"
    listing = call(api, "GET", "/admin/checkpoints").json()
    records = {release["checkpoint"]: release["record"] for release in listing["releases"]}
    assert (records["step_000060"]["answers"], records["step_000080"]["answers"]) == (1, 2)
    assert records["step_000080"]["mean_confidence"] == pytest.approx(0.905, abs=1e-3)
    back = call(api, "POST", "/admin/rollback").json()
    assert (back["promoted"], back["on_hold"]) == ("step_000060", True)
    assert diagnose(api, model="dermo@step_000080").status_code == 404


@pytest.mark.parametrize(
    ("name", "body", "status", "reason"),
    [
        ("promote", {"checkpoint": "step_000099"}, 409, "not held here"),
        ("rollback", {}, 409, "nothing to roll back to"),
        ("push", {"folder": "/runs/x/broken_000080"}, 409, "is damaged"),
        ("push", {}, 400, "`folder` is required"),
        ("canary", {"checkpoint": "step_000060", "share": 7}, 400, "share"),
    ],
)
def test_an_order_that_cannot_be_carried_out_says_why_and_changes_nothing(
    api: FastAPI, name: str, body: dict[str, Any], status: int, reason: str
):
    answer = call(api, "POST", f"/admin/{name}", json=body)
    assert (answer.status_code, reason in answer.json()["error"]["message"]) == (status, True)
    assert diagnose(api).json()["version"] == 60


def test_only_an_admin_key_may_give_orders(tmp_path: Path):
    file = tmp_path / "keys.yaml"
    keys = {role: add(file, role, role) for role in ("client", "admin")}
    api = build_api(fake_service(overrides=(f"safety.keys_file={file}",)))

    def status(role: str | None, path: str, method: str = "GET") -> int:
        headers = {"Authorization": f"Bearer {keys[role]}"} if role else {}
        return call(api, method, path, headers=headers).status_code

    assert [status(role, "/admin/checkpoints") for role in (None, "client", "admin")] == [401, 403, 200]
    assert [status(role, "/v1/models") for role in (None, "client")] == [401, 200]
    assert [status(role, "/metrics") for role in (None, "client")] == [401, 200]
    assert status(None, "/healthz") == 200
    assert status("client", "/admin/rollback", "POST") == 403


def metrics(api: FastAPI) -> str:
    return call(api, "GET", "/metrics").text


def failures(api: FastAPI) -> int:
    """Those of the one release."""
    (release,) = call(api, "GET", "/admin/checkpoints").json()["releases"]
    return release["record"]["failures"]


def test_metrics_count_requests_tokens_versions_swaps_and_cct(api: FastAPI):
    diagnose(api, cct=True)
    chat(api, model="other")
    call(api, "POST", "/admin/push", json={"folder": "/x/step_000080"})
    call(api, "POST", "/admin/promote", json={"checkpoint": "step_000080"})
    text = metrics(api)
    for line in (
        'dermo_ray_requests_total{route="diagnose",state="promoted",status="200"} 1.0',
        'dermo_ray_requests_total{route="chat",state="none",status="404"} 1.0',
        f'dermo_ray_tokens_total{{kind="prompt",state="promoted"}} {8 * PROMPT_TOKENS:.1f}',
        'dermo_ray_policy_version{state="promoted"} 80.0',
        "dermo_ray_swaps_total 1.0",
        'dermo_ray_cct_total{outcome="answered"} 1.0',
        "dermo_ray_cct_rollouts_total 8.0",
        'dermo_ray_requests_under_way{route="chat"} 0.0',
    ):
        assert line in text, line


def test_alive_and_ready_are_two_things(policies: FakePolicies, api: FastAPI):
    assert call(api, "GET", "/readyz").json() == {"status": "ready", "model": "dermo@step_000060", "version": 60}
    policies.failure = Refused(503, "No replica.", code="overloaded")
    assert call(api, "GET", "/readyz").status_code == 503
    assert call(api, "GET", "/healthz").json()["status"] == "ok"


def test_the_openapi_document_describes_what_is_answered(api: FastAPI):
    document = api.openapi()
    for path, method in {"/v1/diagnose": "post", "/v1/chat/completions": "post", "/v1/models": "get"}.items():
        assert method in document["paths"][path]
    schema = {"$ref": "#/components/schemas/DiagnoseResponse", "components": document["components"]}
    validate(diagnose(api, cct=True).json(), schema)
    request = {"$ref": "#/components/schemas/DiagnoseRequest", "components": document["components"]}
    validate({"image": picture(), "modality": "clinical", "cct": {"tau": 0.5}}, request)


def test_the_page_stands_at_the_root(api: FastAPI):
    answer = call(api, "GET", "/")
    assert answer.status_code == 200
    assert "text/html" in answer.headers["content-type"]


FEW = settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize(
    "path", ["/v1/diagnose", "/v1/chat/completions", "/admin/promote", "/admin/canary", "/admin/push"]
)
def test_no_request_made_from_the_openapi_document_makes_the_service_fail(tmp_path: Path, path: str):
    file = tmp_path / "keys.yaml"
    key = add(file, "fuzz", "admin")
    api = build_api(fake_service(overrides=(f"safety.keys_file={file}", "safety.requests_per_minute=null")))
    schema = schemathesis.openapi.from_asgi("/openapi.json", api)

    @given(case=schema[path]["POST"].as_strategy())
    @FEW
    def ask(case: Any) -> None:
        response = case.call(headers={"Authorization": f"Bearer {key}"})
        case.validate_response(response, checks=[not_a_server_error])

    ask()


def test_what_is_malformed_for_a_diagnosis_is_refused_by_the_real_routes_too(api: FastAPI, policies: FakePolicies):
    async def send() -> dict[str, str]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url=BASE) as client:
            return await throw(client, [malformed for malformed in requests() if malformed.path == "/v1/diagnose"])

    assert asyncio.run(send()) == {}
    assert not policies.asked
