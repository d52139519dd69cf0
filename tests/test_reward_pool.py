"""Groups whose reward can't be computed: tried again, then named with the prompt and the term."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_hosts import FakeCluster
from fake_pools import record, reward, sampled

from actors.interfaces import RewardError
from actors.messages import Group, Prompt, ScoredGroup
from actors.pool import Pool
from actors.reward import Rewards, reward_pool
from dermo_ray.config import RewardConfig
from dermo_ray.config.mavic import RewardPoolSettings
from dermo_ray.config.pools import PoolSettings
from dermo_ray.errors import UserError

GROUP = Group(Prompt(4, record(1)), 0, [7], [sampled(), sampled()])


class Scorer:
    """A worker that fails as often as the test says: by an error, or by taking too long."""

    def __init__(self, failures: list[str]) -> None:
        self.failures = failures

    async def start(self) -> None:
        return None

    async def score(self, group: Group) -> ScoredGroup:
        failure = self.failures.pop() if self.failures else None
        if failure == "error":
            raise UserError("the reward term tone failed: KeyError: 'x'")
        if failure == "late":
            await asyncio.sleep(60)
        return ScoredGroup(group, [reward(1.0, format=1.0) for _ in group.completions])


def score(failures: list[str]) -> ScoredGroup:
    async def run() -> ScoredGroup:
        new_worker: Callable[[], Any] = lambda: Scorer(failures)  # noqa: E731
        pool = Pool("reward", PoolSettings(workers=1), FakeCluster(new_worker), start_timeout=5)
        try:
            await pool.open()
            return await Rewards(pool, timeout=0.05).score(GROUP)
        finally:
            await pool.close()

    return asyncio.run(run())


@pytest.mark.parametrize("failures", [[], ["error"], ["late"]])
def test_a_group_that_can_be_scored_the_second_time_is(failures: list[str]) -> None:
    assert score(failures).group == GROUP


def test_a_term_that_fails_twice_is_named_with_the_prompt() -> None:
    with pytest.raises(RewardError, match=r"the group of prompt p001 \(index 4\) was not scored: the reward term tone"):
        score(["error", "error"])


def test_a_term_that_is_late_twice_is_named_with_the_prompt_and_the_worker() -> None:
    message = (
        r"prompt p001 \(index 4\) was not scored: reward worker 2 .* did not answer score within 0\.05 s, and neither"
    )
    with pytest.raises(RewardError, match=message):
        score(["late", "late"])


class OneAtATime:
    """A worker that scores one group after another, as a Ray actor does, each for as long as the test says."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.turn = asyncio.Lock()

    async def start(self) -> None:
        return None

    async def score(self, group: Group) -> ScoredGroup:
        async with self.turn:
            await asyncio.sleep(self.seconds)
        return ScoredGroup(group, [reward(1.0, format=1.0) for _ in group.completions])


def test_a_group_that_waits_behind_another_has_the_whole_deadline_to_itself() -> None:
    async def run() -> int:
        cluster = FakeCluster(lambda: OneAtATime(0.4))
        pool = reward_pool(RewardPoolSettings(), RewardConfig(), Path())
        pool._new_host = cluster
        try:
            await pool.open()
            rewards = Rewards(pool, timeout=0.7)
            await asyncio.gather(*(rewards.score(GROUP) for _ in range(3)))
        finally:
            await pool.close()
        return len(cluster.hosts)

    assert asyncio.run(run()) == 1


def test_a_late_group_is_late_at_its_own_deadline_though_others_wait_behind_it() -> None:
    async def run() -> float:
        pool = reward_pool(RewardPoolSettings(), RewardConfig(), Path())
        pool._new_host = FakeCluster(lambda: OneAtATime(60))
        try:
            await pool.open()
            rewards = Rewards(pool, timeout=0.1)
            began = asyncio.get_running_loop().time()
            late = await asyncio.gather(*(rewards.score(GROUP) for _ in range(2)), return_exceptions=True)
            assert all(isinstance(error, RewardError) for error in late)
            return asyncio.get_running_loop().time() - began
        finally:
            await pool.close()

    assert asyncio.run(run()) < 2
