"""A fake of the service: canned answers behind the real safety layer and the real page.

It takes the place of the application with its engines, and answers as that does. To look at the page without a model:
`python tests/fake_service.py`, then http://127.0.0.1:8000.
"""

import asyncio
import base64
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dermo_ray.cct import VIEWS, plan
from dermo_ray.completion import Completion, render
from dermo_ray.config.cct import CCTConfig
from dermo_ray.config.safety import SafetySettings
from dermo_ray.morphology import DERM7PT_FIELDS, Modality, Morphology
from dermo_ray.taxonomy import Taxonomy
from serve import page
from serve.safety.body import read_json
from serve.safety.errors import Refused, misfit
from serve.safety.images import Images
from serve.safety.keys import Caller, Keys
from serve.safety.middleware import protect
from serve.safety.rate import RateLimit

VERSION = {"dermo": 60, "dermo@step_000060": 60, "dermo@step_000080": 80}
NOTICE = "Research use only: not a medical device, gives no medical advice."
REASONING = {
    "dermoscopic": (
        "The lesion is asymmetric in two axes. Its pigment network is atypical, with broad lines that end abruptly at "
        "the border, and a blue-whitish veil covers part of the centre. Dots and globules are irregular in size and "
        "place. Together these point to a malignant melanocytic lesion."
    ),
    "clinical": (
        "A well demarcated plaque on the extensor surface is covered by silvery scale over an erythematous base. There "
        "is no crust, no erosion and no vesicle, so an inflammatory papulosquamous disease is likelier than an "
        "infection."
    ),
}
MORPHOLOGY = {
    "dermoscopic": dict(
        zip(
            DERM7PT_FIELDS,
            ("atypical", "present", "absent", "diffuse irregular", "absent", "irregular", "absent"),
            strict=True,
        )
    ),
    "clinical": ["Erythema", "Plaque", "Scale"],
}
VOTES = {
    "dermoscopic": ["Melanoma"] * 4 + ["Melanocytic Nevus", "Melanoma", None, "Seborrheic Keratosis"],
    "clinical": ["Psoriasis"] * 5 + ["Nummular Dermatitis", "Psoriasis", "Tinea Corporis"],
}
CONFIDENCES = (0.91, 0.84, 0.88, 0.79, 0.55, 0.82, 0.6, 0.47)


class DiagnoseRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    image: str
    modality: Modality
    model: str = Field(default="dermo", max_length=200)
    cct: bool | dict[str, Any] | None = None
    stream: bool = False
    max_tokens: int = Field(default=512, ge=1, le=4096)
    seed: int = Field(default=0, ge=0)
    view_images: bool = False


class ChatRequest(BaseModel):
    model_config = ConfigDict(extra="allow")

    model: str = Field(max_length=200)
    messages: list[dict[str, Any]] = Field(min_length=1)
    n: int = Field(default=1, ge=1, le=16)
    stream: bool = False


def fake_service(settings: SafetySettings | None = None, pause: float = 0.0) -> FastAPI:
    """The application; `pause` seconds lie between the events of a stream."""
    settings = settings or SafetySettings()
    api = FastAPI(title="DermoRay", docs_url=None, redoc_url=None)
    protect(api, settings)
    api.include_router(page.router())
    keys, rate, images = Keys.load(settings.keys_file), RateLimit(settings), Images(settings)

    def admitted(request: Request) -> Caller:
        caller = keys.caller(request.headers.get("authorization"))
        rate.admit(caller.name)
        return caller

    @api.get("/healthz")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @api.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        admitted(request)
        names = [name + cct for name in VERSION for cct in ("", "+cct")]
        return {"object": "list", "data": [card(name) for name in names]}

    @api.post("/v1/diagnose", openapi_extra=body_of(DiagnoseRequest), response_model=None)
    async def diagnose(request: Request) -> dict[str, Any] | StreamingResponse:
        admitted(request)
        asked = validated(DiagnoseRequest, await read_json(request, settings))
        model, cct = known(asked.model)
        picture = await images.open(asked.image)
        answer = diagnosis(asked, model, cct if asked.cct is None else asked.cct is not False, picture)
        if not asked.stream:
            return answer
        return StreamingResponse(events(answer, pause), media_type="text/event-stream")

    @api.post("/v1/chat/completions", openapi_extra=body_of(ChatRequest))
    async def chat(request: Request) -> dict[str, Any]:
        admitted(request)
        body = await read_json(request, settings)
        asked = validated(ChatRequest, body)
        model, _ = known(asked.model)
        pictures = await images.check_messages(body)
        message = {"role": "assistant", "content": f"{len(pictures)} images"}
        choices = [{"index": i, "finish_reason": "stop", "message": message} for i in range(asked.n)]
        return {"id": "chat-1", "object": "chat.completion", "created": 0, "model": model, "choices": choices}

    return api


def validated(model: type[BaseModel], body: dict[str, Any]) -> Any:
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise misfit(list(error.errors())) from None


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}}


def known(name: str) -> tuple[str, bool]:
    model = name.removesuffix("+cct")
    if model not in VERSION:
        served = ", ".join(VERSION)
        raise Refused(404, f"There is no such model. Served here: {served}.", code="model_not_found", param="model")
    return "dermo@step_000060" if model == "dermo" else model, name.endswith("+cct")


def card(name: str) -> dict[str, Any]:
    model = name.removesuffix("+cct")
    root = known(model)[0]
    state = "candidate" if VERSION[model] == 80 else "promoted"
    common = {"object": "model", "created": 0, "owned_by": "dermo-ray", "max_model_len": 1024}
    return {"id": name, "root": root, "version": VERSION[model], "state": state, **common}


def diagnosis(asked: DiagnoseRequest, model: str, cct: bool, picture: Image.Image) -> dict[str, Any]:
    modality, version = asked.modality, VERSION[model]
    if modality == "dermoscopic":
        morphology = Morphology.from_json({"morphological_features_Derm7pt": MORPHOLOGY[modality]})
        findings = [
            {"name": name, "value": value, "present": value != "absent"} for name, value in morphology.fields.items()
        ]
    else:
        morphology = Morphology.from_json({"morphological_features_skincon": MORPHOLOGY[modality]})
        findings = [{"name": name, "value": "present", "present": True} for name in sorted(morphology.features)]
    label = VOTES[modality][0]
    assert label is not None
    completion = Completion("task3", REASONING[modality], morphology, diagnosis=label)
    trace = votes(modality, asked.view_images, picture) if cct else None
    return {
        "id": "diag-1",
        "object": "diagnosis",
        "created": 1_760_000_000,
        "model": model,
        "version": version,
        "system_fingerprint": f"{model}/v{version}",
        "modality": modality,
        "diagnosis": label,
        "path": taxonomy().path(label),
        "confidence": posterior(trace)[0]["probability"] if trace else 0.91,
        "abstain": False,
        "posterior": posterior(trace) if trace else [{"label": label, "probability": 1.0}],
        "morphology": morphology.to_json(),
        "findings": findings,
        "reasoning": REASONING[modality],
        "text": render(completion),
        "faults": [],
        "cct": trace,
        "usage": {"prompt_tokens": 1480 if cct else 185, "completion_tokens": 1204, "total_tokens": 2684},
        "seconds": 3.42,
        "notice": NOTICE,
    }


@cache
def taxonomy() -> Taxonomy:
    return Taxonomy.load()


def votes(modality: Modality, with_images: bool, picture: Image.Image) -> dict[str, Any]:
    draws = plan(CCTConfig(), modality, 0)
    total = sum(c for c, answer in zip(CONFIDENCES, VOTES[modality], strict=True) if answer)
    cast = [
        {
            "view": draw.view,
            "sample": draw.sample,
            "answer": answer,
            "confidence": confidence if answer else None,
            "weight": confidence / total if answer else 0.0,
            "text": "...",
        }
        for draw, answer, confidence in zip(draws, VOTES[modality], CONFIDENCES, strict=True)
    ]
    views = [
        {"name": name, "image": thumbnail(VIEWS[name](picture)) if with_images else None}
        for name in dict.fromkeys(draw.view for draw in draws)
    ]
    return {"planned": 8, "sampled": 8, "majority": VOTES[modality][0], "views": views, "votes": cast}


def thumbnail(picture: Image.Image) -> str:
    small = picture.copy()
    small.thumbnail((160, 160))
    file = BytesIO()
    small.save(file, "JPEG")
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def posterior(trace: dict[str, Any]) -> list[dict[str, Any]]:
    masses: dict[str, float] = {}
    for vote in trace["votes"]:
        if vote["answer"]:
            masses[vote["answer"]] = masses.get(vote["answer"], 0.0) + vote["weight"]
    falling = sorted(masses.items(), key=lambda item: -item[1])
    return [{"label": label, "probability": mass} for label, mass in falling]


async def events(answer: dict[str, Any], pause: float) -> AsyncIterator[str]:
    trace = answer["cct"]
    copied = ("id", "model", "version", "system_fingerprint", "modality", "notice")
    yield event("start", {name: answer[name] for name in copied} | {"planned": trace["planned"] if trace else 1})
    pieces = [answer["text"][start : start + 7] for start in range(0, len(answer["text"]), 7)]
    cast = list(trace["votes"]) if trace else []
    for number, piece in enumerate(pieces):
        await asyncio.sleep(pause)
        yield event("delta", {"text": piece})
        if cast and number % 8 == 7:
            yield vote_event(trace, cast.pop(0), len(cast))
    while cast:
        yield vote_event(trace, cast.pop(0), len(cast))
    yield event("result", answer)


def vote_event(trace: dict[str, Any], vote: dict[str, Any], left: int) -> str:
    shown = {name: vote[name] for name in ("view", "sample", "answer", "confidence")}
    return event("vote", shown | {"done": trace["planned"] - left, "planned": trace["planned"]})


def event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


@contextmanager
def running(api: FastAPI, port: int = 0) -> Iterator[str]:
    """A server of `api` on a port of its own for the body of a `with`; gives its address."""
    server = uvicorn.Server(uvicorn.Config(api, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert thread.is_alive(), "the server ended"
        assert time.monotonic() < deadline, "the server did not start within 20 s"
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


if __name__ == "__main__":
    with running(fake_service(pause=0.03), port=8000) as url:
        input(f"{url}; press Enter to stop\n")
