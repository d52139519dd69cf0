"""What the benchmarks make of sampled stacks, of the numbers of weights and tokens, and of turns."""

import subprocess
import time
from pathlib import Path

import pytest

from benchmarks.gpu import Work
from benchmarks.profiles import costs, stacks_of, title_of
from benchmarks.rl_step import seconds_in
from benchmarks.turns import kill, pause, resume, updates_per_second

RAW = {
    "7": ["MainThread;main (jobs/mavic.py:12);wait (asyncio/base_events.py:1) 10"],
    "8": [
        "run (actors/rollout.py:3);detokenize (/x/site-packages/vllm/v1/output.py:9) 10",
        "run (actors/rollout.py:3);decode (/x/site-packages/vllm/v1/serial.py:9) 30",
    ],
    "9": [
        "thread (0x1);step (vllm/v1/engine/core.py:5);forward (vllm/model.py:7);linear (vllm/layer.py:1) 40",
        "thread (0x1);step (vllm/v1/engine/core.py:5);sample (vllm/sampler.py:2) 10",
    ],
}
TITLES = {"7": "jobs.mavic", "8": "RolloutWorker", "9": "VLLM::EngineCore", "10": "RolloutWorker"}


def test_costs_are_told_by_what_a_process_is_and_by_function() -> None:
    stacks = [stack for process, lines in RAW.items() for stack in stacks_of(process, lines)]
    found = costs({"7": 0.1, "8": 0.4, "9": 1.0, "10": 0.3}, TITLES, stacks)
    assert {title: part["cores"] for title, part in found.items()} == {
        "VLLM::EngineCore": 1.0, "RolloutWorker": 0.7, "jobs.mavic": 0.1,
    }  # fmt: skip
    assert found["RolloutWorker"]["functions"] == {
        "run (actors/rollout.py)": 1.0, "decode (vllm/v1/serial.py)": 0.75, "detokenize (vllm/v1/output.py)": 0.25,
    }  # fmt: skip


def test_a_function_that_hands_its_time_on_is_left_out() -> None:
    stacks = [("9", ["step", "forward", "linear"], 40), ("9", ["step", "sample"], 2)]
    assert list(costs({"9": 1.0}, TITLES, stacks)["VLLM::EngineCore"]["functions"]) == ["linear", "sample"]


def test_a_function_that_calls_itself_is_counted_once() -> None:
    stacks = list(stacks_of("7", ["f (a.py:1);f (a.py:2);g (b.py:1) 2", "f (a.py:1) 2", "h (c.py:1) 1"]))
    assert costs({"7": 1.0}, TITLES, stacks)["jobs.mavic"]["functions"] == {
        "f (a.py)": 0.8, "g (b.py)": 0.4, "h (c.py)": 0.2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "title"),
    [
        (["ray::ServeReplica:dermo-ray:policy"], "ServeReplica:dermo-ray:policy"),
        (["ray::LearnerRank.update"], "LearnerRank"),
        (["VLLM::EngineCore_DP0"], "VLLM::EngineCore_DP0"),
        (["/x/python", "-m", "jobs.mavic", "a.yaml"], "jobs.mavic"),
        (["/x/gcs_server", "--log_dir=/y"], "gcs_server"),
    ],
)
def test_a_process_is_named_by_its_title_or_by_what_was_started(arguments: list[str], title: str) -> None:
    assert title_of(arguments) == title


def test_an_adapter_saves_the_gradients_of_the_weights_alone() -> None:
    work = Work(language=100, vision=10, prompt_tokens=5, patches=20)
    assert work.sampling(groups=2, tokens=40) == 2 * 100 * 50 + 2 * 10 * 40
    assert work.training(groups=2, tokens=40, whole=False) == 2 * 2 * 100 * 50 + 2 * 10 * 40
    assert work.training(groups=2, tokens=40, whole=True) == 3 * 2 * 100 * 50 + 2 * 10 * 40


def test_only_updates_that_a_turn_holds_whole_are_counted() -> None:
    turns = [(0.0, 4.0), (10.0, 13.0), (20.0, 21.0)]
    # from 1 to 3 in the first, from 11 to 12.5 in the second; the third holds the end of one alone
    assert updates_per_second([1.0, 2.0, 3.0, 11.0, 12.0, 12.5, 20.5], turns) == 4 / 3.5


def test_time_passes_only_in_turns() -> None:
    turns = [(0.0, 4.0), (10.0, 13.0)]
    assert [seconds_in(moment, turns) for moment in (2.0, 7.0, 11.0, 20.0)] == [2.0, 4.0, 5.0, 7.0]


def test_a_command_that_is_stopped_does_nothing_with_all_that_it_started(tmp_path: Path) -> None:
    counting = f"while true; do echo x >> {tmp_path}/lines; sleep 0.01; done"
    script = f"bash -c 'echo x > {tmp_path}/lines; echo ready; {counting}' & wait"
    command = subprocess.Popen(["bash", "-c", script], stdout=subprocess.PIPE)

    def grows() -> bool:
        before = (tmp_path / "lines").stat().st_size
        time.sleep(0.3)
        return (tmp_path / "lines").stat().st_size > before

    try:
        assert command.stdout is not None
        command.stdout.readline()
        pause(command.pid)
        time.sleep(0.1)
        assert not grows()
        resume(command.pid)
        assert grows()
    finally:
        kill(command.pid)
        command.wait(10)
