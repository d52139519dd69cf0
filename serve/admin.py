"""The routes under `/admin`, for keys with the role `admin`: list, push, promote, roll back, pin, and canaries."""

from typing import Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dermo_ray.errors import UserError
from serve.catalogue import Catalogue, State
from serve.safety.body import read_json
from serve.safety.errors import Refused, misfit
from serve.service import Service


class Order(BaseModel):
    """The body of an order; each takes what it needs."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    checkpoint: str | None = Field(default=None, max_length=256)
    """Label, such as `step_000040`: for `promote`, `pin`, `unpin` and `canary`."""
    folder: str | None = Field(default=None, max_length=4096)
    """Folder of a checkpoint that the cluster sees: for `push`."""
    share: float | None = Field(default=None, ge=0, le=1)
    """Share of the requests: for `canary`."""


class Listed(BaseModel):
    """A release and how it did."""

    checkpoint: str
    version: int
    state: State
    pinned: bool
    checksum: str
    record: dict[str, Any]
    """Counts and figures of this process since it began."""


class Listing(BaseModel):
    """What a service holds."""

    revision: int
    promoted: str
    previous: list[str]
    candidate: str | None
    canary_share: float
    on_hold: bool
    """After a rollback: new checkpoints wait for `promote`."""
    releases: list[Listed]
    refused: dict[str, str]
    """Why checkpoints were not taken."""


_ORDERS = {
    "push": ("folder",),
    "promote": ("checkpoint",),
    "rollback": (),
    "pin": ("checkpoint",),
    "unpin": ("checkpoint",),
    "canary": ("checkpoint", "share"),
}


def router(service: Service) -> APIRouter:
    """The routes over `service`."""

    async def check(request: Request) -> None:
        service.rate.admit(service.keys.admin(request.headers.get("authorization")).name)

    routes = APIRouter(prefix="/admin", dependencies=[Depends(check)])

    @routes.get("/checkpoints")
    async def checkpoints() -> Listing:
        """What is held, what answers, how each did, and what was refused."""
        return _listing(service, service.catalogue)

    for name in _ORDERS:
        _add_order(routes, service, name)
    return routes


def _add_order(routes: APIRouter, service: Service, name: str) -> None:
    schema = {"$ref": "#/components/schemas/Order"}
    body = {"requestBody": {"required": bool(_ORDERS[name]), "content": {"application/json": {"schema": schema}}}}

    @routes.post(f"/{name}", name=name, summary=name.capitalize(), openapi_extra=body)
    async def order(request: Request) -> Listing:
        """Do it, and say what is held then; 409 with the reason where it can't be done, and nothing has changed."""
        try:
            asked = Order.model_validate(await read_json(request, service.config.safety) if _ORDERS[name] else {})
        except ValidationError as error:
            raise misfit(list(error.errors())) from None
        for field in _ORDERS[name]:
            if getattr(asked, field) is None:
                raise Refused(400, f"`{field}` is required.", code="invalid_value", param=field)
        try:
            catalogue = await _carry_out(service, name, asked)
        except UserError as error:
            cause = getattr(error, "cause", None) or error  # Ray wraps an exception of another process
            raise Refused(409, str(cause), code="refused") from None
        service.follow(catalogue)
        return _listing(service, catalogue)


async def _carry_out(service: Service, name: str, asked: Order) -> Catalogue:
    releases, label = service.releases, asked.checkpoint or ""
    if name == "push":
        return await releases.push(asked.folder or "")
    if name == "promote":
        return await releases.promote(label)
    if name == "rollback":
        return await releases.roll_back()
    if name == "pin":
        return await releases.pin(label)
    if name == "unpin":
        return await releases.unpin(label)
    return await releases.canary(label, asked.share or 0.0)


def _listing(service: Service, catalogue: Catalogue) -> Listing:
    releases = [
        Listed(
            checkpoint=label,
            version=release.version,
            state=catalogue.state(label),
            pinned=label in catalogue.pinned,
            checksum=release.checksum,
            record=service.comparison.summary(label),
        )
        for label, release in sorted(catalogue.releases.items())
    ]
    return Listing(
        revision=catalogue.revision,
        promoted=catalogue.promoted,
        previous=list(catalogue.previous),
        candidate=catalogue.candidate,
        canary_share=catalogue.canary_share,
        on_hold=catalogue.on_hold,
        releases=releases,
        refused=catalogue.refused,
    )
