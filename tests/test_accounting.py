"""Accounts of time: shares that add up, whatever overlaps, and queues' mean lengths."""

import random

import pytest

from dermo_ray.accounting import Account, Accounts, Level


class Hands:
    """A clock that goes where it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_seconds_go_to_what_was_being_done() -> None:
    account = Account("staleness", now=0.0)
    account.change(2.0, busy=1.0)
    account.change(5.0, busy=0.0, wait="weights")
    assert account.close(6.0) == {"busy": 3.0, "staleness": 2.0, "weights": 1.0}
    assert account.close(8.0) == {"busy": 0.0, "weights": 2.0}


def test_a_pool_that_is_busy_in_part_waits_in_the_other_part() -> None:
    account = Account("concurrency", now=0.0)
    account.change(0.0, busy=0.25)
    assert account.close(8.0) == {"busy": 2.0, "concurrency": 6.0}


def test_a_new_name_for_the_wait_leaves_what_is_busy_alone() -> None:
    account = Account("rollout", now=0.0)
    account.change(0.0, busy=0.5)
    account.change(2.0, wait="reward")
    assert account.close(4.0) == {"busy": 2.0, "rollout": 1.0, "reward": 1.0}


def test_a_level_is_weighed_by_how_long_it_stood() -> None:
    level = Level(now=0.0)
    level.change(0.0, 4)
    level.change(1.0, 2)
    assert level.close(4.0) == pytest.approx((4 * 1 + 2 * 3) / 4)
    assert level.close(5.0) == 2
    assert level.close(5.0) == 2  # no time has passed


@pytest.mark.parametrize("seed", range(5))
def test_the_shares_of_every_pool_add_up_however_they_change(seed: int) -> None:
    draw, hands = random.Random(seed), Hands()
    accounts = Accounts({"rollout": "staleness", "learner": "rollout"}, ("ready",), hands)
    for _ in range(4):
        for _ in range(draw.randrange(1, 30)):
            hands.now += draw.expovariate(1.0)
            pool = draw.choice(["rollout", "learner"])
            accounts.pool(pool, draw.choice([None, 0.0, 0.5, 1.0]), draw.choice([None, "weights", "rollout"]))
        metrics = accounts.close()
        for pool in ("rollout", "learner"):
            shares = [value for name, value in metrics.items() if name.startswith(f"share/{pool}/")]
            assert sum(shares) == pytest.approx(1.0)
            assert min(shares) >= 0


def test_accounts_give_shares_of_wall_time_and_mean_lengths() -> None:
    hands = Hands()
    accounts = Accounts({"learner": "rollout"}, ("ready",), hands)
    hands.now += 3
    accounts.pool("learner", busy=1.0)
    accounts.queue("ready", 8)
    hands.now += 1
    assert accounts.close() == {"queue/ready": 2.0, "share/learner/busy": 0.25, "share/learner/rollout": 0.75}
