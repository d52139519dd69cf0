"""Which releases a replica keeps loaded."""

import asyncio
import itertools
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from actors.adapters import Adapter
from serve.catalogue import Release
from serve.chat import PolicyChat
from serve.naming import Names

OLD, NEW = (Release(label=f"step_{n:06d}", version=n, adapter=Path(f"/{n}"), checksum=str(n)) for n in (7, 8))


class Engine:
    def __init__(self) -> None:
        self.added: list[str] = []

    async def add(self, name: str, number: int, adapter: Adapter) -> SimpleNamespace:
        await asyncio.sleep(0)
        if adapter.checksum == "broken":
            raise RuntimeError("the engine did not take it")
        self.added.append(name)
        return SimpleNamespace(lora_name=name, lora_int_id=number)

    async def remove(self, request: SimpleNamespace) -> None:
        await asyncio.sleep(0)


@pytest.fixture
def chat() -> PolicyChat:
    """As it is once vLLM's part is set up."""
    made = PolicyChat.__new__(PolicyChat)
    made.engine = Engine()  # type: ignore[assignment]
    made.models = SimpleNamespace(lora_requests={})  # type: ignore[assignment]
    made._names, made._numbers, made._loading = Names("tiny"), itertools.count(1), asyncio.Lock()
    made._wanted, made._checksums, made._in_use = set(), {}, Counter()
    return made


def test_a_release_is_unloaded_once_no_request_uses_it(chat: PolicyChat):
    async def swap() -> None:
        await chat.hold(OLD)
        async with chat._using(OLD):
            await chat.hold(NEW)
            await chat.retain([NEW])
            assert chat.held == ["tiny@step_000007", "tiny@step_000008"]
        assert chat.held == ["tiny@step_000008"]

    asyncio.run(swap())


def test_a_replica_that_was_not_told_of_a_release_loads_it_with_its_first_request_and_keeps_it(chat: PolicyChat):
    async def ask() -> None:
        await chat.hold(OLD)
        for _ in range(3):
            async with chat._using(NEW):
                pass
        assert chat.engine.added == ["tiny@step_000007", "tiny@step_000008"]  # type: ignore[attr-defined]
        await chat.retain([OLD])
        assert chat.held == ["tiny@step_000007"]

    asyncio.run(ask())


def test_a_release_that_can_not_be_loaded_leaves_the_others_alone(chat: PolicyChat):
    async def load() -> None:
        await chat.hold(OLD)
        with pytest.raises(RuntimeError):
            await chat.hold(NEW.model_copy(update={"checksum": "broken"}))
        assert chat.held == ["tiny@step_000007"]

    asyncio.run(load())
