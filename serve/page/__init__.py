"""The web page of the service: plain files, sent with a policy that lets them load nothing from elsewhere.

Invariants: the page has no script in its HTML and makes no request but to the service it came from; what a model wrote
is shown as text; an image leaves the browser only when its user asks for a diagnosis.
"""

from collections.abc import Awaitable, Callable
from importlib import resources

from fastapi import APIRouter, Response

_FILES = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "service.js": "text/javascript; charset=utf-8",
    "result.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
"""The files below `/page/`, with their media types."""

HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "img-src 'self' blob: data:",  # the chosen file, and the views that a result holds
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-cache",
}
"""Sent with every file of the page."""


def router() -> APIRouter:
    """The routes `/` and `/page/...`; they need no key, and keep no state."""
    page = APIRouter(include_in_schema=False)

    @page.get("/")
    async def index() -> Response:
        return _file("index.html", "text/html; charset=utf-8")

    for name, kind in _FILES.items():
        page.add_api_route(f"/page/{name}", _endpoint(name, kind), methods=["GET"])
    return page


def _endpoint(name: str, kind: str) -> Callable[[], Awaitable[Response]]:
    async def send() -> Response:
        return _file(name, kind)

    return send


def _file(name: str, kind: str) -> Response:
    return Response(resources.files("serve.page").joinpath(name).read_bytes(), headers=HEADERS, media_type=kind)
