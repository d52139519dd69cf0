"""What an engine can't answer ends that request alone."""

import asyncio
import itertools
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.exceptions import VLLMValidationError
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from actors import engine
from actors.engine import Engine
from actors.messages import PromptRefused, Sampling


def generate(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask an engine whose vLLM raises `error`."""

    async def failing(*_: Any, **__: Any) -> Any:
        raise error
        yield

    monkeypatch.setattr(engine, "prompt_text", lambda processor, turns: "Name it.")
    made: Any = object.__new__(Engine)
    made.llm = SimpleNamespace(generate=failing)
    made.processor = SimpleNamespace(tokenizer=lambda text, **_: {"input_ids": [1]})
    made.penalties, made._end_of_turn = {}, 0
    made._in_use, made._request_ids, made._whole = Counter(), itertools.count(), None
    asyncio.run(made.generate("Name it.", [], Sampling()))


def test_a_prompt_that_vllm_refuses_is_told_from_an_engine_that_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PromptRefused, match="prompt is longer than the maximum"):
        generate(VLLMValidationError("the prompt is longer than the maximum"), monkeypatch)
    damaged = EngineGenerateError()
    damaged.__cause__ = ValueError("absolute aspect ratio must be smaller than 200")
    with pytest.raises(PromptRefused, match="aspect ratio"):
        generate(damaged, monkeypatch)
    with pytest.raises(EngineDeadError):
        generate(EngineDeadError(), monkeypatch)


def test_a_dead_engine_says_so_to_processes_that_have_no_vllm() -> None:
    async def dead() -> None:
        raise EngineDeadError()

    made: Any = object.__new__(Engine)
    made.llm = SimpleNamespace(check_health=dead)
    with pytest.raises(RuntimeError, match="EngineCore") as caught:
        asyncio.run(made.check_health())
    assert type(caught.value) is RuntimeError
