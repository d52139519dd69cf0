"""Pools of real Ray actors: deaths, deadlines and what is left when a pool is closed."""

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray.exceptions import RayTaskError

from actors.crew import News
from actors.pool import Pool, PoolError, ray_pool
from dermo_ray.config.pools import PoolSettings

pytestmark = pytest.mark.usefixtures("ray_cluster")


def clerk_class() -> type:
    """A worker's class, made in a function so that Ray sends it by value: its processes can't import this module."""

    class Clerk:
        def __init__(self, folder: Path) -> None:
            self.folder = folder
            self.told: tuple[Any, ...] = ()
            (folder / f"clerk-{os.getpid()}").touch()

        def start(self, *told: Any) -> None:
            self.told = told
            if (self.folder / "refuse").exists():
                raise OSError("no desk")
            if (self.folder / "dawdle").exists():
                time.sleep(60)

        def work(self, number: int) -> tuple[int, tuple[Any, ...]]:
            return number, self.told

        def tell(self, news: str) -> str:
            self.told = (news,)
            return news

        def first(self, what: str) -> bool:
            try:
                (self.folder / what).touch(exist_ok=False)
            except FileExistsError:
                return False
            return True

        def die_once(self, number: int) -> int:
            """Ends its process the first time anybody calls it."""
            if self.first("died"):
                print("the desk is on fire", file=sys.stderr, flush=True)
                os._exit(1)
            return number

        def fail(self) -> None:
            raise ValueError("no such drawer")

        def say(self) -> int:
            return os.getpid()

        def leave(self) -> None:
            (self.folder / f"left-{os.getpid()}").touch()

    return Clerk


def with_pool(
    folder: Path,
    body: Callable[[Pool], Awaitable[Any]],
    workers: int = 2,
    start_timeout: float = 60,
    heartbeat: float = 60,
) -> Any:
    """Open a pool of clerks, let `body` use it, close it."""

    async def run() -> Any:
        settings = PoolSettings(workers=workers, cpus_per_worker=0.1, heartbeat=heartbeat)
        pool = ray_pool("clerk", settings, clerk_class(), (folder,), {"CLERK": "1"}, start_timeout)
        try:
            await pool.open()
            return await body(pool)
        finally:
            await pool.close(farewell="leave")

    return asyncio.run(run())


def none_left(folder: Path) -> bool:
    """Whether the process of every clerk that was built is gone within a few seconds: Ray ends them beside us."""
    processes = [int(path.name.removeprefix("clerk-")) for path in folder.glob("clerk-*")]
    deadline = time.monotonic() + 30
    while (left := any(map(psutil.pid_exists, processes))) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not left


async def told_by_all(pool: Pool) -> list[Any]:
    """What each worker has been told, once all of them are there."""
    while sum(worker.state == "ready" for worker in pool.workers) < pool.target:
        await asyncio.sleep(0.05)
    return [(await worker.host.ask("work", (0,)))[1] for worker in pool.workers]


def test_a_call_that_lost_its_worker_is_made_again_and_the_loss_is_told_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(pool: Pool) -> tuple[list[int], list[str], Any]:
        pool.start_arguments = ("policy 7",)
        answers = await asyncio.gather(*(pool.call("die_once", number, timeout=60) for number in range(4)))
        told = await told_by_all(pool)
        while not caplog.records:
            await asyncio.sleep(0.05)
        return list(answers), [worker.name for worker in pool.workers], told

    answers, names, told = with_pool(tmp_path, body)
    assert answers == [0, 1, 2, 3]
    assert names == [f"clerk worker {number}" for number in (1, 2, 3) if f"clerk worker {number}" in names]
    assert sorted(told) == [(), ("policy 7",)]
    (message,) = [record.getMessage() for record in caplog.records if "was lost" in record.getMessage()]
    assert re.match(r"clerk worker [12] \(pid \d+ on [\d.]+\) was lost: ", message)
    assert "its last lines: the desk is on fire" in message
    assert "calls are made again, another starts" in message
    assert none_left(tmp_path)


def test_what_all_workers_are_told_reaches_the_replacements_of_dead_ones(tmp_path: Path) -> None:
    async def body(pool: Pool) -> list[Any]:
        for worker in pool.workers:
            os.kill(worker.location.pid, signal.SIGKILL)
        await pool.tell(News("tell", ("policy 8",), 60, "policy 8"))
        return await told_by_all(pool)

    assert with_pool(tmp_path, body) == [("policy 8",)] * 2
    assert none_left(tmp_path)


def test_a_worker_that_freezes_is_replaced_while_the_others_go_on(tmp_path: Path) -> None:
    async def body(pool: Pool) -> tuple[list[int], list[str]]:
        frozen = pool.workers[0]
        os.kill(frozen.location.pid, signal.SIGSTOP)
        answers = await asyncio.gather(*(pool.call("work", number, timeout=60) for number in range(6)))
        return [number for number, _ in answers], [worker.name for worker in pool.workers]

    answers, names = with_pool(tmp_path, body, heartbeat=3)
    assert answers == list(range(6))
    assert "clerk worker 1" not in names
    assert none_left(tmp_path)


def test_a_worker_that_is_not_ready_in_time_is_named_and_none_stays(tmp_path: Path) -> None:
    (tmp_path / "dawdle").touch()

    async def body(pool: Pool) -> None:
        raise AssertionError("the pool must not open")

    with pytest.raises(PoolError, match=r"clerk worker [12] \(pid \d+ on [\d.]+\) was not ready within 4 s"):
        with_pool(tmp_path, body, start_timeout=4)
    assert none_left(tmp_path)


def test_a_worker_that_cannot_start_gives_its_reason_and_none_stays(tmp_path: Path) -> None:
    (tmp_path / "refuse").touch()

    async def body(pool: Pool) -> None:
        raise AssertionError("the pool must not open")

    with pytest.raises(OSError, match="no desk"):
        with_pool(tmp_path, body)
    assert none_left(tmp_path)


def test_an_error_in_a_call_is_the_callers_and_the_worker_lives_on(tmp_path: Path) -> None:
    async def body(pool: Pool) -> Any:
        with pytest.raises(ValueError, match="no such drawer") as caught:
            await pool.call("fail", timeout=60)
        assert isinstance(caught.value, RayTaskError)
        return await pool.call("work", 5, timeout=60), [worker.name for worker in pool.workers]

    assert with_pool(tmp_path, body, workers=1) == ((5, ()), ["clerk worker 1"])


def test_calls_are_spread_over_the_workers_and_all_of_them_are_told_to_leave(tmp_path: Path) -> None:
    async def body(pool: Pool) -> set[int]:
        # what calls at once is dealt out by how much each worker has to do
        return set(await asyncio.gather(*(pool.call("say", timeout=60) for _ in range(6))))

    processes = with_pool(tmp_path, body)
    assert len(processes) == 2
    assert {path.name for path in tmp_path.glob("left-*")} == {f"left-{process}" for process in processes}
    assert none_left(tmp_path)
