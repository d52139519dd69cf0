"""What the benchmarks make of sampled stacks, and of the numbers of weights and tokens."""

from benchmarks.gpu import Work
from benchmarks.profiles import costs, stacks_of

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


def test_costs_are_told_by_what_a_process_does_and_by_function() -> None:
    stacks = [stack for process, lines in RAW.items() for stack in stacks_of(process, lines)]
    found = costs({"7": 0.1, "8": 0.4, "9": 1.0, "10": 0.3}, stacks)
    assert {role: part["cores"] for role, part in found.items()} == {
        "engine: the model": 1.0, "rollout worker beside its engine": 0.4, "other": 0.3, "driver": 0.1,
    }  # fmt: skip
    assert found["engine: the model"]["functions"] == {
        "forward (vllm/model.py)": 0.8, "linear (vllm/layer.py)": 0.8, "sample (vllm/sampler.py)": 0.2,
    }  # fmt: skip


def test_a_function_that_calls_itself_is_counted_once() -> None:
    stacks = list(stacks_of("1", ["f (a.py:1);f (a.py:2);g (b.py:1) 4", "h (c.py:1) 1"]))
    assert costs({"1": 1.0}, stacks)["other"]["functions"] == {
        "f (a.py)": 0.8, "g (b.py)": 0.8, "h (c.py)": 0.2,
    }  # fmt: skip


def test_an_adapter_saves_the_gradients_of_the_weights_alone() -> None:
    work = Work(language=100, vision=10, prompt_tokens=5, patches=20)
    assert work.sampling(groups=2, tokens=40) == 2 * 100 * 50 + 2 * 10 * 40
    assert work.training(groups=2, tokens=40, whole=False) == 2 * 2 * 100 * 50 + 2 * 10 * 40
    assert work.training(groups=2, tokens=40, whole=True) == 3 * 2 * 100 * 50 + 2 * 10 * 40
