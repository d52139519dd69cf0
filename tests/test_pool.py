"""Pools of real Ray actors: deaths, deadlines and what is left when a pool is closed."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.exceptions import RayTaskError

from actors.pool import Pool, PoolError
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

        def tell(self, news: str) -> None:
            self.told = (news,)

        def die_once(self, number: int) -> int:
            """Ends its process the first time anybody calls it."""
            try:
                (self.folder / "died").touch(exist_ok=False)
            except FileExistsError:
                return number
            os._exit(1)

        def die(self) -> None:
            os._exit(1)

        def sleep(self, seconds: float) -> None:
            time.sleep(seconds)

        def fail(self) -> None:
            raise ValueError("no such drawer")

        def say(self) -> int:
            return os.getpid()

        def leave(self) -> None:
            (self.folder / f"left-{os.getpid()}").touch()

    return Clerk


def with_pool(folder: Path, body: Callable[[Pool], Awaitable[Any]], workers: int = 2, start_timeout: float = 60) -> Any:
    """Open a pool of clerks, let `body` use it, close it."""

    async def run() -> Any:
        settings = PoolSettings(workers=workers, cpus_per_worker=0.1)
        pool = Pool("clerk", settings, clerk_class(), (folder,), {"CLERK": "1"}, start_timeout)
        try:
            await pool.open()
            return await body(pool)
        finally:
            await pool.close(farewell="leave")

    return asyncio.run(run())


def none_left(folder: Path) -> bool:
    """Whether the process of every clerk that was built is gone within a few seconds: Ray ends them beside us."""
    processes = [int(path.name.removeprefix("clerk-")) for path in folder.glob("clerk-*")]
    deadline = time.monotonic() + 10
    while (left := any(map(psutil.pid_exists, processes))) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not left


def test_a_call_that_lost_its_worker_is_made_again_on_a_replacement(tmp_path: Path) -> None:
    async def body(pool: Pool) -> tuple[list[int], list[str], Any]:
        pool.start_arguments = ("policy 7",)
        answers = await asyncio.gather(*(pool.call("die_once", number, timeout=60) for number in range(4)))
        names = [worker.name for worker in pool.workers]
        told = await pool.broadcast("work", 0, timeout=60)
        return list(answers), names, told

    answers, names, told = with_pool(tmp_path, body)
    assert answers == [0, 1, 2, 3]
    assert len(names) == 2
    assert "clerk worker 3" in names
    assert sorted(arguments for _, arguments in told) == [(), ("policy 7",)]
    assert none_left(tmp_path)


def test_what_all_workers_are_told_reaches_the_replacements_of_dead_ones(tmp_path: Path) -> None:
    async def body(pool: Pool) -> tuple[list[Any], list[str]]:
        pool.start_arguments = ("policy 7",)
        calls = asyncio.gather(*(pool.call("die_once", number, timeout=60) for number in range(2)))
        while not any(worker.lost for worker in pool.workers):
            await asyncio.sleep(0.01)
        # one worker is being replaced, and nobody has noticed yet that the other one is dead as well
        ray.kill(next(worker.actor for worker in pool.workers if not worker.lost))
        await pool.broadcast("tell", "policy 8", timeout=60)
        assert sorted(await calls) == [0, 1]
        told = await pool.broadcast("work", 0, timeout=60)
        return told, sorted(worker.name for worker in pool.workers)

    told, names = with_pool(tmp_path, body)
    assert told == [(0, ("policy 8",))] * 2
    assert names == ["clerk worker 3", "clerk worker 4"]


def test_a_pool_whose_workers_keep_dying_gives_up_and_names_the_last(tmp_path: Path) -> None:
    async def body(pool: Pool) -> None:
        await pool.call("die", timeout=60)

    with pytest.raises(PoolError, match="clerk worker 4 died, as did 3 before it"):
        with_pool(tmp_path, body, workers=1)
    assert none_left(tmp_path)


def test_a_late_answer_names_the_worker_and_what_it_was_asked(tmp_path: Path) -> None:
    async def body(pool: Pool) -> None:
        await pool.call("sleep", 5, timeout=0.5)

    with pytest.raises(PoolError, match=r"clerk worker 1 did not answer sleep within 0\.5 s"):
        with_pool(tmp_path, body, workers=1)
    assert none_left(tmp_path)


def test_a_worker_that_is_not_ready_in_time_is_named_and_none_stays(tmp_path: Path) -> None:
    (tmp_path / "dawdle").touch()

    async def body(pool: Pool) -> None:
        raise AssertionError("the pool must not open")

    with pytest.raises(PoolError, match=r"clerk worker [12] was not ready within 4 s"):
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
