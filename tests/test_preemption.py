"""SIGTERM to a process that conducts a run: a last checkpoint, within the deadline, whatever is under way."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_pools import FakeLearners, FakeRewards, FakeRollouts, at_once, record, settings

from actors.controller import RunController
from actors.mavic import _unless_terminated
from actors.messages import TrainingGroup
from actors.progress import Progress, read
from dermo_ray import checkpoint_copies, checkpoints
from dermo_ray.data.prompts import PromptOrder
from dermo_ray.ledger import Ledger, Opening


class SlowAtThree(FakeLearners):
    """Its update 3 takes as long as the test says."""

    def __init__(self, takes: float) -> None:
        super().__init__()
        self.takes = takes
        self.at_three = threading.Event()

    async def update(self, batch: Sequence[TrainingGroup], step: int) -> dict[str, float]:
        if step == 3:
            self.at_three.set()
            await asyncio.sleep(self.takes)
        return await super().update(batch, step)  # type: ignore[arg-type]


def terminated(run: Path, learner: SlowAtThree, deadline: float, **values: Any) -> tuple[bool, float]:
    """Conduct a run that gets SIGTERM in its update 3; whether it came to its end, and the seconds after SIGTERM."""
    config = settings(run, **values)
    order = PromptOrder([record(number) for number in range(5)], config.seed)
    sent: list[float] = []

    def send() -> None:
        learner.at_three.wait(20)
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    async def conduct(ledger: Ledger) -> bool:
        rollout, rewards = FakeRollouts(at_once), FakeRewards()
        controller = RunController(
            config, order, rollout, rewards, learner, ledger, Progress(), lambda version, metrics, rows: None
        )
        threading.Thread(target=send, daemon=True).start()
        return await _unless_terminated(controller.run(), controller, deadline)

    with Ledger(run, Opening(resumed_from=0, prompts=5, batch_groups=config.batch_groups)) as ledger:
        ended = asyncio.run(conduct(ledger))
    return ended, time.monotonic() - sent[0]


def saved(run: Path) -> int:
    return read(checkpoints.latest(run / "checkpoints")).version


def test_the_update_under_way_is_finished_and_kept_where_there_is_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ended, _ = terminated(tmp_path, SlowAtThree(0.1), deadline=20, checkpoint_every=100)
    assert not ended
    assert saved(tmp_path) == 4
    assert "stopped after update 4; the same command goes on from update 4" in caplog.text


def test_what_takes_longer_than_the_deadline_is_cut_off_and_the_checkpoint_before_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ended, seconds = terminated(tmp_path, SlowAtThree(60), deadline=0.5, checkpoint_every=2)
    assert not ended
    assert 0.5 <= seconds < 10
    assert saved(tmp_path) == 2
    assert "stopped after update 3; the same command goes on from update 2" in caplog.text


def test_a_copy_that_never_ends_does_not_keep_a_terminated_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(checkpoint_copies, "upload", lambda *_: time.sleep(60))
    ended, seconds = terminated(
        tmp_path, SlowAtThree(0.1), deadline=1, checkpoint_every=100, checkpoint_copy="memory://bucket"
    )
    assert not ended
    assert seconds < 10
    assert saved(tmp_path) == 4
    assert "the same command goes on from update 4" in caplog.text
