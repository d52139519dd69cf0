"""What `jobs.scale` asks of a live run's desk, prints, and refuses."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from fake_hosts import FakeCluster

from actors.learner_pool import LearnerPool
from actors.pool import Pool
from actors.steering import ADDRESS, NAMESPACE, Command, Desk, PoolState, RunState, Steering, WorkerState
from dermo_ray.config.pools import PoolSettings
from dermo_ray.config.scale import ScaleConfig
from dermo_ray.errors import UserError
from jobs.scale import print_pools, scale

pytestmark = pytest.mark.usefixtures("ray_cluster")


def pool(name: str, target: int = 1, scales_itself: bool = False) -> PoolState:
    worker = WorkerState(f"{name} worker 1", "ready", "10.0.0.7", 42, 3, running=2, done=5, rate=1234.5)
    return PoolState(name, target, queue=6, unit="tokens", scales_itself=scales_itself, workers=(worker,))


def run_state(*pools: PoolState) -> RunState:
    return RunState(version=3, steps=9, pools=pools)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Any]:
    """The desk of a run whose directory is `tmp_path`, and which nobody conducts."""
    remote: Any = ray.remote(Desk)
    actor = remote.options(name="desk of a test", namespace=NAMESPACE, num_cpus=0).remote()
    (tmp_path / ADDRESS).write_text(f"{ray.get_runtime_context().gcs_address}\ndesk of a test\n")
    yield actor
    ray.kill(actor)


def test_a_command_is_done_once_the_state_tells_of_it() -> None:
    desk = Desk()
    number = desk.order(Command("rollout", 2, now=False))
    assert desk.exchange(run_state(pool("rollout", target=1))) == [Command("rollout", 2, now=False)]
    state, _, done = desk.look()
    assert state is not None
    assert (state.pools[0].target, done < number) == (1, True)
    assert desk.exchange(run_state(pool("rollout", target=2))) == []
    state, _, done = desk.look()
    assert state is not None
    assert (state.pools[0].target, done >= number) == (2, True)


def test_a_pool_that_the_run_lacks_and_one_that_scales_itself_are_refused_before_anything_is_ordered(
    desk: Any, tmp_path: Path
) -> None:
    ray.get(desk.exchange.remote(run_state(pool("reward", scales_itself=True), pool("learner"))))
    with pytest.raises(UserError, match="has no pool rollout: its mode leaves it out"):
        scale(ScaleConfig(run=tmp_path, rollout=2))
    ray.get(desk.exchange.remote(run_state(pool("rollout"), pool("reward", scales_itself=True))))
    with pytest.raises(UserError, match="the pool reward scales itself"):
        scale(ScaleConfig(run=tmp_path, rollout=2, reward=2))
    assert ray.get(desk.exchange.remote(run_state(pool("rollout")))) == []


def test_a_run_is_found_by_another_path_to_its_directory(desk: Any, tmp_path: Path) -> None:
    ray.get(desk.exchange.remote(run_state(pool("rollout"))))
    other = tmp_path / "link"
    other.symlink_to(tmp_path)
    assert scale(ScaleConfig(run=other)).version == 3


def test_a_desk_that_has_no_state_yet_or_is_gone_is_one_line(desk: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is only just starting"):
        scale(ScaleConfig(run=tmp_path))

    class Ends(Desk):
        def look(self) -> Any:
            import os

            os._exit(1)

    remote: Any = ray.remote(Ends)
    ending = remote.options(name="desk that ends", namespace=NAMESPACE, num_cpus=0).remote()
    ray.get(ending.exchange.remote(run_state()))
    (tmp_path / ADDRESS).write_text(f"{ray.get_runtime_context().gcs_address}\ndesk that ends\n")
    with pytest.raises(UserError, match="is gone: the run has ended"):
        scale(ScaleConfig(run=tmp_path))


def test_a_command_for_a_pool_that_is_not_there_does_not_end_the_run(tmp_path: Path) -> None:
    async def run() -> tuple[int, bool]:
        reward = Pool("reward", PoolSettings(), FakeCluster(lambda: None), start_timeout=5)
        learner: Any = type("Learner", (LearnerPool,), {"__init__": lambda self: setattr(self, "locations", [])})()
        steering = Steering(tmp_path, 9, {"reward": reward}, learner, lambda: 0)
        conducting = asyncio.ensure_future(steering.run())
        try:
            while not (tmp_path / ADDRESS).exists():
                await asyncio.sleep(0.05)
            name = (tmp_path / ADDRESS).read_text().splitlines()[1]
            while True:
                try:
                    desk = ray.get_actor(name, namespace=NAMESPACE)
                    break
                except ValueError:
                    await asyncio.sleep(0.05)
            number = await desk.order.remote(Command("rollout", 2, now=False))
            while (await desk.look.remote())[2] < number and not conducting.done():
                await asyncio.sleep(0.1)
            return reward.target, conducting.done()
        finally:
            conducting.cancel()

    assert asyncio.run(run()) == (1, False)


def test_what_is_printed_names_worker_node_version_speed_and_queue(capsys: pytest.CaptureFixture[str]) -> None:
    print_pools(run_state(pool("rollout", target=4), pool("reward")))
    printed = capsys.readouterr().out
    for told in ("rollout (4, 6 wait)", "rollout worker 1", "ready", "10.0.0.7", "1,234 tokens", "3 of 9 updates made"):
        assert told in printed
