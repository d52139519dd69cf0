"""The viewer over HTTP: one page, its script and style, and what they ask for. It only reads.

Invariants: no answer lets a browser run or fetch anything from elsewhere, whatever a policy wrote; images come from the
prepared folder alone; on the loopback address only requests that name this machine are answered, so that no page from
elsewhere can read a run by a name of its own that leads here.
"""

from collections.abc import Awaitable, Callable
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles

from dermo_ray.errors import UserError
from dermo_ray.report.pictures import shrunk
from dermo_ray.rollouts import ScoredCompletion, read_prompt
from dermo_ray.taxonomy import Taxonomy
from dermo_ray.view import queries
from dermo_ray.view.curves import curves
from dermo_ray.view.differences import differences
from dermo_ray.view.explain import explained
from dermo_ray.view.index import RolloutIndex
from dermo_ray.view.run import run_settings
from dermo_ray.view.tokens import load_tokenizer

_STATIC = Path(str(resources.files("dermo_ray.view"))) / "static"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_IMAGE_SIDES = (160, 960)
"""Pixels of the longer side: in the list, and beside the completions."""

Call = Callable[[Request], Awaitable[Response]]


def build_app(run: Path, data: Path | None = None, host: str = "127.0.0.1") -> FastAPI:
    """The viewer of the run directory `run`; `data` is where the images are, if not where the run says.

    Raises `UserError` where `run` is no run directory, or its completions can't be read.
    """
    settings = run_settings(run)
    taxonomy = Taxonomy.load(settings.reward.taxonomy)
    images = (data or settings.data).resolve()
    index = RolloutIndex(run)
    index.refresh()
    app = FastAPI(title="DermoRay viewer", docs_url=None, redoc_url=None, openapi_url=None)
    local = host in _LOOPBACK or host.startswith("127.")

    @app.middleware("http")
    async def guard(request: Request, call_next: Call) -> Response:
        """Every answer carries the page's policy; a browser asks again each time, but for what can't change."""
        if local and request.url.hostname not in (*_LOOPBACK, host):
            return JSONResponse({"detail": f"ask for {host}: this page is for this machine alone"}, status_code=421)
        response = await call_next(request)
        response.headers.update(_HEADERS)
        response.headers.setdefault("Cache-Control", "no-cache")
        return response

    @app.exception_handler(UserError)
    async def say(request: Request, error: UserError) -> Response:
        return JSONResponse({"detail": str(error)}, status_code=409)

    @app.get("/")
    def page() -> Response:
        return FileResponse(_STATIC / "index.html")

    @app.get("/api/run")
    def overview() -> dict[str, Any]:
        """The run as it is now; a newer `revision` means that there are completions the page has not seen."""
        index.refresh()
        return {
            "name": run.name,
            "revision": index.revision,
            "settings": settings.shown,
            "steps": queries.steps(index),
            "choices": queries.choices(index),
        }

    @app.get("/api/groups")
    def groups(
        step: int | None = None,
        task: str | None = None,
        modality: str | None = None,
        label: str | None = None,
        fault: str | None = None,
        prompt: str = "",
        gated: bool = False,
        dropped: bool = False,
        order: str = "newest",
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        offset: Annotated[int, Query(ge=0)] = 0,
    ) -> dict[str, Any]:
        if order not in queries.ORDERS:
            raise HTTPException(422, f"no order {order!r}; there are {', '.join(queries.ORDERS)}")
        filters = queries.Filters(step, task, modality, label, fault, prompt, gated, dropped)
        return queries.groups(index, filters, order, limit, offset)

    def rows_of(step: int, prompt: str) -> list[ScoredCompletion]:
        name = queries.file_of(index, step, prompt)
        if name is None:
            raise HTTPException(404, f"step {step} has no completions of {prompt}")
        return sorted(read_prompt(index.folder / name, prompt), key=lambda row: row.sample)

    @app.get("/api/group")
    def group(step: int, prompt: str) -> dict[str, Any]:
        rows = rows_of(step, prompt)
        return {
            "step": step,
            "prompt_id": prompt,
            "image": rows[0].image,
            "history": queries.history(index, prompt),
            **explained(rows, settings.reward, taxonomy, load_tokenizer_once()),
        }

    @app.get("/api/differences")
    def compare(prompt: str, step: int, sample: int, other_step: int, other_sample: int) -> dict[str, Any]:
        """From completion `other_sample` of an earlier or later step to completion `sample` of `step`."""
        before, after = rows_of(other_step, prompt), rows_of(step, prompt)
        if other_sample >= len(before) or sample >= len(after):
            raise HTTPException(404, "there is no such completion")
        return {"runs": differences(before[other_sample].text, after[sample].text)}

    @app.get("/api/curves")
    def charts() -> list[dict[str, Any]]:
        return curves(run)

    @lru_cache(maxsize=1)
    def load_tokenizer_once() -> Any:
        return load_tokenizer(run)

    @lru_cache(maxsize=512)
    def picture(name: str, side: int) -> tuple[bytes, str]:
        return shrunk(images / name, side)

    @app.get("/image/{name:path}")
    def image(name: str, side: int = _IMAGE_SIDES[0]) -> Response:
        path = (images / name).resolve()
        if side not in _IMAGE_SIDES or not path.is_relative_to(images) or not path.is_file():
            raise HTTPException(404, f"no image {name} in {images}: give data=, the prepared folder")
        content, media_type = picture(name, side)
        # images are named by their content
        return Response(content, media_type=media_type, headers={"Cache-Control": "private, max-age=86400"})

    app.mount("/static", StaticFiles(directory=_STATIC), name="static")
    return app
