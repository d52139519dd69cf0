"""One arm of `benchmarks.rl_step`: TRL's `GRPOTrainer` on the same policy, prompts and reward.

    python -m benchmarks.trl_grpo MODEL DATA OUT

Needs TRL beside what DermoRay needs (see `benchmarks/README.md`). Makes updates until it is killed, and writes to
OUT one JSON line for each: its time, mean reward, mean completion length.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import datasets
from peft import LoraConfig
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOConfig, GRPOTrainer

from dermo_ray.config import RewardConfig
from dermo_ray.config.base import load
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.data.prompts import PromptOrder, read_prompts
from dermo_ray.prompts import IMAGE_PLACEHOLDER
from dermo_ray.records import GroundTruth
from rewards import Scorer


class Rewards(TrainerCallback):
    """Writes what each update came to."""

    def __init__(self, out: Path) -> None:
        self._out = out

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """One line for each update."""
        if logs is None or "reward" not in logs or not state.is_world_process_zero:
            return
        entry = {"time": time.time(), "reward": logs["reward"], "completion_tokens": logs["completions/mean_length"]}
        with self._out.open("a") as file:
            file.write(json.dumps(entry) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    config = load(MavicConfig, Path("configs/demo/mavic.yaml"))
    scorer = Scorer(RewardConfig())

    def reward(completions: list[Any], ground_truth: list[str], **_: Any) -> list[float]:
        texts = [completion[0]["content"] for completion in completions]
        truths = [GroundTruth.model_validate_json(truth) for truth in ground_truth]
        return [scored.total for scored in scorer.score(texts, truths, None)]

    samples = config.batch_groups * config.rollout.group_size
    trainer = GRPOTrainer(
        model=str(arguments.model),
        reward_funcs=reward,
        args=GRPOConfig(
            output_dir=str(arguments.out.with_suffix(".trl")),
            seed=arguments.seed,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=samples // int(os.environ.get("WORLD_SIZE", "1")),
            num_generations=config.rollout.group_size,
            max_completion_length=config.rollout.max_tokens,
            temperature=config.rollout.temperature,
            scale_rewards="none",
            loss_type="dr_grpo",
            learning_rate=config.learner.optimizer.learning_rate,
            warmup_steps=config.learner.optimizer.warmup_steps,
            lr_scheduler_type="constant_with_warmup",
            max_steps=100_000,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            shuffle_dataset=False,
            model_init_kwargs={"dtype": "float32"},
        ),
        train_dataset=rows(arguments.data, arguments.seed),
        peft_config=LoraConfig(
            r=config.lora.rank, lora_alpha=config.lora.alpha, target_modules=list(config.lora.targets)
        ),
        callbacks=[Rewards(arguments.out)],
    )
    trainer.train()


def rows(data: Path, seed: int) -> datasets.Dataset:
    """The run's prompts in its own order, in the form that TRL takes."""
    order = PromptOrder(read_prompts(data, "train"), seed)
    prompts = [order[index] for index in range(len(order.prompts))]
    return datasets.Dataset.from_dict(
        {
            "prompt": [
                [{"role": "user", "content": prompt.prompt.removeprefix(f"{IMAGE_PLACEHOLDER}\n")}]
                for prompt in prompts
            ],
            "image": [str(data / prompt.image) for prompt in prompts],
            "ground_truth": [prompt.ground_truth.model_dump_json() for prompt in prompts],
        }
    ).cast_column("image", datasets.Image())


if __name__ == "__main__":
    main()
