"""Policy replicas and a manager without engines: canned completions behind the real routes."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from dermo_ray.completion import Completion, render
from dermo_ray.config.base import load
from dermo_ray.config.serve import ServeConfig
from dermo_ray.errors import UserError
from dermo_ray.morphology import DERM7PT_FIELDS, Morphology
from serve.catalogue import Catalogue, Release
from serve.messages import Answer, Completed, Usage
from serve.naming import Names
from serve.service import Service

NAMES = Names("dermo")
PROMPT_TOKENS = 90

Write = Callable[[Release, dict[str, Any]], str]


def completion(label: str, network: str = "atypical") -> str:
    """A faultless dermoscopic completion with this diagnosis."""
    fields = dict.fromkeys(DERM7PT_FIELDS, "absent") | {"Pigment Network": network}
    return render(
        Completion("task3", reasoning=f"The network is {network}.", morphology=Morphology("derm7pt", fields=fields),
                   diagnosis=label)
    )  # fmt: skip


def tokens_of(text: str) -> list[str]:
    return re.findall(r"\S+\s*|\s+", text)


class FakePolicies:
    """`Policies`: `write` makes each completion's text; every token has the same log-probability."""

    def __init__(self, write: Write = lambda release, body: completion("Melanoma"), logprob: float = -0.1) -> None:
        self.write = write
        self.logprob = logprob
        self.asked: list[tuple[Release, dict[str, Any]]] = []
        self.failure: Exception | None = None

    def _completed(self, release: Release, body: dict[str, Any]) -> Completed:
        self.asked.append((release, body))
        if self.failure is not None:
            raise self.failure
        text = self.write(release, body)
        tokens = tokens_of(text)
        return Completed(text, tokens, [self.logprob] * len(tokens), (), PROMPT_TOKENS, len(tokens))

    async def complete(self, release: Release, body: dict[str, Any]) -> Answer:
        done = self._completed(release, body)
        choice = {"index": 0, "message": {"role": "assistant", "content": done.text}, "finish_reason": "stop"}
        usage = Usage(done.prompt_tokens, done.completion_tokens)
        answer = self._identity(release) | {"object": "chat.completion", "choices": [choice], "usage": usage.to_json()}
        return Answer(200, json.dumps(answer).encode(), usage)

    async def stream(self, release: Release, body: dict[str, Any]) -> AsyncIterator[str | Usage | Answer]:
        done = self._completed(release, body)
        for token in done.tokens:
            choice = {"index": 0, "delta": {"content": token}, "finish_reason": None}
            chunk = self._identity(release) | {"object": "chat.completion.chunk", "choices": [choice]}
            yield f"data: {json.dumps(chunk)}\n\n"
        yield "data: [DONE]\n\n"
        yield Usage(done.prompt_tokens, done.completion_tokens)

    async def rollout(self, release: Release, body: dict[str, Any], top_logprobs: int) -> Completed | Answer:
        await asyncio.sleep(0)
        return self._completed(release, body)

    async def stream_rollout(self, release: Release, body: dict[str, Any]) -> AsyncIterator[str | Completed | Answer]:
        done = self._completed(release, body)
        for token in done.tokens:
            yield token
        yield done

    async def ready(self) -> None:
        if self.failure is not None:
            raise self.failure

    def _identity(self, release: Release) -> dict[str, Any]:
        names = {"model": NAMES.full(release), "system_fingerprint": NAMES.fingerprint(release)}
        return {"id": "chatcmpl-1", "created": 1} | names


class FakeReleases:
    """`Releases` over a catalogue in this process; whatever is pushed loads."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue

    async def push(self, folder: str) -> Catalogue:
        path = Path(folder)
        if "broken" in path.name:
            raise UserError(f"{path} is damaged: adapter/adapter_model.safetensors is not what was written")
        step = path.name.rpartition("_")[2]
        if not step.isdecimal():
            raise UserError(f"there is no checkpoint at {path}")
        release = Release(label=path.name, version=int(step), checksum=path.name)
        return self._now(self.catalogue.take(release))

    async def promote(self, label: str) -> Catalogue:
        return self._now(self.catalogue.promote(label, 1))

    async def roll_back(self) -> Catalogue:
        return self._now(self.catalogue.roll_back())

    async def pin(self, label: str) -> Catalogue:
        return self._now(self.catalogue.pin(label))

    async def unpin(self, label: str) -> Catalogue:
        return self._now(self.catalogue.unpin(label))

    async def canary(self, label: str, share: float) -> Catalogue:
        return self._now(self.catalogue.canary(label, share))

    def _now(self, catalogue: Catalogue) -> Catalogue:
        self.catalogue = catalogue
        return catalogue


def first_catalogue() -> Catalogue:
    """A service that holds `step_000060` alone."""
    return Catalogue.starting_with(Release(label="step_000060", version=60, checksum="60"), "test")


def fake_service(policies: FakePolicies | None = None, overrides: tuple[str, ...] = ()) -> Service:
    """A service over fakes; its API is `build_api(service)`."""
    config = load(ServeConfig, None, ["run=runs/none", *overrides])
    catalogue = first_catalogue()
    return Service(config, catalogue, policies or FakePolicies(), FakeReleases(catalogue))
