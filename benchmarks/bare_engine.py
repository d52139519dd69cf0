"""vLLM's own offline engine on prompts of a prepared folder, for `benchmarks.rollout` to compare with.

Engine and sampling are those of `configs/demo/mavic.yaml`. Loads, warms up on the group before the first, waits until
all of its kind are ready, generates every group in one call of `LLM.generate`, and writes when it began and ended, by
the machine's monotonic clock, and how many tokens there were.
"""

import argparse
import json
import os
import time
from pathlib import Path

from actors.images import read_images
from actors.messages import Prompt
from dermo_ray.config.base import load
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.data.prompts import PromptOrder, read_prompts
from dermo_ray.models.chat import banned_token_ids, end_of_turn_id, load_processor, prompt_text
from dermo_ray.records import Turn

STAGE = Path("configs/demo/mavic.yaml")
_PATIENCE = 300.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path, help="folder that all of one measurement share")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--groups", type=int, default=256)
    parser.add_argument("--processes", type=int, default=1, help="of this kind, side by side")
    arguments = parser.parse_args()
    os.environ |= {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    from vllm import LLM, SamplingParams, TokensPrompt

    config = load(MavicConfig, STAGE, [f"model.path={arguments.model}", f"data={arguments.data}"])
    settings = config.rollout.engine
    llm = LLM(
        model=str(arguments.model),
        dtype="float32",
        max_model_len=settings.max_model_len,
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        limit_mm_per_prompt={"video": 0},
        generation_config="vllm",
        logprobs_mode="processed_logprobs",
        enable_prefix_caching=True,
        enable_chunked_prefill=False,
        kv_cache_memory_bytes=int(settings.cpu_kv_cache_gib * 2**30),
        distributed_executor_backend="uni",
    )
    processor = load_processor(arguments.model)
    banned = banned_token_ids(processor, llm.model_config.get_vocab_size())
    order = PromptOrder(read_prompts(arguments.data, "train"), seed=0)
    requests = []
    for index in range(arguments.first - 1, arguments.first + arguments.groups):
        turn = Turn(from_="human", value=order[index].prompt)
        ids = processor.tokenizer(prompt_text(processor, [turn.model_dump(by_alias=True)]), add_special_tokens=False)
        images = read_images(Prompt(index, order[index]), arguments.data)
        sampling = SamplingParams(
            n=config.rollout.group_size,
            temperature=config.rollout.temperature,
            max_tokens=config.rollout.max_tokens,
            seed=index,
            stop_token_ids=[end_of_turn_id(processor)],
            logprobs=0,
            logit_bias=dict.fromkeys(banned, -100.0),
            detokenize=True,
        )
        prompt = TokensPrompt(prompt_token_ids=ids["input_ids"], multi_modal_data={"image": images})
        requests.append((prompt, sampling))
    llm.generate(*zip(*requests[:1], strict=True), use_tqdm=False)
    _wait_for_the_others(arguments.out, arguments.processes, arguments.first)
    began = time.monotonic()
    answers = llm.generate(*zip(*requests[1:], strict=True), use_tqdm=False)
    found = {
        "began": began,
        "ended": time.monotonic(),
        "tokens": sum(len(completion.token_ids) for answer in answers for completion in answer.outputs),
    }
    (arguments.out / f"{arguments.first}.json").write_text(json.dumps(found))


def _wait_for_the_others(folder: Path, processes: int, own: int) -> None:
    (folder / f"{own}.ready").touch()
    deadline = time.monotonic() + _PATIENCE
    while len(list(folder.glob("*.ready"))) < processes:
        if time.monotonic() > deadline:
            raise TimeoutError(f"only {len(list(folder.glob('*.ready')))} of {processes} engines are ready")
        time.sleep(0.01)


if __name__ == "__main__":
    main()
