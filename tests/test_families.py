"""Bases of other families can be named: prepare, sft, mavic and serve, a step of each, with each of them."""

import base64
from pathlib import Path
from typing import Any

import pytest
import torch
from model_families import FAMILIES
from openai import OpenAI
from PIL import Image
from ray_nodes import free_port

from dermo_ray.config.mavic import MavicConfig
from dermo_ray.config.model import ModelSettings
from dermo_ray.config.prepare import PrepareConfig
from dermo_ray.config.serve import ServeConfig
from dermo_ray.config.sft import SftConfig
from dermo_ray.data.prompts import read_prompts
from dermo_ray.models.batches import collate, encode_conversations
from dermo_ray.models.chat import load_processor
from dermo_ray.models.policy import PolicyScorer, load_policy
from jobs import mavic, prepare, sft
from jobs.preflight.model import check_model
from jobs.serve import serving

ENGINE = {"max_model_len": 256, "max_num_seqs": 16, "cpu_kv_cache_gib": 0.1}
TURNS = [
    {"from": "human", "value": "<image>\nclinical: diagnose"},
    {"from": "gpt", "value": "<final_diagnosis>Psoriasis</final_diagnosis>"},
]


@pytest.fixture(params=FAMILIES, scope="module")
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / request.param
    FAMILIES[request.param](folder)
    return folder


def test_a_policy_scores_a_conversation_as_the_familys_own_forward_pass(base: Path) -> None:
    processor: Any = load_processor(base)
    policy: Any = load_policy(ModelSettings(path=base)).eval()
    image = Image.effect_noise((64, 64), 80).convert("RGB")
    [(sequence, images)] = encode_conversations(processor, [("c1", TURNS, [image])])
    batch = collate([sequence], [images], processor.tokenizer.pad_token_id)
    with torch.inference_mode():
        found = PolicyScorer(policy)(batch)
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, **batch.images}
        if "qwen" in base.name:
            inputs["mm_token_type_ids"] = (batch.input_ids == policy.config.image_token_id).int()
        logprobs = policy(**inputs).logits[0].float().log_softmax(-1)
    places = batch.trained[0].nonzero().flatten()
    assert torch.allclose(found, logprobs[places - 1, batch.input_ids[0, places]], atol=1e-4)
    assert [finding.status for finding in check_model(base, {})] == ["pass"]


@pytest.fixture(scope="module")
def data(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("families") / "data"
    records = {"formats": ["morph_reasoning"], "tasks": ["task3"], "prompts": "brief"}
    phantoms = {"source": "phantoms", "count": 60, "phantom": {"size": 64}}
    prepare.run(PrepareConfig.model_validate({"out": out} | phantoms | records))
    return out


@pytest.fixture(scope="module")
def tuned(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("families-sft") / "run"
    settings = {"model": {"path": base}, "steps": 2, "batch_size": 8, "validation": {"every": 0}}
    sft.run(SftConfig.model_validate({"run": run, "data": data} | settings))
    return run / "checkpoints" / "latest" / "model"


@pytest.fixture(scope="module")
def trained(tuned: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("families-mavic") / "run"
    mavic.run(
        MavicConfig.model_validate(
            {
                "run": run,
                "data": data,
                "model": {"path": tuned},
                "lora": {"rank": 8, "alpha": 8},
                "steps": 1,
                "batch_groups": 2,
                "rollout": {"group_size": 2, "max_tokens": 16, "cpus_per_worker": 0.5, "engine": ENGINE},
                "rewards": {"cpus_per_worker": 0.1},
                "learner": {"cpus_per_worker": 0.5},
            }
        )
    )
    return run


@pytest.mark.slow
def test_the_whole_chain_runs_and_the_trained_adapter_answers(trained: Path, data: Path) -> None:
    prompt = read_prompts(data, "test")[0]
    image = data / prompt.image
    uri = f"data:image/{image.suffix[1:]};base64,{base64.b64encode(image.read_bytes()).decode()}"
    content = [
        {"type": "image_url", "image_url": {"url": uri}},
        {"type": "text", "text": prompt.prompt.removeprefix("<image>\n")},
    ]
    config = ServeConfig.model_validate({"run": trained, "port": free_port(), "engine": ENGINE})
    with serving(config) as address, OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        messages: Any = [{"role": "user", "content": content}]
        answer = client.chat.completions.create(model="dermo", messages=messages, temperature=0, max_tokens=16)
    assert answer.system_fingerprint == "dermo@step_000001/v1"
    assert answer.choices[0].message.content
