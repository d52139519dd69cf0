"""Elastic pools over fake processes: growing, shrinking, losses, freezes, late answers, news and placement."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fake_hosts import FakeCluster

from actors.autoscale import Autoscaler
from actors.crew import News
from actors.pool import Pool, PoolError
from dermo_ray.config.pools import AutoscaleSettings, PoolSettings


class Clerk:
    """A worker whose calls last as long as the test says."""

    def __init__(self) -> None:
        self.news: list[str] = []
        self.calls: list[int] = []
        self.answers_wrongly = self.dawdles = False
        self.seconds = 0.0
        """That it takes to take news."""

    async def start(self) -> None:
        return None

    async def work(self, number: int, seconds: float = 0.0) -> tuple[int, str]:
        self.calls.append(number)
        await asyncio.sleep(seconds)
        return number, self.news[-1] if self.news else ""

    async def tell(self, news: str) -> str:
        self.news.append(news)
        answer = "nonsense" if self.answers_wrongly else news
        await asyncio.sleep(9 if self.dawdles else self.seconds)
        return answer

    async def fail(self) -> None:
        raise ValueError("no such drawer")


Body = Callable[[Pool, FakeCluster], Awaitable[Any]]


def with_pool(
    body: Body,
    workers: int = 2,
    slots: float = 4,
    heartbeat: float = 60.0,
    start_timeout: float = 5.0,
    cluster: Callable[[], FakeCluster] = lambda: FakeCluster(Clerk),
) -> Any:
    async def run() -> Any:
        hosts = cluster()
        settings = PoolSettings(workers=workers, heartbeat=heartbeat)
        pool = Pool("clerk", settings, hosts, start_timeout, slots)
        try:
            await pool.open()
            return await asyncio.wait_for(body(pool, hosts), 20)
        finally:
            await pool.close()
            assert not any(host.alive for host in hosts.hosts)

    return asyncio.run(run())


def news(policy: str, timeout: float = 5.0) -> News:
    return News("tell", (policy,), timeout, policy)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def ready(pool: Pool) -> int:
    return sum(worker.state == "ready" for worker in pool.workers)


def test_new_workers_take_from_the_queue_at_once() -> None:
    async def body(pool: Pool, hosts: FakeCluster) -> tuple[int, set[int]]:
        calls = [asyncio.ensure_future(pool.call("work", number, 0.05, timeout=5)) for number in range(12)]
        await asyncio.sleep(0.01)
        waiting = pool.queue
        pool.scale(3)
        await asyncio.gather(*calls)
        return waiting, {number for host in hosts.hosts[1:] for number in host.worker.calls}

    waiting, elsewhere = with_pool(body, workers=1)
    assert waiting == 8
    assert elsewhere == set(range(4, 12))


def test_a_draining_worker_finishes_its_calls_and_takes_no_more() -> None:
    async def body(pool: Pool, hosts: FakeCluster) -> list[Any]:
        calls = [asyncio.ensure_future(pool.call("work", number, 0.05, timeout=5)) for number in range(4)]
        await asyncio.sleep(0.01)
        pool.scale(1)
        assert sorted(worker.state for worker in pool.workers) == ["draining", "ready"]
        more = [asyncio.ensure_future(pool.call("work", number, timeout=5)) for number in range(4, 8)]
        answers = await asyncio.gather(*calls, *more)
        await until(lambda: len(pool.workers) == 1)
        return [number for number, _ in answers], [host.worker.calls for host in hosts.hosts]

    answers, calls = with_pool(body)
    assert answers == list(range(8))
    assert sorted(number for by_one in calls for number in by_one) == list(range(8))  # none was made again
    assert sorted(map(len, calls)) == [2, 6]


def test_a_worker_that_freezes_while_it_drains_is_noticed_and_its_calls_are_made_again() -> None:
    async def body(pool: Pool, hosts: FakeCluster) -> list[int]:
        calls = [asyncio.ensure_future(pool.call("work", number, 0.05, timeout=60)) for number in range(4)]
        await asyncio.sleep(0.01)
        pool.scale(1)
        (draining,) = [worker for worker in pool.workers if worker.state == "draining"]
        draining.host.frozen = True  # type: ignore[attr-defined]
        answers = await asyncio.gather(*calls)
        await until(lambda: len(pool.workers) == 1)
        return [number for number, _ in answers]

    assert with_pool(body, heartbeat=0.2) == list(range(4))


def test_a_worker_taken_away_now_hands_its_calls_back_before_those_that_came_later() -> None:
    async def body(pool: Pool, hosts: FakeCluster) -> list[int]:
        calls = [asyncio.ensure_future(pool.call("work", number, 0.05, timeout=5)) for number in range(10)]
        await asyncio.sleep(0.01)
        gone = set(hosts.hosts[1].worker.calls)
        pool.scale(1, now=True)
        answers = await asyncio.gather(*calls)
        assert [number for number, _ in answers] == list(range(10))
        made = hosts.hosts[0].worker.calls
        return [made.index(number) < made.index(9) for number in gone]

    assert all(with_pool(body))


@pytest.mark.parametrize("how", ["die", "freeze"])
def test_calls_of_a_lost_worker_are_made_again_and_another_takes_its_place(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(pool: Pool, hosts: FakeCluster) -> tuple[list[int], int]:
        calls = [asyncio.ensure_future(pool.call("work", number, 0.02, timeout=5)) for number in range(8)]
        await asyncio.sleep(0.01)
        if how == "die":
            hosts.hosts[0].die("a bolt of lightning")
        else:
            hosts.hosts[0].frozen = True
        answers = await asyncio.gather(*calls)
        await until(lambda: ready(pool) == 2)
        return [number for number, _ in answers], len(hosts.hosts)

    answers, started = with_pool(body, heartbeat=0.2)
    assert answers == list(range(8))
    assert started == 3
    reason = "a bolt of lightning" if how == "die" else "gave no sign of life within 0.2 s"
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"clerk worker 1 (pid 1 on node1) was lost: {reason}; its last lines: farewell from 1; its 4 calls are made "
        "again, another starts"
    ]


def test_the_first_answer_after_a_loss_that_is_told_is_that_of_the_worker_in_its_place(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def body(pool: Pool, hosts: FakeCluster) -> None:
        hosts.hosts[0].die()
        pool.scale(3)  # one more than the replacement
        await until(lambda: ready(pool) == 3)
        await asyncio.gather(*(pool.call("work", number, 0.01, timeout=5) for number in range(9)))

    with caplog.at_level("INFO", logger="actors"):
        with_pool(body, heartbeat=0.2)
    told = [record.getMessage() for record in caplog.records if "after the loss" in record.getMessage()]
    assert len(told) == 1
    # of those that had not answered before, worker 2 was there all along, and one came for the greater number
    assert told[0].startswith(("clerk worker 3 ", "clerk worker 4 "))


def test_a_call_that_is_late_twice_names_the_worker_and_what_it_was_asked() -> None:
    async def body(pool: Pool, hosts: FakeCluster) -> None:
        await pool.call("work", 1, 60.0, timeout=0.05)

    message = r"clerk worker 2 \(pid 2 on node2\) did not answer work within 0\.05 s, and neither did another before it"
    with pytest.raises(PoolError, match=message):
        with_pool(body)


def test_a_call_that_loses_every_worker_is_to_blame() -> None:
    class Fragile(Clerk):
        async def work(self, number: int, seconds: float = 0.0) -> tuple[int, str]:
            if number == 13:
                next(host for host in cluster[0].hosts if host.worker is self).die()
                await asyncio.sleep(60)
            return await super().work(number, seconds)

    cluster: list[FakeCluster] = []

    async def body(pool: Pool, hosts: FakeCluster) -> None:
        cluster.append(hosts)
        others = [asyncio.ensure_future(pool.call("work", number, 0.001, timeout=5)) for number in range(100, 1000)]
        try:
            await pool.call("work", 13, timeout=5)
        finally:
            for other in others:
                other.cancel()

    with pytest.raises(
        PoolError, match=r"work lost 5 workers of clerk, the last was clerk worker .*: signal 9; its last"
    ):
        with_pool(body, cluster=lambda: FakeCluster(Fragile), slots=2)


def test_a_pool_whose_workers_keep_dying_gives_up_and_every_call_says_so() -> None:
    async def body(pool: Pool, hosts: FakeCluster) -> None:
        async def reap() -> None:
            while True:
                for host in hosts.hosts:
                    host.die("no more memory")
                await asyncio.sleep(0.001)

        reaper = asyncio.ensure_future(reap())
        try:
            await asyncio.gather(*(pool.call("work", number, 1.0, timeout=5) for number in range(20)))
        finally:
            reaper.cancel()

    with pytest.raises(
        PoolError, match=r"clerk worker 7 .*died, as did 6 before it: no more memory|work lost 5 workers"
    ):
        with_pool(body)


def test_many_workers_that_are_lost_at_once_with_their_node_are_no_reason_to_give_up() -> None:
    async def body(pool: Pool, hosts: FakeCluster) -> int:
        calls = [asyncio.ensure_future(pool.call("work", number, 0.01, timeout=5)) for number in range(40)]
        await asyncio.sleep(0.005)
        for host in hosts.hosts:
            host.die("its node was lost")
        return len(await asyncio.gather(*calls))

    assert with_pool(body, workers=20) == 40


def test_news_reach_every_worker_before_it_takes_calls() -> None:
    async def body(pool: Pool, hosts: FakeCluster) -> list[str]:
        await pool.tell(news("policy 1"))
        pool.scale(4)
        hosts.hosts[0].die()
        await pool.tell(news("policy 2"))
        answers = await asyncio.gather(*(pool.call("work", number, 0.01, timeout=5) for number in range(40)))
        await until(lambda: ready(pool) == 4)
        assert all(host.worker.news[-1] == "policy 2" for host in hosts.hosts if host.alive)
        return sorted({news for _, news in answers})

    assert with_pool(body) == ["policy 2"]


def test_a_worker_that_takes_the_news_wrongly_is_replaced_and_a_second_one_ends_it() -> None:
    async def once(pool: Pool, hosts: FakeCluster) -> list[str]:
        hosts.hosts[0].worker.answers_wrongly = True
        await pool.tell(news("policy 1"))
        await until(lambda: ready(pool) == 2)
        return [worker.name for worker in pool.workers]

    assert with_pool(once) == ["clerk worker 2", "clerk worker 3"]

    async def twice(pool: Pool, hosts: FakeCluster) -> None:
        for host in hosts.hosts:
            host.worker.answers_wrongly = True
        await pool.tell(news("policy 1"))

    with pytest.raises(
        PoolError, match=r"clerk worker 2 \(pid 2 on node2\) answered tell with 'nonsense', not 'policy 1'"
    ):
        with_pool(twice)


def test_a_worker_that_is_late_to_take_the_news_is_replaced_and_a_second_one_ends_it() -> None:
    async def late(pool: Pool, hosts: FakeCluster, workers: int) -> int:
        for host in hosts.hosts[:workers]:
            host.worker.dawdles = True
        await pool.tell(news("policy 1", timeout=0.2))
        await until(lambda: ready(pool) == 2)
        return len(pool.workers)

    assert with_pool(lambda pool, hosts: late(pool, hosts, 1)) == 2
    with pytest.raises(PoolError, match=r"clerk worker \d \(pid \d on node\d\) did not answer tell within 0\.2 s"):
        with_pool(lambda pool, hosts: late(pool, hosts, 2))


def test_a_newcomer_is_told_what_is_made_for_it() -> None:
    async def body(pool: Pool, hosts: FakeCluster) -> list[list[str]]:
        asked = []

        async def newcomers() -> News:
            asked.append(1)
            return news(f"policy 1 for newcomer {len(asked)}")

        await pool.tell(news("policy 1"), newcomers)
        pool.scale(2)
        await until(lambda: ready(pool) == 2)
        hosts.hosts[0].die()
        await until(lambda: ready(pool) == 2 and len(hosts.hosts) == 3)
        return [host.worker.news for host in hosts.hosts]

    assert with_pool(body, workers=1, heartbeat=0.3) == [
        ["policy 1"],
        ["policy 1 for newcomer 1"],
        ["policy 1 for newcomer 2"],
    ]


def test_what_a_newcomer_could_not_take_is_forgotten_once_it_is_no_news_any_more() -> None:
    async def body(pool: Pool, hosts: FakeCluster) -> list[str]:
        pool.scale(2)
        await until(lambda: len(hosts.hosts) == 2)
        hosts.hosts[1].worker.answers_wrongly = True
        hosts.hosts[1].worker.seconds = 0.05
        await pool.tell(news("policy 1"))
        await until(lambda: hosts.hosts[1].worker.news == ["policy 1"])
        await pool.tell(news("policy 2"))
        hosts.hosts[1].worker.answers_wrongly = hosts.hosts[1].worker.seconds = 0
        await until(lambda: ready(pool) == 2)
        assert len(hosts.hosts) == 2
        found: list[str] = hosts.hosts[1].worker.news
        return found

    assert with_pool(body, workers=1)[-1] == "policy 2"


def test_a_worker_waits_for_its_place_until_a_node_joins() -> None:
    async def body(pool: Pool, hosts: FakeCluster) -> list[str]:
        pool.scale(4)
        await asyncio.sleep(0.05)
        before = [worker.state for worker in pool.workers]
        await pool.call("work", 1, timeout=5)
        hosts.add_room(2)
        await until(lambda: ready(pool) == 4)
        return before

    states = with_pool(body, cluster=lambda: FakeCluster(Clerk, room=2), start_timeout=0.5)
    assert states == ["ready", "ready", "placing", "placing"]


def test_a_pool_that_finds_no_place_says_what_it_needs() -> None:
    async def body(pool: Pool, hosts: FakeCluster) -> None:
        raise AssertionError("the pool must not open")

    with pytest.raises(PoolError, match=r"clerk worker 2 found no place within 0\.2 s: it needs 1 CPU"):
        with_pool(body, cluster=lambda: FakeCluster(Clerk, room=1), start_timeout=0.2)


def test_a_pool_that_has_lost_all_workers_and_gets_no_other_says_what_each_waits_for() -> None:
    async def body(pool: Pool, hosts: FakeCluster) -> None:
        hosts.room = 0
        for host in hosts.hosts:
            host.die("its node was lost")
        await pool.call("work", 1, timeout=5)

    message = r"no clerk worker was ready within 0\.3 s: clerk worker 3 waits for 1 CPU; clerk worker 4 waits for 1 CPU"
    with pytest.raises(PoolError, match=message):
        with_pool(body, start_timeout=0.3)


def test_a_pool_scaled_to_none_waits_until_it_is_scaled_up_again() -> None:
    async def body(pool: Pool, hosts: FakeCluster) -> Any:
        pool.scale(0)
        await until(lambda: not pool.workers)
        call = asyncio.ensure_future(pool.call("work", 1, timeout=5))
        await asyncio.sleep(0.5)
        assert not call.done()
        pool.scale(1)
        return await call

    assert with_pool(body, start_timeout=0.2) == (1, "")


def test_an_error_in_a_call_is_the_callers_and_the_worker_lives_on() -> None:
    async def body(pool: Pool, hosts: FakeCluster) -> int:
        with pytest.raises(ValueError, match="no such drawer"):
            await pool.call("fail", timeout=5)
        await pool.call("work", 1, timeout=5)
        return len(hosts.hosts)

    assert with_pool(body) == 2


def test_a_call_that_is_cancelled_gives_its_place_back() -> None:
    async def body(pool: Pool, hosts: FakeCluster) -> Any:
        calls = [asyncio.ensure_future(pool.call("work", number, 60.0, timeout=90)) for number in range(6)]
        await asyncio.sleep(0.01)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert (pool.running, pool.queue) == (0, 0)
        return await asyncio.gather(*(pool.call("work", number, timeout=5) for number in range(4)))

    assert len(with_pool(body, workers=1, slots=2)) == 4


def test_the_autoscaler_grows_at_once_and_shrinks_to_what_would_have_done_all_along() -> None:
    autoscaler = Autoscaler(AutoscaleSettings(min_workers=1, max_workers=6, calls_per_worker=4, idle_seconds=60))
    assert autoscaler.wanted(workers=2, calls=17, now=0) == 5
    assert autoscaler.wanted(workers=5, calls=100, now=1) == 6
    assert autoscaler.wanted(workers=6, calls=4, now=10) == 6
    assert autoscaler.wanted(workers=6, calls=9, now=40) == 6
    assert autoscaler.wanted(workers=6, calls=0, now=69) == 6
    assert autoscaler.wanted(workers=6, calls=0, now=70) == 3
    assert autoscaler.wanted(workers=3, calls=12, now=71) == 3
    assert autoscaler.wanted(workers=3, calls=0, now=120) == 3
    assert autoscaler.wanted(workers=3, calls=0, now=180) == 1
