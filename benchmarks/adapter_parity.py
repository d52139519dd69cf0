"""Whether an adapter answers alike in transformers and in vLLM: `python -m benchmarks.adapter_parity RUN DATA`.

Opens the latest checkpoint of a run of `jobs.mavic` with `peft.PeftModel.from_pretrained` and with vLLM's own `LLM`,
with nothing of ours in either, lets both answer the same held-out prompts greedily, and counts equal texts.
Writes `benchmarks/results/adapter_parity.json`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import vllm
from peft import PeftModel
from PIL import Image
from vllm.inputs import TextPrompt
from vllm.lora.request import LoRARequest

from benchmarks.demo import RESULTS
from benchmarks.machine import describe
from dermo_ray.config import load
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.data.prompts import read_prompts
from dermo_ray.models.chat import banned_token_ids, end_of_turn_id, load_processor, prompt_text
from dermo_ray.models.policy import load_policy

_PROMPTS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    arguments = parser.parse_args()
    config = load(MavicConfig, arguments.run / "config.yaml")
    prompts = sorted(read_prompts(arguments.data, "test"), key=lambda prompt: prompt.id)[:_PROMPTS]
    processor = load_processor(config.model.path)
    texts = [prompt_text(processor, [{"from": "human", "value": prompt.prompt}]) for prompt in prompts]
    images = [Image.open(arguments.data / prompt.image).convert("RGB") for prompt in prompts]
    adapter = arguments.run / "checkpoints/latest/adapter"
    by_transformers = answers_of_transformers(config, processor, adapter, texts, images)
    by_vllm = answers_of_vllm(config, processor, adapter, texts, images)
    equal = sum(one == other for one, other in zip(by_transformers, by_vllm, strict=True))
    result = {
        "command": f"python -m benchmarks.adapter_parity {arguments.run} {arguments.data}",
        "machine": describe(),
        "prompts": len(prompts),
        "equal": equal,
        "share": equal / len(prompts),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "adapter_parity.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"{equal} of {len(prompts)} greedy texts are equal")


def answers_of_transformers(
    config: MavicConfig, processor: Any, adapter: Path, texts: list[str], images: list[Image.Image]
) -> list[list[int]]:
    """The tokens of each greedy answer, without that which ends it."""
    policy = PeftModel.from_pretrained(load_policy(config.model), adapter).eval()
    banned = banned_token_ids(processor, policy.config.get_text_config().vocab_size)
    answers = []
    for text, image in zip(texts, images, strict=True):
        inputs = processor(text=[text], images=[image], return_tensors="pt")
        with torch.no_grad():
            ids = policy.generate(
                **inputs, max_new_tokens=config.rollout.max_tokens, do_sample=False, suppress_tokens=banned
            )
        answer = ids[0, inputs["input_ids"].shape[1] :].tolist()
        answers.append(answer[:-1] if answer and answer[-1] == end_of_turn_id(processor) else answer)
    return answers


def answers_of_vllm(
    config: MavicConfig, processor: Any, adapter: Path, texts: list[str], images: list[Image.Image]
) -> list[list[int]]:
    """The same of vLLM."""
    assert config.lora is not None
    llm = vllm.LLM(
        str(config.model.path),
        dtype=config.model.dtype,
        max_model_len=config.rollout.engine.max_model_len,
        enable_lora=True,
        max_lora_rank=config.lora.rank,
        kv_cache_memory_bytes=2**28,
        generation_config="vllm",
    )
    end = end_of_turn_id(processor)
    banned = banned_token_ids(processor, llm.model_config.get_vocab_size())
    sampling = vllm.SamplingParams(
        temperature=0,
        max_tokens=config.rollout.max_tokens,
        stop_token_ids=[end],
        logit_bias=dict.fromkeys(banned, -100.0),
    )
    outputs = llm.generate(
        [TextPrompt(prompt=t, multi_modal_data={"image": i}) for t, i in zip(texts, images, strict=True)],
        sampling,
        lora_request=LoRARequest("policy", 1, str(adapter)),
    )
    return [[token for token in output.outputs[0].token_ids if token != end] for output in outputs]


if __name__ == "__main__":
    main()
