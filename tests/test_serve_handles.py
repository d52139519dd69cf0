import asyncio
from collections.abc import AsyncIterator, Generator
from typing import Any

import pytest
from ray.exceptions import RayActorError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from serve.catalogue import Release
from serve.handles import ReplicaPolicies
from serve.messages import Answer
from serve.safety.errors import Refused

RELEASE = Release(label="step_000020", version=20)
UNAVAILABLE = DeploymentUnavailableError(DeploymentID(name="policy", app_name="x"))
BUSY = BackPressureError(num_queued_requests=5, max_queued_requests=4)


class FakeMethod:
    """A method of a handle whose calls end as `outcomes` say, one after the other: an exception, or a result.

    `asyncio.sleep` stands for one that does not end.
    """

    def __init__(self, outcomes: list[Any]) -> None:
        self.outcomes = outcomes
        self.cancelled = 0

    def remote(self, *arguments: Any) -> Any:
        outcome = self.outcomes.pop(0)
        return self._parts(outcome) if isinstance(outcome, list) else self._result(outcome)

    def _result(self, outcome: Any) -> Any:
        method = self

        class Result:
            def __await__(self) -> Generator[Any, None, Any]:
                if outcome is asyncio.sleep:
                    yield from outcome(60).__await__()
                if isinstance(outcome, Exception):
                    raise outcome
                return outcome

            def cancel(self) -> None:
                method.cancelled += 1

        return Result()

    def _parts(self, outcome: list[Any]) -> Any:
        method = self

        class Parts:
            async def __aiter__(self) -> AsyncIterator[Any]:
                for part in outcome:
                    if isinstance(part, Exception):
                        raise part
                    yield part

            def cancel(self) -> None:
                method.cancelled += 1

        return Parts()


class FakeHandle:
    def __init__(self, outcomes: list[Any]) -> None:
        self.complete = self.stream = FakeMethod(outcomes)

    def options(self, **options: Any) -> "FakeHandle":
        return self


def complete(outcomes: list[Any]) -> Answer:
    return asyncio.run(ReplicaPolicies(FakeHandle(outcomes)).complete(RELEASE, {}))  # type: ignore[arg-type]


async def streamed(handle: FakeHandle) -> list[Any]:
    return [part async for part in ReplicaPolicies(handle).stream(RELEASE, {})]  # type: ignore[arg-type]


def test_a_request_whose_replica_dies_is_asked_again():
    answer = Answer(200, b"{}")
    assert complete([RayActorError(), RayActorError(), answer]) == answer
    with pytest.raises(Refused, match="has failed") as caught:
        complete([RayActorError()] * 3)
    assert (caught.value.status, caught.value.headers["Retry-After"]) == (503, "1")


@pytest.mark.parametrize("error", [UNAVAILABLE, BUSY])
def test_where_no_replica_has_room_the_client_is_told_to_come_back(error: Exception):
    with pytest.raises(Refused) as caught:
        complete([error])
    assert (caught.value.status, caught.value.code) == (503, "overloaded")


def test_a_stream_is_begun_again_while_nothing_of_it_was_sent():
    assert asyncio.run(streamed(FakeHandle([[RayActorError()], ["a", "b"]]))) == ["a", "b"]
    with pytest.raises(Refused):
        asyncio.run(streamed(FakeHandle([[BUSY]])))


def test_a_stream_that_breaks_off_is_not_begun_again():
    handle = FakeHandle([["a", RayActorError()], ["a", "b"]])
    with pytest.raises(Refused, match="has failed"):
        asyncio.run(streamed(handle))
    assert handle.stream.outcomes == [["a", "b"]]


def test_an_answer_that_nobody_waits_for_any_more_is_given_up():
    handle = FakeHandle([asyncio.sleep])

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await ReplicaPolicies(handle).complete(RELEASE, {})  # type: ignore[arg-type]

    asyncio.run(give_up())
    assert handle.complete.cancelled == 1


def test_a_client_that_leaves_ends_the_work():
    handle = FakeHandle([["a", "b"]])

    async def leave() -> None:
        parts = ReplicaPolicies(handle).stream(RELEASE, {})  # type: ignore[arg-type]
        await anext(parts)
        await parts.aclose()

    asyncio.run(leave())
    assert handle.stream.cancelled == 1
