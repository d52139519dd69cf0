"""A client of an OpenAI-compatible HTTP server.

Invariant: the key is read from the environment, sent to the server and written nowhere.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import openai
from openai.types.chat import ChatCompletion

from dermo_ray.asking.answers import Answer, AskFailed
from dermo_ray.config.asking import AskingSettings, EndpointSettings
from dermo_ray.errors import UserError

Chat = Callable[[Mapping[str, Any]], Awaitable[Answer]]
"""Takes the JSON body of a request. Raises `AskFailed` where it stays without an answer, and anything else where no
further request would be answered either."""
Complete = Callable[[Mapping[str, Any]], Awaitable[ChatCompletion]]
"""The same, with all that the server answered; there is at least one choice."""

_NO_KEY = "none"
"""Sent where a server asks for no key: the client insists on one."""
_DETAIL_CHARACTERS = 300
_REACHED_WITHIN = 10.0
"""Seconds."""


@asynccontextmanager
async def chat_client(endpoint: EndpointSettings, settings: AskingSettings, who: str) -> AsyncIterator[Chat]:
    """A client of `endpoint` for texts alone; see `completion_client`."""
    async with completion_client(endpoint, settings, who) as complete:

        async def chat(body: Mapping[str, Any]) -> Answer:
            completion = await complete(body)
            usage = completion.usage
            return Answer(
                completion.choices[0].message.content or "",  # a refusal has no content, and will fit no schema
                usage.prompt_tokens if usage else 0,
                usage.completion_tokens if usage else 0,
            )

        yield chat


@asynccontextmanager
async def completion_client(endpoint: EndpointSettings, settings: AskingSettings, who: str) -> AsyncIterator[Complete]:
    """A client of `endpoint`; messages call it `who`, such as "the teacher".

    It repeats rate limits, server errors, timeouts and lost connections after growing waits, or after those that the
    server names. Raises `UserError` where the environment lacks the key.
    """
    key = _key(endpoint, who)
    async with openai.AsyncOpenAI(
        base_url=endpoint.base_url, api_key=key, max_retries=settings.max_retries, timeout=settings.timeout
    ) as client:

        async def complete(body: Mapping[str, Any]) -> ChatCompletion:
            try:
                async with asyncio.timeout(settings.deadline):
                    return _checked(await client.post("/chat/completions", body=body, cast_to=ChatCompletion))
            except (TimeoutError, openai.APITimeoutError):
                limits = f"{settings.timeout:g} s for a request, {settings.deadline:g} s with repetitions"
                raise AskFailed("timeout", limits) from None
            except (openai.AuthenticationError, openai.NotFoundError) as error:
                # the server's own words are kept back: they may hold a part of the key
                raise UserError(_refusal(endpoint, who, error.status_code)) from None
            except openai.APIStatusError as error:
                raise AskFailed(f"http_{error.status_code}", _without(key, error)) from None
            except openai.APIError as error:
                raise AskFailed("connection", _without(key, error)) from None

        yield complete


def reach(endpoint: EndpointSettings, who: str) -> None:
    """Ask the server of `endpoint` which models it has, for any answer but a refusal of the key.

    Raises `UserError` where the environment lacks the key, the server refuses it, or none answers within seconds.
    """
    key = _key(endpoint, who)
    with openai.OpenAI(base_url=endpoint.base_url, api_key=key, max_retries=0, timeout=_REACHED_WITHIN) as client:
        try:
            client.models.list()
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise UserError(_refusal(endpoint, who, error.status_code)) from None
        except openai.APIConnectionError as error:
            raise UserError(
                f"{who} at {endpoint.base_url} does not answer ({_without(key, error)}): start it, correct base_url, "
                "or use the answers there are with budget_requests=0"
            ) from None
        except openai.APIError:  # it answers, if only that it lists no models
            return


def request_body(
    endpoint: EndpointSettings,
    content: str | list[dict[str, Any]],
    schema_name: str,
    schema: Mapping[str, Any],
    *,
    temperature: float,
    max_tokens: int,
) -> dict[str, Any]:
    """The JSON body of a request with one turn, `content`, that is to be answered in JSON under `schema`."""
    body = {
        "model": endpoint.model,
        "messages": [{"role": "user", "content": content}],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": schema_name, "strict": True, "schema": schema},
        },
        "temperature": temperature,
        "max_tokens": max_tokens,
    }
    return {name: value for name, value in (body | endpoint.extra_body).items() if value is not None}


def _key(endpoint: EndpointSettings, who: str) -> str:
    if endpoint.api_key_env is None:
        return _NO_KEY
    key = os.environ.get(endpoint.api_key_env)
    if not key:
        raise UserError(f"{who}'s key is missing: set the environment variable {endpoint.api_key_env}")
    return key


def _checked(completion: ChatCompletion) -> ChatCompletion:
    """What came back with status 200; servers send other things than completions with it, too."""
    if not isinstance(completion, ChatCompletion) or not completion.choices:
        raise AskFailed("no_completion", f"the server answered {str(completion)[:_DETAIL_CHARACTERS]}")
    return completion


def _refusal(endpoint: EndpointSettings, who: str, status: int) -> str:
    if status == 404:
        return f"{who} at {endpoint.base_url} has no model {endpoint.model} or no /chat/completions: check both"
    variable = endpoint.api_key_env or "api_key_env"
    return f"{who} at {endpoint.base_url} refuses the key (HTTP {status}): check {variable}"


def _without(key: str, error: openai.APIError) -> str:
    text = " ".join(str(error).split())
    return (text if key == _NO_KEY else text.replace(key, "[key]"))[:_DETAIL_CHARACTERS]
