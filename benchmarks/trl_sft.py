"""One arm of `benchmarks.sft_step`: TRL's `SFTTrainer` on the same model and conversations.

    python -m benchmarks.trl_sft MODEL DATA OUT --steps 150

Needs TRL beside what DermoRay needs (see `benchmarks/README.md`). Writes to OUT one JSON line an update: its time and
loss.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTConfig, SFTTrainer

from dermo_ray.config.base import load
from dermo_ray.config.sft import SftConfig
from dermo_ray.prompts import IMAGE_PLACEHOLDER


class Losses(TrainerCallback):
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
        if logs is not None and "loss" in logs and state.is_world_process_zero:
            with self._out.open("a") as file:
                file.write(json.dumps({"time": time.time(), "loss": logs["loss"]}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    config = load(SftConfig, Path("configs/demo/sft.yaml"))
    optimizer = config.optimizer
    trainer = SFTTrainer(
        model=str(arguments.model),
        args=SFTConfig(
            output_dir=str(arguments.out.with_suffix(".trl")),
            seed=arguments.seed,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=config.batch_size // int(os.environ.get("WORLD_SIZE", "1")),
            max_length=None,  # what TRL recommends with images
            learning_rate=optimizer.learning_rate,
            warmup_steps=optimizer.warmup_steps,
            lr_scheduler_type="cosine",
            weight_decay=optimizer.weight_decay,
            max_steps=arguments.steps,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            model_init_kwargs={"dtype": "float32"},
        ),
        train_dataset=conversations(arguments.data),
        callbacks=[Losses(arguments.out)],
    )
    trainer.train()


def conversations(data: Path) -> datasets.Dataset:
    """The prepared conversations of one image and one answer, in the form that TRL takes."""
    rows = pq.read_table(sorted((data / "trajectories/train").glob("*.parquet"))).to_pylist()
    turns = [row["conversations"] for row in rows]
    return datasets.Dataset.from_dict(
        {
            "prompt": [
                [{"role": "user", "content": question["value"].removeprefix(f"{IMAGE_PLACEHOLDER}\n")}]
                for question, _ in turns
            ],
            "completion": [[{"role": "assistant", "content": answer["value"]}] for _, answer in turns],
            "images": [[str(data / row["image"])] for row in rows],
        }
    ).cast_column("images", datasets.List(datasets.Image()))


if __name__ == "__main__":
    main()
