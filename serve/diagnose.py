"""`POST /v1/diagnose`: an image in; morphology, reasoning, diagnosis, posterior, views and votes out."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from PIL import Image
from pydantic import ValidationError

from dermo_ray.cct import Sample, plan
from dermo_ray.cct.views import Draw
from dermo_ray.config.cct import CCTConfig
from dermo_ray.prompts import IMAGE_PLACEHOLDER, prompt
from serve.catalogue import Release
from serve.inference import Asker, Body, CCTOptions, EngineRefused, usage_of
from serve.replies import NOTICE, DiagnoseRequest, DiagnoseResponse, cct_reply, diagnosis_reply
from serve.safety.errors import Refused, misfit
from serve.service import Service, Ticket


def router(service: Service) -> APIRouter:
    """The route over `service`."""
    routes = APIRouter()

    @routes.post(
        "/v1/diagnose",
        response_model=DiagnoseResponse,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/DiagnoseRequest"}}},
            }
        },
        responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
    )
    async def diagnose(request: Request) -> Response:
        """Look at an image of skin: first its morphology, then a diagnosis that follows from it."""
        with service.ticket("diagnose") as ticket:
            asked = _parse(await service.admit(request))
            release, by_name = service.release_for(service.config.name if asked.model is None else asked.model)
            ticket.release = release
            image = await service.images.open(asked.image)
            diagnosing = Diagnosing(service, ticket, release, asked, image, cct=_wants_cct(asked, by_name))
            try:
                if asked.stream:
                    events = await diagnosing.begin()
                    return StreamingResponse(ticket.over(events), media_type="text/event-stream")
                response = await diagnosing.answer(None)
            except EngineRefused as refused:
                return ticket.answer(refused.answer)
            return JSONResponse(response.model_dump())

    return routes


class Diagnosing:
    """One diagnosis under way; as a watcher it turns what happens into events."""

    def __init__(
        self,
        service: Service,
        ticket: Ticket,
        release: Release,
        asked: DiagnoseRequest,
        image: Image.Image,
        *,
        cct: bool,
    ) -> None:
        self._service = service
        self._ticket = ticket
        self._release = release
        self._asked = asked
        self._image = image
        self._cct = cct
        options = asked.cct if isinstance(asked.cct, CCTOptions) else CCTOptions()
        self._config: CCTConfig = options.over(service.config.cct)
        self._planned = len(plan(self._config, asked.modality, asked.seed)) if cct else 1
        self._votes = 0
        self._events: asyncio.Queue[str | None] = asyncio.Queue()
        self._identity = {
            "id": f"diag-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": service.names.full(release),
            "version": release.version,
            "system_fingerprint": service.names.fingerprint(release),
        }

    async def answer(self, watcher: "Diagnosing | None") -> DiagnoseResponse:
        """The response. Raises `EngineRefused` and `Refused`."""
        service, asked = self._service, self._asked
        asker = Asker(service.policies, self._release, service.question, service.config.max_side)
        inference = await asker.ask(
            self._image,
            self._body,
            self._config,
            cct=self._cct,
            modality=asked.modality,
            seed=asked.seed,
            watcher=watcher,
        )
        usage = self._ticket.usage = usage_of(inference)
        cct = None
        if self._cct:
            shown = self._image if asked.view_images else None
            cct = await asyncio.to_thread(cct_reply, inference, self._config, shown)
            service.metrics.inferred(cct, usage)
        response = diagnosis_reply(
            inference,
            service.taxonomy,
            cct=cct,
            identity=self._identity,
            modality=asked.modality,
            seconds=self._ticket.seconds,
        )
        service.comparison.diagnosed(
            self._release.label,
            response.confidence,
            abstained=response.abstain,
            faultless=not response.faults,
        )
        return response

    async def begin(self) -> AsyncIterator[str]:
        """The events of the streamed variant; what is wrong before the first of them is raised."""
        answering = asyncio.ensure_future(self.answer(self))
        answering.add_done_callback(lambda _: self._events.put_nowait(None))
        try:
            first = await self._events.get()
        except BaseException:
            answering.cancel()
            raise
        if first is None and (error := answering.exception()) is not None:
            raise error
        return self._until_done(answering, first)

    async def _until_done(self, answering: "asyncio.Task[DiagnoseResponse]", first: str | None) -> AsyncIterator[str]:
        start = {name: self._identity[name] for name in ("id", "model", "version", "system_fingerprint")}
        yield _event("start", start | {"modality": self._asked.modality, "planned": self._planned, "notice": NOTICE})
        try:
            event = first
            while event is not None:
                yield event
                event = await self._events.get()
            yield self._last(answering)
        finally:
            answering.cancel()  # where the client has left; it is done otherwise

    def _last(self, answering: "asyncio.Task[DiagnoseResponse]") -> str:
        error = answering.exception()
        if error is None:
            return _event("result", answering.result().model_dump())
        if isinstance(error, EngineRefused):
            self._ticket.status = error.answer.status
            return _event("error", json.loads(error.answer.content))
        if isinstance(error, Refused):
            self._ticket.status = error.status
            return _event("error", error.body())
        raise error

    def wrote(self, text: str) -> None:
        """See `Watcher`."""
        self._events.put_nowait(_event("delta", {"text": text}))

    def voted(self, draw: Draw, sample: Sample) -> None:
        """See `Watcher`."""
        if not self._cct:
            return
        self._votes += 1
        rollout = self._service.question.read(sample)
        vote = {
            "view": draw.view,
            "sample": draw.sample,
            "answer": rollout.answer if rollout else None,
            "confidence": rollout.confidence if rollout else None,
            "done": self._votes,
            "planned": self._planned,
        }
        self._events.put_nowait(_event("vote", vote))

    def _body(self, url: str) -> Body:
        asked = prompt(self._service.config.prompts, "task3", self._asked.modality)
        text = asked.removeprefix(f"{IMAGE_PLACEHOLDER}\n")
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
        return {
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self._asked.max_tokens or self._service.config.max_tokens,
        }


def _parse(body: dict[str, Any]) -> DiagnoseRequest:
    try:
        return DiagnoseRequest.model_validate(body)
    except ValidationError as error:
        raise misfit(list(error.errors())) from None


def _wants_cct(asked: DiagnoseRequest, by_name: bool) -> bool:
    return by_name if asked.cct is None else asked.cct is not False


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
