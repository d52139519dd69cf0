"""The HTTP API: what an ingress serves, whatever stands behind it. Errors have the shape that OpenAI's clients know."""

import time
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serve import admin, completions, diagnose, page
from serve.admin import Order
from serve.catalogue import State
from serve.completions import ChatCCT
from serve.replies import NOTICE, DiagnoseRequest
from serve.safety.middleware import protect
from serve.service import Service


class ModelCard(BaseModel):
    """A name that can be asked for."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "dermo-ray"
    root: str
    """The checkpoint behind the name."""
    max_model_len: int
    version: int
    """Learner updates that it has seen."""
    state: State


class ModelList(BaseModel):
    """What `/v1/models` answers."""

    object: str = "list"
    data: list[ModelCard]


class Health(BaseModel):
    """Which policy answers to the bare name."""

    status: str
    model: str
    version: int


def build_api(service: Service) -> FastAPI:
    """The routes over `service`."""
    # no pages of FastAPI's: they load scripts from elsewhere
    api = FastAPI(title="DermoRay", version="1", description=NOTICE, docs_url=None, redoc_url=None)
    protect(api, service.config.safety)
    started = int(time.time())

    @api.get("/v1/models")
    async def models(request: Request) -> ModelList:
        """The names that can be asked for; one that ends in `+cct` asks several times."""
        service.identify(request)
        cards = [
            ModelCard(
                id=name,
                created=started,
                root=service.names.full(release),
                max_model_len=service.config.engine.max_model_len,
                version=release.version,
                state=service.catalogue.state(release.label),
            )
            for name, release in service.names.all(service.catalogue)
        ]
        return ModelList(data=cards)

    @api.get("/healthz")
    async def health() -> Health:
        """Whether this process is alive."""
        return _health(service, "ok")

    @api.get("/readyz")
    async def ready() -> Health:
        """Whether a replica could answer now; 503 where none can."""
        service.check_open()
        await service.policies.ready()
        return _health(service, "ready")

    @api.get("/metrics", response_class=Response)
    async def metrics(request: Request) -> Response:
        """Metrics of this process for Prometheus."""
        service.identify(request)
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    api.include_router(completions.router(service))
    api.include_router(diagnose.router(service))
    api.include_router(admin.router(service))
    api.include_router(page.router())
    api.openapi = lambda: _document(api)  # type: ignore[method-assign]
    return api


def _health(service: Service, status: str) -> Health:
    newest = service.catalogue.newest
    return Health(status=status, model=service.names.full(newest), version=newest.version)


def _document(api: FastAPI) -> dict[str, Any]:
    """FastAPI's document, and the bodies that the routes read themselves, within limits that FastAPI does not know."""
    if api.openapi_schema is None:
        document = get_openapi(title=api.title, version=api.version, description=api.description, routes=api.routes)
        bodies = [(model, "validation") for model in (DiagnoseRequest, ChatCCT, Order)]
        _, schemas = models_json_schema(bodies, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
        document.setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
        api.openapi_schema = document
    return api.openapi_schema
