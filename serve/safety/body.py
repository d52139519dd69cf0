"""A request's body: read within limits of size and time, and parsed into JSON that everything behind can hold.

Invariant: what `read_json` returns has no number that is not finite or wider than 64 bits, no text that is not Unicode,
no deeper nesting than `_MAX_DEPTH` and no more values than about `_MAX_VALUES`; each of these has made a server fail
further in, when it was least expected.
"""

import asyncio
import json
import math
from typing import Any, NoReturn

from fastapi import Request
from starlette.requests import ClientDisconnect

from dermo_ray.config.safety import SafetySettings
from serve.safety.errors import Refused

_MAX_DEPTH = 64
_MAX_VALUES = 200_000
"""Values that a body may hold: an empty list takes 3 bytes of JSON and 64 of memory. Counted by their separators."""
_INTEGERS = range(-(2**63), 2**63)


async def read_json(request: Request, settings: SafetySettings) -> dict[str, Any]:
    """The JSON object that `request` sends.

    Raises `Refused`: 413 for a body over the limit, by its announcement or by what came; 408 for one that does not
    arrive in time; 415 for another content type; 400 for anything but a JSON object.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # a browser sends no JSON to another site unasked, so that pages elsewhere can't use a service without keys
        raise Refused(415, "Send JSON, with `Content-Type: application/json`.", code="unsupported_media_type")
    body = parse(await _read(request, settings))
    if not isinstance(body, dict):
        raise _malformed("The body must be a JSON object.")
    return body


async def _read(request: Request, settings: SafetySettings) -> bytes:
    limit = settings.max_body_bytes
    announced = request.headers.get("content-length", "0")
    if not announced.isdecimal():
        raise _malformed("The header Content-Length must be a number.")
    if len(announced) > len(str(limit)) or int(announced) > limit:
        raise _too_large(settings)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(settings.body_timeout):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise _too_large(settings)
                chunks.append(chunk)
    except TimeoutError:
        message = f"The body did not arrive within {settings.body_timeout:g} s."
        raise Refused(408, message, code="request_timeout", headers={"Connection": "close"}) from None
    except ClientDisconnect:
        raise _malformed("The body broke off.") from None
    return b"".join(chunks)


def parse(body: bytes) -> Any:
    """`body` as JSON. Raises `Refused` (400) for what is no JSON or breaks the invariant."""
    if sum(body.count(mark) for mark in (b",", b"[", b"{")) > _MAX_VALUES:
        raise _malformed(f"The body holds more than {_MAX_VALUES:,} values.")
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except RecursionError:
        raise _too_deep() from None
    except ValueError:  # UnicodeDecodeError, JSONDecodeError, and numbers of thousands of digits
        raise _malformed("The body is not JSON in UTF-8.") from None
    _check(value)
    return value


def _check(value: Any) -> None:
    level = [value]
    for _ in range(_MAX_DEPTH):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.keys())
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
            elif isinstance(item, str):
                _check_text(item)
            elif isinstance(item, float) and not math.isfinite(item):  # 1e999 is infinite
                raise _malformed("Numbers must be finite.")
            elif isinstance(item, int) and item not in _INTEGERS:
                raise _malformed("Integers must fit into 64 bits.")
        if not below:
            return
        level = below
    raise _too_deep()


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell and nothing can encode
        raise _malformed("Text must be Unicode: a surrogate stands alone.") from None


def _no_constant(name: str) -> NoReturn:
    raise _malformed("Numbers must be finite.")


def _malformed(message: str) -> Refused:
    return Refused(400, message, code="invalid_json")


def _too_deep() -> Refused:
    return _malformed(f"The body is nested more than {_MAX_DEPTH} deep.")


def _too_large(settings: SafetySettings) -> Refused:
    # the connection stays open: closed with a part of the body unread, it would take the answer with it
    message = f"The body is larger than {settings.max_body_mib:g} MiB. Send a smaller image."
    return Refused(413, message, code="request_too_large")
