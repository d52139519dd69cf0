"""`POST /v1/chat/completions`: vLLM's protocol, passed on to a replica; and the same with CCT.

Invariant: what a client sends beyond the protocol of OpenAI and vLLM is the field `cct` alone.
"""

import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from PIL import Image
from pydantic import ValidationError

from dermo_ray.cct import Question, lettered_choice
from dermo_ray.morphology import Modality
from serve.catalogue import Release
from serve.inference import Asker, Body, CCTOptions, EngineRefused, usage_of
from serve.messages import Answer, Completed, Usage
from serve.replies import cct_reply
from serve.safety.errors import Refused, misfit
from serve.safety.messages import image_places
from serve.service import Service, Ticket

_EVENTS = "text/event-stream"
_RANGES = {"temperature": (0, 2), "repetition_penalty": (0.5, 2)}
"""Beyond these the penalty on tokens that training bans, which both of them scale, would no longer keep them away."""


class ChatCCT(CCTOptions):
    """CCT for a conversation, whose question the service can't know."""

    modality: Modality | None = None
    """Which views to show; by default dermoscopic ones where the text speaks of dermoscopy."""
    options: dict[str, str] | None = None
    """For a multiple choice: letter -> what it stands for. Without it the answer is read in `<final_diagnosis>`."""


_BODY = {
    "type": "object",
    "required": ["model", "messages"],
    "description": "As OpenAI's API and vLLM's take it; `cct` is ours.",
    "properties": {
        "model": {"type": "string"},
        "messages": {"type": "array", "items": {"type": "object"}, "minItems": 1},
        "stream": {"type": "boolean", "default": False},
        "n": {"type": "integer", "minimum": 1, "default": 1},
        "max_tokens": {"type": "integer", "minimum": 1},
        "temperature": {"type": "number", "minimum": 0, "maximum": 2},
        "seed": {"type": "integer"},
        "logprobs": {"type": "boolean"},
        "top_logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
        "stop": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
        "response_format": {"type": "object"},
        "cct": {"anyOf": [{"type": "boolean"}, {"$ref": "#/components/schemas/ChatCCT"}]},
    },
}


def router(service: Service) -> APIRouter:
    """The route over `service`."""
    routes = APIRouter()

    @routes.post(
        "/v1/chat/completions",
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": _BODY}}}},
        response_class=Response,
    )
    async def complete(request: Request) -> Response:
        """Answer a conversation about images, as OpenAI's API does."""
        with service.ticket("chat") as ticket:
            body = await service.admit(request)
            images = await service.images.check_messages(body)
            release, by_name = service.release_for(body.get("model"))
            ticket.release = release
            streams = _boolean(body, "stream")
            _check_choices(body, service.config.max_choices)
            _check_ranges(body)
            cct = _cct_of(body.pop("cct", None), by_name)
            if cct is not None:
                return await _complete_by_cct(service, ticket, release, body, images, cct, streams=streams)
            if streams:
                return await _stream(service, ticket, release, body)
            answer = await service.policies.complete(release, body)
            ticket.usage = answer.usage
            return ticket.answer(answer)

    return routes


async def _stream(service: Service, ticket: Ticket, release: Release, body: Body) -> Response:
    parts = service.policies.stream(release, body)
    first = await anext(parts)  # before it nothing is sent, so that an error keeps its status
    if isinstance(first, Answer):
        return ticket.answer(first)

    async def events() -> AsyncIterator[str]:
        if isinstance(first, str):
            yield first
        try:
            async for part in parts:
                if isinstance(part, Usage):
                    ticket.usage = part
                elif isinstance(part, str):
                    yield part
        except Refused as refused:  # the status is sent
            ticket.status = refused.status
            yield f"data: {json.dumps(refused.body())}\n\n"

    return StreamingResponse(ticket.over(events()), media_type=_EVENTS)


async def _complete_by_cct(
    service: Service,
    ticket: Ticket,
    release: Release,
    body: Body,
    images: list[Image.Image],
    cct: ChatCCT,
    *,
    streams: bool,
) -> Response:
    if len(images) != 1:
        message = f"CCT shows several views of one image; {len(images)} were sent."
        raise Refused(400, message, code="invalid_value", param="messages")
    for field, plain in {"logprobs": False, "top_logprobs": 0, "n": 1}.items():
        if body.get(field) not in (None, plain):
            raise Refused(400, f"`{field}` is not taken together with CCT.", code="invalid_value", param=field)
    config = cct.over(service.config.cct)
    seed = body.pop("seed", None)
    if not isinstance(seed, int | None) or (seed is not None and seed < 0):
        raise Refused(400, "`seed` must be an integer, at least 0.", code="invalid_value", param="seed")
    options = body.pop("stream_options", None)
    if body.get("max_tokens") is None and body.get("max_completion_tokens") is None:
        body["max_tokens"] = service.config.max_tokens
    asker = Asker(service.policies, release, _question(service, cct), service.config.max_side)
    modality = cct.modality or _modality_of(body)
    try:
        inference = await asker.ask(
            images[0], lambda url: _showing(body, url), config, cct=True, modality=modality, seed=seed or 0
        )
    except EngineRefused as refused:
        return ticket.answer(refused.answer)
    ticket.usage = usage_of(inference)
    reply = cct_reply(inference, config, None)
    service.metrics.inferred(reply, ticket.usage)
    shown = (inference.spokesman or inference.votes[0]).sample
    identity = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "created": int(time.time()),
        "model": service.names.full(release),
        "system_fingerprint": service.names.fingerprint(release),
    }
    finish_reason = shown.finish_reason if isinstance(shown, Completed) else "stop"
    if not streams:
        spoken = {"role": "assistant", "content": shown.text, "refusal": None}
        choice = {"index": 0, "message": spoken, "finish_reason": finish_reason, "logprobs": None}
        answer = identity | {"object": "chat.completion", "choices": [choice], "usage": ticket.usage.to_json()}
        return Response(json.dumps(answer | {"cct": reply.model_dump()}), media_type="application/json")
    chunk = identity | {"object": "chat.completion.chunk"}
    last = {"index": 0, "delta": {}, "finish_reason": finish_reason}
    text = {"index": 0, "delta": {"role": "assistant", "content": shown.text}, "finish_reason": None}
    chunks = [chunk | {"choices": [text]}, chunk | {"choices": [last], "cct": reply.model_dump()}]
    if isinstance(options, dict) and options.get("include_usage") is True:
        chunks.append(chunk | {"choices": [], "usage": ticket.usage.to_json()})
    events = [f"data: {json.dumps(part)}\n\n" for part in chunks]
    return Response("".join([*events, "data: [DONE]\n\n"]), media_type=_EVENTS)


def _question(service: Service, cct: ChatCCT) -> Question:
    if cct.options is None:
        return service.question
    if not 2 <= len(cct.options) <= 26 or not all(len(key) == 1 and "A" <= key <= "Z" for key in cct.options):
        message = "`cct.options` must give 2 to 26 options, each under a letter from A to Z."
        raise Refused(400, message, code="invalid_value", param="cct.options")
    return lettered_choice(cct.options)


def _cct_of(value: Any, by_name: bool) -> ChatCCT | None:
    """How to do CCT; None where a request is to be answered once."""
    if value is False or (value is None and not by_name):
        return None
    try:
        return ChatCCT.model_validate({} if value in (None, True) else value)
    except ValidationError as error:
        raise misfit([detail | {"loc": ("cct", *detail["loc"])} for detail in error.errors()]) from None


def _showing(body: Body, url: str) -> Body:
    """The request with its one image replaced by `url`."""
    shown: Body = json.loads(json.dumps(body | {"stream": False}))
    (place,) = image_places(shown)
    place.holder[place.key] = url
    return shown


def _modality_of(body: Body) -> Modality:
    contents = [message.get("content") for message in body["messages"]]
    texts = [part.get("text", "") for parts in contents if isinstance(parts, list) for part in parts]
    spoken = " ".join([*texts, *(content for content in contents if isinstance(content, str))]).lower()
    return "dermoscopic" if "dermoscop" in spoken or "dermatoscop" in spoken else "clinical"


def _boolean(body: Body, name: str) -> bool:
    value = body.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise Refused(400, f"`{name}` must be true or false.", code="invalid_value", param=name)


def _check_choices(body: Body, most: int) -> None:
    count = body.get("n")
    if count is not None and (not isinstance(count, int) or count > most):
        raise Refused(400, f"`n` must be an integer, {most} at most.", code="invalid_value", param="n")


def _check_ranges(body: Body) -> None:
    for field, (low, high) in _RANGES.items():
        value = body.get(field)
        if value is not None and not (isinstance(value, int | float) and low <= value <= high):
            message = f"`{field}` must be a number from {low:g} to {high:g}."
            raise Refused(400, message, code="invalid_value", param=field)
