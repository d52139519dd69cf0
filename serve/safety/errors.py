"""Refusals and failures in the shape that OpenAI's clients read.

Invariant: an answer to a bad request never holds what was in it, beyond names of fields.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
RETRY_AFTER = "1"
"""Seconds after which to try again where nobody can answer now."""
_SHOWN_ERRORS = 5
_MAX_NAME = 100


class Refused(Exception):
    """A request that is not let through: the HTTP `status`, and why.

    `code` is a stable word for programs, `param` names the field at fault, such as `messages[0].content[1]`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    @property
    def type(self) -> str:
        """OpenAI's word for the kind of error."""
        return _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")

    def body(self) -> dict[str, Any]:
        """The JSON to answer with."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> JSONResponse:
        """The answer."""
        return JSONResponse(self.body(), self.status, self.headers)


def unavailable(message: str, code: str) -> Refused:
    """Nobody can answer now (503); says when to try again, which OpenAI's clients do by themselves."""
    return Refused(503, message, code=code, headers={"Retry-After": RETRY_AFTER})


def answer_errors(api: FastAPI) -> None:
    """Have `api` answer every error in OpenAI's shape: refusals, unknown paths, fields that don't fit, failures."""
    api.add_exception_handler(Refused, _on_refusal)
    api.add_exception_handler(HTTPException, _on_http_error)
    api.add_exception_handler(RequestValidationError, _on_misfit)
    api.add_exception_handler(Exception, _on_failure)


async def _on_refusal(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refused)
    return error.response()


async def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    code = status.phrase.lower().replace(" ", "_")
    return Refused(status, str(error.detail), code=code, headers=error.headers).response()


async def _on_misfit(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return misfit(error.errors()).response()


def misfit(errors: Sequence[Any]) -> Refused:
    """The refusal for pydantic's list of `errors`: which fields, and why, without what stood there."""
    places = [".".join(str(part)[:_MAX_NAME] for part in error["loc"] if part != "body") for error in errors]
    # only pydantic's own words: those of a value error may repeat the value
    reasons = ["not as it must be" if error["type"] == "value_error" else error["msg"] for error in errors]
    shown = [f"{place or 'body'}: {reason}" for place, reason in zip(places, reasons, strict=True)][:_SHOWN_ERRORS]
    more = f"; and {len(errors) - _SHOWN_ERRORS} more" if len(errors) > _SHOWN_ERRORS else ""
    return Refused(400, "; ".join(shown) + more, code="invalid_value", param=places[0] or None)


async def _on_failure(request: Request, error: Exception) -> JSONResponse:
    # Starlette raises the error again after this answer, so that its traceback is logged
    return Refused(500, "The server failed to answer. Try again later.", code="internal_error").response()
