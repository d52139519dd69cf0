"""Whether an adapter answers alike in transformers and in vLLM: `python -m benchmarks.adapter_parity RUN DATA`.

Takes the greedy completions that `jobs.evaluate` got from vLLM for a run of `jobs.mavic`, opens that checkpoint with
`peft.PeftModel.from_pretrained`, lets transformers answer the same prompts greedily, and counts equal texts.
Writes `benchmarks/results/adapter_parity.json`.
"""

import argparse
import json
from pathlib import Path

import torch
from peft import PeftModel
from PIL import Image

from benchmarks.demo import RESULTS
from benchmarks.machine import describe
from dermo_ray import rollouts
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
    served = {row.prompt_id: row for row in rollouts.read(arguments.run / "evaluation/mavic.parquet") if row.greedy}
    prompts = {prompt.id: prompt for prompt in read_prompts(arguments.data, "test")}
    chosen = sorted(served)[:_PROMPTS]
    processor = load_processor(config.model.path)
    policy = PeftModel.from_pretrained(load_policy(config.model), arguments.run / "checkpoints/latest/adapter").eval()
    banned = banned_token_ids(processor, policy.config.get_text_config().vocab_size)
    equal = 0
    for prompt_id in chosen:
        prompt = prompts[prompt_id]
        text = prompt_text(processor, [{"from": "human", "value": prompt.prompt}])
        with Image.open(arguments.data / prompt.image) as image:
            inputs = processor(text=[text], images=[image.convert("RGB")], return_tensors="pt")
        with torch.no_grad():
            ids = policy.generate(
                **inputs, max_new_tokens=config.rollout.max_tokens, do_sample=False, suppress_tokens=banned
            )
        answer = ids[0, inputs["input_ids"].shape[1] :].tolist()
        if answer and answer[-1] == end_of_turn_id(processor):
            answer.pop()
        equal += processor.tokenizer.decode(answer, skip_special_tokens=False) == served[prompt_id].text
    result = {
        "command": f"python -m benchmarks.adapter_parity {arguments.run} {arguments.data}",
        "machine": describe(),
        "prompts": len(chosen),
        "equal": equal,
        "share": equal / len(chosen),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "adapter_parity.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"{equal} of {len(chosen)} greedy texts are equal")


if __name__ == "__main__":
    main()
