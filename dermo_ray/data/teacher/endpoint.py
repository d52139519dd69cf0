"""A teacher behind an OpenAI-compatible HTTP server.

Invariants: the key is read from the environment, sent to the server and written nowhere; a request's body depends on
the question, the picture and the settings alone.
"""

import asyncio
import base64
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
from openai.types.chat import ChatCompletion

from dermo_ray.config.teacher import EndpointSettings, TeacherSettings
from dermo_ray.data.teacher.ask import Answer, Ask, AskFailed, Picture
from dermo_ray.data.teacher.questions import Question
from dermo_ray.data.teacher.schema import decoding_schema
from dermo_ray.errors import UserError

_NO_KEY = "none"
"""Sent where a server asks for no key: the client insists on one."""
_DETAIL_CHARACTERS = 300


@asynccontextmanager
async def endpoint_teacher(settings: TeacherSettings) -> AsyncIterator[Ask]:
    """A client of `settings.endpoint`, which must be set. Raises `UserError` where the environment lacks the key.

    The client repeats rate limits, server errors, timeouts and lost connections after growing waits, or after those
    that the server names.
    """
    endpoint = settings.endpoint
    if endpoint is None:
        raise ValueError("the settings name no endpoint")
    key = _key(endpoint)
    async with openai.AsyncOpenAI(
        base_url=endpoint.base_url, api_key=key, max_retries=settings.max_retries, timeout=settings.timeout
    ) as client:

        async def ask(question: Question, picture: Picture, _repetition: int) -> Answer:
            body = request_body(question, picture, settings)
            try:
                async with asyncio.timeout(settings.deadline):
                    return _answer(await client.post("/chat/completions", body=body, cast_to=ChatCompletion))
            except (TimeoutError, openai.APITimeoutError):
                limits = f"{settings.timeout:g} s for a request, {settings.deadline:g} s with repetitions"
                raise AskFailed("timeout", limits) from None
            except (openai.AuthenticationError, openai.NotFoundError) as error:
                # the server's own words are kept back: they may hold a part of the key
                raise UserError(_refusal(endpoint, error.status_code)) from None
            except openai.APIStatusError as error:
                raise AskFailed(f"http_{error.status_code}", _without(key, error)) from None
            except openai.APIError as error:
                raise AskFailed("connection", _without(key, error)) from None

        yield ask


def request_body(question: Question, picture: Picture, settings: TeacherSettings) -> dict[str, Any]:
    """The JSON body of the request for one question."""
    assert settings.endpoint is not None
    url = f"data:{picture.media_type};base64,{base64.b64encode(picture.data).decode()}"
    schema = {"name": question.kind, "strict": True, "schema": decoding_schema(question.schema)}
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question.prompt}]
    body = {
        "model": settings.endpoint.model,
        "messages": [{"role": "user", "content": content}],
        "response_format": {"type": "json_schema", "json_schema": schema},
        "temperature": settings.temperature,
        "max_tokens": settings.max_tokens,
    }
    return {name: value for name, value in (body | settings.endpoint.extra_body).items() if value is not None}


def _key(endpoint: EndpointSettings) -> str:
    if endpoint.api_key_env is None:
        return _NO_KEY
    key = os.environ.get(endpoint.api_key_env)
    if not key:
        raise UserError(f"the teacher's key is missing: set the environment variable {endpoint.api_key_env}")
    return key


def _answer(completion: ChatCompletion) -> Answer:
    """Read what came back with status 200; servers send other things than completions with it, too."""
    if not isinstance(completion, ChatCompletion) or not completion.choices:
        raise AskFailed("no_completion", f"the server answered {str(completion)[:_DETAIL_CHARACTERS]}")
    usage = completion.usage
    return Answer(
        completion.choices[0].message.content or "",  # a refusal has no content, and will fit no schema
        usage.prompt_tokens if usage else 0,
        usage.completion_tokens if usage else 0,
    )


def _refusal(endpoint: EndpointSettings, status: int) -> str:
    if status == 404:
        return f"the teacher at {endpoint.base_url} has no model {endpoint.model} or no /chat/completions: check both"
    variable = endpoint.api_key_env or "api_key_env"
    return f"the teacher at {endpoint.base_url} refuses the key (HTTP {status}): check {variable}"


def _without(key: str, error: openai.APIError) -> str:
    text = " ".join(str(error).split())
    return (text if key == _NO_KEY else text.replace(key, "[key]"))[:_DETAIL_CHARACTERS]
