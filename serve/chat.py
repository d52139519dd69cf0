"""Chat completions by vLLM's own OpenAI classes, each answered by one release and stamped with it.

Invariants: every answer, each chunk of a stream included, says in `model` and `system_fingerprint` which release wrote
it; a request keeps its release to the end, and a release is unloaded only when no request uses it; the base model below
an adapter never answers in its place; tokens that training bans are never sampled.
"""

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any
from uuid import uuid4

from pydantic import ValidationError
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest, ChatCompletionResponse
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.models.protocol import BaseModelPath
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.renderers.online_renderer import OnlineRenderer

from actors.adapters import Adapter
from actors.engine import Engine
from dermo_ray.cct import decode_tokens
from serve.catalogue import Release
from serve.messages import Answer, Completed, Usage
from serve.naming import Names
from serve.safety.errors import misfit

_USAGE_ONLY = '"choices":[]'
"""In the event that holds the usage, and in no other: inside a text the quotes would be escaped."""
_GATHERING = 0.02
"""Seconds for which the events of a stream are gathered, after the first, before they are sent on together."""


class PolicyChat(OpenAIServingChat):
    """Answers chat completion requests, each with the release it names.

    The engine must hold the base model of all releases, of which `first` is one; those with an adapter are loaded by
    `hold`, or when they are asked for.
    """

    def __init__(self, engine: Engine, names: Names, first: Release) -> None:
        self.engine = engine
        self._names = names
        self._numbers = itertools.count(1)
        self._loading = asyncio.Lock()
        self._wanted: set[str] = set()
        self._checksums: dict[str, str] = {}
        self._in_use: Counter[str] = Counter()
        # below adapters the base model has no name that could be asked for
        base = names.full(first) if first.adapter is None else ""
        models = OpenAIServingModels(engine.llm, [BaseModelPath(base, str(engine.model.path))])
        super().__init__(
            engine.llm,
            models,
            "assistant",
            online_renderer=OnlineRenderer(
                engine.llm.model_config,
                engine.llm.renderer,
                request_logger=None,
                chat_template=None,
                chat_template_content_format="auto",
            ),
            request_logger=None,
            chat_template=None,
            chat_template_content_format="auto",
        )
        self.system_fingerprint = None  # vLLM's own, of the engine; answers carry that of the release

    @property
    def held(self) -> list[str]:
        """Full names of the adapters that are loaded."""
        return sorted(self.models.lora_requests)

    async def hold(self, release: Release) -> str:
        """Load `release` and keep it; returns the checksum of what was loaded."""
        await self._load(release)
        self._wanted.add(self._names.full(release))
        return release.checksum

    async def retain(self, releases: Collection[Release]) -> None:
        """Unload all but `releases`, each once no request uses it."""
        self._wanted = {self._names.full(release) for release in releases}
        await self._unload_unused()

    async def complete(self, release: Release, body: dict[str, Any]) -> Answer:
        """Answer a request that does not stream."""
        async with self._using(release):
            answer = await self._ask(release, body)
        if isinstance(answer, ChatCompletionResponse):
            answer.system_fingerprint = self._names.fingerprint(release)
            usage = Usage(answer.usage.prompt_tokens, answer.usage.completion_tokens or 0)
            return Answer(200, answer.model_dump_json().encode(), usage)
        assert isinstance(answer, ErrorResponse)
        return _refusal(answer)

    async def stream(self, release: Release, body: dict[str, Any]) -> AsyncIterator[str | Usage | Answer]:
        """Answer a request that streams: its events, gathered, and its usage; an `Answer` alone where there is none."""
        options = body.get("stream_options") or {}
        shows_usage = not isinstance(options, dict) or options.get("include_usage") is True
        asked = {} if shows_usage else {"stream_options": options | {"include_usage": True}}
        usage = Usage()
        async with self._using(release):
            events = await self._ask(release, body | asked)
            if isinstance(events, ErrorResponse):
                yield _refusal(events)
                return
            assert not isinstance(events, ChatCompletionResponse)
            stamp = json.dumps({"system_fingerprint": self._names.fingerprint(release)})[1:-1]
            async for together in _gathered(events):
                shown = []
                for event in together:
                    if _USAGE_ONLY in event:
                        counts = _chunk(event)["usage"]
                        usage = Usage(counts["prompt_tokens"], counts.get("completion_tokens", 0))
                        if not shows_usage:
                            continue
                    shown.append(_stamped(event, stamp))
                if shown:
                    yield "".join(shown)
        yield usage

    async def rollout(self, release: Release, body: dict[str, Any], top_logprobs: int) -> Completed | Answer:
        """One completion with its tokens."""
        asked = {"n": 1, "stream": False, "stream_options": None, "logprobs": True, "return_token_ids": True}
        async with self._using(release):
            answer = await self._ask(release, body | asked | {"top_logprobs": top_logprobs})
        if not isinstance(answer, ChatCompletionResponse):
            assert isinstance(answer, ErrorResponse)
            return _refusal(answer)
        choice = answer.choices[0]
        entries = choice.logprobs.content if choice.logprobs and choice.logprobs.content else []
        return self._completed(
            choice.message.content or "",
            list(choice.token_ids or []),
            [entry.logprob for entry in entries],
            [{top.token: top.logprob for top in entry.top_logprobs} for entry in entries] if top_logprobs else [],
            answer.usage.prompt_tokens,
            choice.finish_reason or "stop",
        )

    async def stream_rollout(self, release: Release, body: dict[str, Any]) -> AsyncIterator[str | Completed | Answer]:
        """One completion: its text as it is written, and the whole with its tokens at the end."""
        asked = {
            "n": 1,
            "stream": True,
            "logprobs": True,
            "top_logprobs": 0,
            "return_token_ids": True,
            "stream_options": {"include_usage": True},
        }
        texts: list[str] = []
        ids: list[int] = []
        logprobs: list[float] = []
        finish_reason, prompt_tokens = "stop", 0
        async with self._using(release):
            events = await self._ask(release, body | asked)
            if isinstance(events, ErrorResponse):
                yield _refusal(events)
                return
            assert not isinstance(events, ChatCompletionResponse)
            async for together in _gathered(events):
                before = len(texts)
                for event in together:
                    chunk = _chunk(event)
                    if "error" in chunk:
                        yield Answer(chunk["error"].get("code") or 500, json.dumps(chunk).encode())
                        return
                    prompt_tokens = (chunk.get("usage") or {}).get("prompt_tokens", prompt_tokens)
                    for choice in chunk.get("choices", ()):
                        texts.append(choice["delta"].get("content") or "")
                        ids += choice.get("token_ids") or []
                        entries = (choice.get("logprobs") or {}).get("content") or ()
                        logprobs += [entry["logprob"] for entry in entries]
                        finish_reason = choice.get("finish_reason") or finish_reason
                if written := "".join(texts[before:]):
                    yield written
        yield self._completed("".join(texts), ids, logprobs, [], prompt_tokens, finish_reason)

    def _completed(
        self,
        text: str,
        ids: list[int],
        logprobs: list[float],
        top_logprobs: list[dict[str, float]],
        prompt_tokens: int,
        finish_reason: str,
    ) -> Completed:
        # decoded here, where the tokenizer is: what an API calls a token's text need not add up to the whole
        tokens = decode_tokens(self.engine.processor.tokenizer.decode, ids) if ids else []
        return Completed(text, tokens, logprobs, top_logprobs, prompt_tokens, len(ids), finish_reason)

    async def _ask(
        self, release: Release, body: dict[str, Any]
    ) -> AsyncGenerator[str, None] | ChatCompletionResponse | ErrorResponse:
        if self.engine_client.errored:
            await asyncio.Event().wait()  # for the end of this process: the request is then asked again on another
        try:
            request = ChatCompletionRequest.model_validate(body)
            bias = {**(request.logit_bias or {}), **{str(token): bias for token, bias in self.engine.penalties.items()}}
            # a request id of the client's could be that of a request under way
            update = {"model": self._names.full(release), "logit_bias": bias, "request_id": uuid4().hex}
            return await self.create_chat_completion(request.model_copy(update=update))
        except ValidationError as error:
            refused = misfit(list(error.errors()))
            return self.create_error_response(refused.message, param=refused.param)
        except Exception as error:  # vLLM's classes answer what a client did wrong by raising it
            if self.engine_client.errored:
                return self.create_error_response(
                    "The engine has failed and is being replaced. Try again.",
                    err_type="ServiceUnavailableError",
                    status_code=HTTPStatus.SERVICE_UNAVAILABLE,
                )
            return self.create_error_response(error)

    @asynccontextmanager
    async def _using(self, release: Release) -> AsyncIterator[None]:
        """Count a request among the users of its release, which is loaded first if it is not."""
        name = self._names.full(release)
        await self._load(release)
        self._in_use[name] += 1
        try:
            yield
        finally:
            self._in_use[name] -= 1
            await self._unload_unused()

    async def _load(self, release: Release) -> None:
        name = self._names.full(release)
        if release.adapter is None or self._checksums.get(name) == release.checksum:
            return
        async with self._loading:
            if name not in self.models.lora_requests:
                adapter = Adapter(release.version, release.adapter, release.checksum)
                self.models.lora_requests[name] = await self.engine.add(name, next(self._numbers), adapter)
                self._checksums[name] = release.checksum
                # also where a request came first: a replica that was starting meanwhile was not told to hold it
                self._wanted.add(name)
            elif self._checksums[name] != release.checksum:
                raise RuntimeError(f"{name} still answers requests with other weights; try again")

    async def _unload_unused(self) -> None:
        for name in self.held:
            unused = name not in self._wanted and not self._in_use[name]
            if unused and (request := self.models.lora_requests.pop(name, None)) is not None:
                del self._checksums[name]
                await self.engine.remove(request)


def _refusal(error: ErrorResponse) -> Answer:
    return Answer(error.error.code, error.model_dump_json().encode())


def _chunk(event: str) -> dict[str, Any]:
    """The JSON of an event of vLLM's; that of the last one, which holds none, is empty."""
    data = event.removeprefix("data: ")
    chunk: dict[str, Any] = {} if data.startswith("[DONE]") else json.loads(data)
    return chunk


def _stamped(event: str, stamp: str) -> str:
    """An event with one more key, spliced in rather than parsed: there is an event for every token."""
    body, brace, end = event.rpartition("}")
    if not brace or event.startswith('data: {"error"'):
        return event
    return f"{body}, {stamp}}}{end}"


async def _gathered(events: AsyncIterator[str]) -> AsyncIterator[list[str]]:
    """The events, those together that come within `_GATHERING` seconds: each message between processes has its price.

    The first is sent on at once.
    """
    done = object()
    queue: asyncio.Queue[Any] = asyncio.Queue()

    async def fill() -> None:
        try:
            async for event in events:
                queue.put_nowait(event)
            queue.put_nowait(done)
        except Exception as error:  # handed to whoever reads, who is to fail of it
            queue.put_nowait(error)

    filling = asyncio.ensure_future(fill())
    try:
        first, ended = True, False
        while not ended:
            together = [await queue.get()]
            if not first:
                await asyncio.sleep(_GATHERING)
            first = False
            while not queue.empty():
                together.append(queue.get_nowait())
            *before, last = together
            ended = last is done or isinstance(last, Exception)
            if found := before if ended else together:
                yield found
            if isinstance(last, Exception):
                raise last
    finally:
        filling.cancel()
