"""The whole chain with real engines and learners: prepare, sft, mavic (sync, resumed, async), evaluate, serve.

Each stage is a fixture that the next one builds on; the tests look at what the stages left behind.
"""

import base64
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from openai import OpenAI
from openai.types.chat import ChatCompletion
from peft import PeftModel
from PIL import Image
from ray_nodes import free_port
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from dermo_ray import checkpoints, rollouts
from dermo_ray.bench.heldout import Evaluation
from dermo_ray.config.evaluate import EvaluateConfig
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.config.serve import ServeConfig
from dermo_ray.config.sft import SftConfig
from dermo_ray.data.prompts import PromptOrder, read_prompts
from dermo_ray.metrics import METRICS
from dermo_ray.models.chat import banned_token_ids, load_processor, prompt_text
from dermo_ray.records import RLPrompt
from dermo_ray.rollouts import ScoredCompletion
from dermo_ray.view.tokens import load_tokenizer, pieces
from jobs import evaluate, mavic, sft
from jobs.serve import serving

GROUPS, GROUP_SIZE = 4, 4
UPDATES = 3
MAX_TOKENS = 40
PROMPTS = 20
ENGINE = {"max_model_len": 256, "max_num_seqs": 32, "cpu_kv_cache_gib": 0.1}


@pytest.fixture(scope="module")
def data(corpus: Path) -> Path:
    """A corpus of dermoscopic and clinical phantoms."""
    return corpus


@pytest.fixture(scope="module")
def tuned(data: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose every weight was tuned a little by two ranks."""
    run = tmp_path_factory.mktemp("chain-sft") / "run"
    sft.run(
        SftConfig.model_validate(
            {
                "run": run,
                "data": data,
                "model": {"path": tiny_model},
                "pool": {"workers": 2, "cpus_per_worker": 0.4},
                "steps": 20,
                "batch_size": 16,
                "optimizer": {"learning_rate": 3e-3, "warmup_steps": 5},
                "validation": {"every": 0},
            }
        )
    )
    return run / "checkpoints" / "latest" / "model"


@dataclass(frozen=True)
class Run:
    """A run that has ended."""

    folder: Path

    @property
    def rows(self) -> list[ScoredCompletion]:
        return rollouts.read(self.folder / "rollouts")

    @property
    def metrics(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / METRICS).read_text().splitlines()]

    def adapter(self, step: int) -> dict[str, torch.Tensor]:
        folder = self.folder / "checkpoints" / checkpoints.step_name(step) / "adapter"
        return load_file(folder / "adapter_model.safetensors")

    @property
    def state(self) -> dict[str, Any]:
        checkpoint = checkpoints.latest(self.folder / "checkpoints")
        assert checkpoint is not None
        return checkpoints.read_state(checkpoint)


def mavic_settings(
    run: Path, data: Path, model: Path, rollout_workers: int = 1, learner_ranks: int = 2, **values: Any
) -> MavicConfig:
    common = {
        "run": run,
        "data": data,
        "model": {"path": model},
        "lora": {"rank": 8, "alpha": 16},
        "steps": UPDATES,
        "batch_groups": GROUPS,
        "checkpoint_every": 1,
        "rollout": {
            "workers": rollout_workers,
            "cpus_per_worker": 0.4,
            "group_size": GROUP_SIZE,
            "max_tokens": MAX_TOKENS,
            "max_concurrent": 2 * GROUPS,
            "engine": ENGINE,
        },
        "rewards": {"cpus_per_worker": 0.1},
        "learner": {"workers": learner_ranks, "cpus_per_worker": 0.4, "optimizer": {"learning_rate": 2e-3}},
    }
    return MavicConfig.model_validate(common | values)


@pytest.fixture(scope="module")
def on_policy(data: Path, tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two synchronous updates over two engines, then the same run again, to three updates and with one engine."""
    run = tmp_path_factory.mktemp("chain-mavic") / "run"
    mavic.run(mavic_settings(run, data, tuned, rollout_workers=2, steps=UPDATES - 1))
    mavic.run(mavic_settings(run, data, tuned))
    return Run(run)


@pytest.fixture(scope="module")
def off_policy(data: Path, tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three updates from completions that may be one update old."""
    run = tmp_path_factory.mktemp("chain-async") / "run"
    mavic.run(mavic_settings(run, data, tuned, learner_ranks=1, max_staleness=1))
    return Run(run)


@pytest.fixture(scope="module")
def evaluation(on_policy: Run, data: Path) -> Evaluation:
    """Both policies measured on held-out prompts."""
    rollout = {"group_size": 2, "max_tokens": MAX_TOKENS, "engine": ENGINE}
    return evaluate.run(EvaluateConfig(run=on_policy.folder, data=data, prompts=PROMPTS, rollout=rollout))


@pytest.fixture(scope="module")
def served(evaluation: Evaluation, on_policy: Run, data: Path) -> tuple[RLPrompt, ChatCompletion]:
    """What the served checkpoint answers to the first of the prompts that were evaluated."""
    prompt = held_out(data)[0]
    url = image_url(data, prompt)
    config = ServeConfig.model_validate({"run": on_policy.folder, "port": free_port(), "engine": ENGINE})
    with serving(config) as address, OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        answer = client.chat.completions.create(
            model="dermo",
            messages=[
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": url}},
                        {"type": "text", "text": prompt.prompt.removeprefix("<image>\n")},
                    ],
                }
            ],
            temperature=0,
            max_tokens=MAX_TOKENS,
        )
    return prompt, answer


def image_url(data: Path, prompt: RLPrompt) -> str:
    image = data / prompt.image
    return f"data:image/{image.suffix[1:]};base64,{base64.b64encode(image.read_bytes()).decode()}"


def held_out(data: Path) -> list[RLPrompt]:
    """The prompts that are evaluated, in their order."""
    order = PromptOrder(read_prompts(data, "test"), seed=0)
    return [order[index] for index in range(PROMPTS)]


def greedy(run: Run, policy: str) -> dict[str, str]:
    """The greedy answers of an evaluation by prompt."""
    rows = rollouts.read(run.folder / evaluate.COMPLETIONS / f"{policy}.parquet")
    return {row.prompt_id: row.text for row in rows if row.greedy}


def apart(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], which: str) -> float:
    return max(float((first[name] - second[name]).abs().max()) for name in first if which in name)


def test_supervised_fine_tuning_lowers_the_loss(tuned: Path) -> None:
    metrics = Run(tuned.parents[2]).metrics
    assert metrics[-1]["loss"] < metrics[0]["loss"] - 1


@pytest.mark.parametrize("which", ["on_policy", "off_policy"])
def test_every_update_changes_the_adapter(which: str, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(which)
    first, second, third = (run.adapter(step) for step in (1, 2, 3))
    assert all(float(weight.abs().max()) > 0 for name, weight in first.items() if "lora_B" in name)
    for before, after in ((first, second), (second, third)):
        assert apart(before, after, "lora_A") > 1e-5
        assert apart(before, after, "lora_B") > 1e-5


def test_synchronous_completions_come_from_the_version_they_train(on_policy: Run) -> None:
    seen = {(row.step, row.version) for row in on_policy.rows}
    assert seen == {(0, 0), (1, 1), (2, 2)}
    assert on_policy.state["version"] == UPDATES
    assert len(on_policy.rows) == UPDATES * GROUPS * GROUP_SIZE


def test_engine_and_learner_agree_on_what_was_sampled(on_policy: Run) -> None:
    metrics = on_policy.metrics
    assert [entry["step"] for entry in metrics] == [1, 2, 3]
    assert max(entry["rollout_logprob_diff"] for entry in metrics) <= 1e-3
    assert {entry["staleness/max"] for entry in metrics} == {0}


def test_every_token_is_recorded_with_what_engine_and_learner_thought_of_it(on_policy: Run) -> None:
    tokenizer = load_tokenizer(on_policy.folder)
    assert tokenizer is not None
    for row in on_policy.rows:
        assert row.token_ids is not None
        assert "".join(pieces(tokenizer, row.token_ids)).removesuffix("<|im_end|>") == row.text
        assert row.learner_logprobs == pytest.approx(row.token_logprobs, abs=0.01)
        assert set(row.token_versions or ()) == {row.version}


def test_asynchronous_completions_are_at_most_as_old_as_allowed(off_policy: Run) -> None:
    staleness = [row.step - row.version for row in off_policy.rows]
    assert set(staleness) == {0, 1}
    metrics = off_policy.metrics
    assert [entry["staleness/max"] for entry in metrics[:2]] == [0, 1]
    assert metrics[0]["rollout_logprob_diff"] <= 1e-3


@pytest.mark.parametrize("which", ["on_policy", "off_policy"])
def test_every_prompt_is_trained_on_once_also_across_a_resume(
    which: str, data: Path, request: pytest.FixtureRequest
) -> None:
    run: Run = request.getfixturevalue(which)
    order = PromptOrder(read_prompts(data, "train"), seed=0)
    expected = [order[index].id for index in range(UPDATES * GROUPS)]
    for step in range(UPDATES):
        trained = [row.prompt_id for row in run.rows if row.step == step]
        assert trained == [id_ for id_ in expected[GROUPS * step : GROUPS * (step + 1)] for _ in range(GROUP_SIZE)]
    assert (run.state["next_index"], run.state["pending"]) == (UPDATES * GROUPS, [])


def test_rewards_and_advantages_differ_within_groups(on_policy: Run) -> None:
    rows = on_policy.rows
    assert all(0 <= row.reward <= 1 for row in rows)
    groups = [rows[start : start + GROUP_SIZE] for start in range(0, len(rows), GROUP_SIZE)]
    assert all(len({row.prompt_id for row in group}) == 1 for group in groups)
    assert any(len({row.reward for row in group}) > 1 for group in groups)
    assert all(abs(sum(row.advantage or 0.0 for row in group)) < 1e-4 for group in groups)
    assert {row.modality for row in rows} == {"clinical", "dermoscopic"}


def test_an_evaluation_measures_both_policies_on_the_same_prompts(evaluation: Evaluation, on_policy: Run) -> None:
    before, after = greedy(on_policy, "sft"), greedy(on_policy, "mavic")
    assert len(before) == PROMPTS
    assert before.keys() == after.keys()
    assert before != after
    assert (on_policy.folder / evaluate.RESULT).is_file()
    assert evaluation == Evaluation.model_validate_json((on_policy.folder / evaluate.RESULT).read_text())


@torch.inference_mode()
def by_transformers(model: Any, processor: Any, prompts: Sequence[RLPrompt], data: Path) -> dict[str, str]:
    banned = banned_token_ids(processor, model.config.get_text_config().vocab_size)
    answers = {}
    for prompt in prompts:
        with Image.open(data / prompt.image) as file:
            image = file.convert("RGB")
        text = prompt_text(processor, [{"from": "human", "value": prompt.prompt}])
        inputs = processor(text=[text], images=[image], return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False, suppress_tokens=banned)
        written = ids[0, inputs["input_ids"].shape[1] :].tolist()
        end = processor.tokenizer.eos_token_id
        answers[prompt.id] = processor.tokenizer.decode(written[: written.index(end)] if end in written else written)
    return answers


def test_the_adapter_opens_in_peft_and_answers_as_the_engine_did(
    evaluation: Evaluation, on_policy: Run, tuned: Path, data: Path
) -> None:
    base = AutoModelForImageTextToText.from_pretrained(tuned, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, on_policy.folder / "checkpoints" / "latest" / "adapter").eval()
    processor, prompts = load_processor(tuned), held_out(data)
    adapted = by_transformers(model, processor, prompts, data)
    with model.disable_adapter():
        unadapted = by_transformers(model, processor, prompts[:5], data)
    from_engine = greedy(on_policy, "mavic")
    assert sum(from_engine[id_] == text for id_, text in adapted.items()) >= 0.95 * PROMPTS
    without = greedy(on_policy, "sft")
    assert sum(without[id_] == text for id_, text in unadapted.items()) >= 4


def test_the_served_answer_is_the_policys_and_carries_its_version(
    served: tuple[RLPrompt, ChatCompletion], on_policy: Run
) -> None:
    prompt, answer = served
    assert answer.system_fingerprint == f"dermo@{checkpoints.step_name(UPDATES)}/v{UPDATES}"
    assert answer.choices[0].message.content == greedy(on_policy, "mavic")[prompt.id]


@pytest.mark.slow
def test_a_service_takes_over_the_checkpoints_of_a_run_that_trains_in_the_same_cluster(
    data: Path, tuned: Path, tmp_path: Path
) -> None:
    run, last = tmp_path / "run", 4
    mavic.run(mavic_settings(run, data, tuned, learner_ranks=1, steps=1))
    config = ServeConfig.model_validate(
        {"run": run, "port": free_port(), "engine": ENGINE, "prompts": "brief", "max_tokens": MAX_TOKENS}
    )
    asked = {"image": image_url(data, held_out(data)[0]), "modality": "dermoscopic", "model": "dermo"}

    def answers_until_the_last_version(address: str) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = []
        deadline = time.monotonic() + 300
        while not answers or answers[-1]["version"] < last:
            assert time.monotonic() < deadline, answers[-1:]
            answer = httpx.post(f"{address}/v1/diagnose", json=asked, timeout=120)
            assert answer.status_code == 200, answer.text
            answers.append(answer.json())
        return answers

    with serving(config) as address, ThreadPoolExecutor(1) as pool:
        asking = pool.submit(answers_until_the_last_version, address)
        mavic.run(mavic_settings(run, data, tuned, learner_ranks=1, steps=last))  # here, since it takes signals
        answers = asking.result()
    versions = [answer["version"] for answer in answers]
    assert versions == sorted(versions)
    assert (versions[0], versions[-1]) == (1, last)
    assert {answer["system_fingerprint"] for answer in answers} == {
        f"dermo@{checkpoints.step_name(version)}/v{version}" for version in versions
    }
