"""Fake workers' processes, in the test's own: they answer, die, freeze and find no place as a test wants them to."""

import asyncio
from collections.abc import Callable
from typing import Any

from actors.hosting import Location, WorkerDied


class FakeHost:
    """Stands for a process that runs `worker`, whose methods are coroutines."""

    def __init__(self, number: int, worker: Any, placed: bool = True) -> None:
        self.number, self.worker = number, worker
        self.placed = asyncio.Event()
        if placed:
            self.placed.set()
        self.frozen = False
        self.alive = True
        self._death: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def locate(self) -> Location:
        await self._until_dead(self.placed.wait())
        return Location(f"node{self.number}", self.number)

    async def ask(self, method: str, arguments: tuple[Any, ...]) -> Any:
        return await self._until_dead(self._work(method, arguments))

    async def ping(self) -> None:
        await self._until_dead(self._work("", ()))

    def kill(self) -> None:
        self.die("it was killed")

    def die(self, reason: str = "signal 9") -> None:
        self.alive = False
        if not self._death.done():
            self._death.set_result(reason)

    async def last_words(self) -> str:
        return f"its last lines: farewell from {self.number}"

    async def _work(self, method: str, arguments: tuple[Any, ...]) -> Any:
        while self.frozen:
            await asyncio.sleep(0.001)
        answer = await getattr(self.worker, method)(*arguments) if method else None
        while self.frozen:
            await asyncio.sleep(0.001)
        return answer

    async def _until_dead(self, work: Any) -> Any:
        task = asyncio.ensure_future(work)
        await asyncio.wait({task, self._death}, return_when=asyncio.FIRST_COMPLETED)
        if self._death.done():
            task.cancel()
            raise WorkerDied(self._death.result())
        return task.result()


class FakeCluster:
    """Makes hosts of what `new_worker` gives; `room` of them find a place."""

    def __init__(self, new_worker: Callable[[], Any], room: int = 1000) -> None:
        self.new_worker, self.room = new_worker, room
        self.hosts: list[FakeHost] = []

    def __call__(self, *_: Any) -> FakeHost:
        placed = sum(host.alive for host in self.hosts) < self.room
        self.hosts.append(FakeHost(len(self.hosts) + 1, self.new_worker(), placed))
        return self.hosts[-1]

    def add_room(self, room: int) -> None:
        """As if nodes had joined."""
        self.room += room
        for host in [host for host in self.hosts if host.alive and not host.placed.is_set()][:room]:
            host.placed.set()
