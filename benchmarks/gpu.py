"""RL step, rollouts and weight transfer on GPUs: `python -m benchmarks.gpu [key=value ...] [--peak-tflops 989]`.

The policy is a Qwen3-VL of 1.6 billion parameters with random weights in bf16, so completions run to their limit; the
prompts are phantoms of 448 pixels. Three runs of `jobs.mavic` with `configs/one-gpu/mavic.yaml` and the given settings:
an adapter is trained, engines sample alone, and the model itself is trained, whose weights go to the engines over NCCL
where these have a card of their own. Writes `benchmarks/results/gpu.json`: tokens/s, model FLOPs over the card's peak
(MFU: multiplications of weights alone, recomputation not counted), and the bandwidth of the weights.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from transformers import AutoConfig, Qwen3VLForConditionalGeneration

from actors.images import read_images
from actors.messages import Prompt
from benchmarks.beside_trl import entries_of
from benchmarks.demo import RESULTS
from benchmarks.machine import describe
from dermo_ray.config.base import load
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.data.prompts import read_prompts
from dermo_ray.models.batches import encode_images
from dermo_ray.models.chat import load_processor, prompt_text
from dermo_ray.phantom.tiny_model import TinyModelSettings, save_tiny_model

STAGE = Path("configs/one-gpu/mavic.yaml")
PEAK_TFLOPS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "L4": 121}
"""Dense bf16 by NVIDIA's data sheets (H100 and H200: SXM), by a part of the card's name, longer names first."""
SHAPES = {
    "1.6b": TinyModelSettings(
        hidden_size=2048, head_size=128, layers=28, vision_hidden_size=1024, vision_layers=24, max_pixels=448 * 448,
        initializer_range=0.02,
    ),
    "tiny": TinyModelSettings(),
}  # fmt: skip
_WARM_UP = 3
_FROZEN, _TRAINED = 2, 3
"""Times the work of a forward pass that an update takes: without and with gradients of the weights themselves."""


@dataclass(frozen=True)
class Work:
    """What one update asks of the policy, by number of weights, tokens and patches."""

    language: int
    """Weights of the language model, each embedding counted once, as the output layer."""
    vision: int
    """Weights of the vision tower."""
    prompt_tokens: float
    """Of one prompt, image tokens included."""
    patches: float
    """Of one prompt's images."""

    def sampling(self, groups: int, tokens: float) -> float:
        """FLOPs of sampling `tokens` tokens for `groups` prompts, each read once."""
        return 2 * self.language * (groups * self.prompt_tokens + tokens) + 2 * self.vision * groups * self.patches

    def training(self, groups: int, tokens: float, *, whole: bool) -> float:
        """FLOPs of an update from `tokens` tokens, each prompt read once and the vision tower frozen."""
        passes = _TRAINED if whole else _FROZEN
        read = 2 * self.language * (groups * self.prompt_tokens + tokens)
        return passes * read + 2 * self.vision * groups * self.patches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", help="of jobs.mavic, as key=value, for all runs")
    parser.add_argument("--shape", choices=SHAPES, default="1.6b")
    parser.add_argument(
        "--peak-tflops", type=float, help="of one card in dense bf16; known for " + ", ".join(PEAK_TFLOPS)
    )
    parser.add_argument("--updates", type=int, default=12, help="measured of each run")
    arguments = parser.parse_args()
    config = load(MavicConfig, STAGE, arguments.settings)
    if config.rollout.on_gpu and not torch.cuda.is_available():
        parser.error("there is no GPU here; rollout.gpus_per_worker=0 learner.gpus_per_worker=0 tries it on a CPU")
    cards = [torch.cuda.get_device_name(card) for card in range(torch.cuda.device_count())]
    peak = arguments.peak_tflops or next(
        (tflops for name, tflops in PEAK_TFLOPS.items() if cards and name in cards[0]), None
    )
    if peak is None:
        parser.error(f"the peak of {cards or 'a CPU'} is not known: give --peak-tflops")
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name).absolute()
        shape = SHAPES[arguments.shape]
        save_tiny_model(folder / "model", shape)
        size = math.isqrt(shape.max_pixels)
        prepared = [f"out={folder / 'data'}", "count=800", f"phantom.size={size}"]
        subprocess.run([sys.executable, "-m", "jobs.prepare", "configs/demo/prepare.yaml", *prepared], check=True)
        runs = {
            "adapter": [],
            "rollout_only": ["mode=rollout_only"],
            "whole_weights": ["lora=null", f"transport={'nccl' if len(cards) > 1 else 'files'}"],
        }
        work = work_of(folder)
        found = {name: measure(name, folder, work, arguments, more, 1e12 * peak) for name, more in runs.items()}
    command = " ".join(["python -m benchmarks.gpu", *sys.argv[1:]])
    result = {"command": command, "machine": describe(), "cards": cards, "peak_tflops": peak, "shape": arguments.shape}
    (RESULTS / "gpu.json").write_text(json.dumps(result | {"work": vars(work), "runs": found}, indent=2) + "\n")
    print(json.dumps(found, indent=2))


def work_of(folder: Path) -> Work:
    """What the model and the prompts in `folder` ask for."""
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(AutoConfig.from_pretrained(folder / "model"))
    vision = sum(parameter.numel() for parameter in model.model.visual.parameters())
    language = sum(parameter.numel() for parameter in model.parameters()) - vision
    processor, tokens, patches = load_processor(folder / "model"), [], []
    for index, record in enumerate(read_prompts(folder / "data", "train")[:32]):
        images = read_images(Prompt(index, record), folder / "data")
        text = prompt_text(processor, [{"from": "human", "value": record.prompt}])
        tokens.append(len(processor(text=[text], images=images)["input_ids"][0]))
        patches.append(max(len(tensor) for tensor in encode_images(processor, images).tensors.values()))
    return Work(language, vision, fmean(tokens), fmean(patches))


def measure(
    name: str, folder: Path, work: Work, arguments: argparse.Namespace, more: list[str], peak: float
) -> dict[str, Any]:
    """One run of `jobs.mavic`: medians over its updates."""
    run = folder / name
    settings = [
        f"run={run}", f"data={folder / 'data'}", f"model.path={folder / 'model'}", "rollout.max_tokens=256",
        f"steps={_WARM_UP + arguments.updates}", "checkpoint_every=100000", *more, *arguments.settings,
    ]  # fmt: skip
    config = load(MavicConfig, STAGE, settings)
    if status := subprocess.run([sys.executable, "-m", "jobs.mavic", str(STAGE), *settings]).returncode:
        sys.exit(status)  # the job has said why
    entries = entries_of(run / "metrics.jsonl")[_WARM_UP:]
    tokens = median(entry["tokens"] for entry in entries)
    seconds = {
        part: median(entry[f"seconds/{part}"] for entry in entries)
        for part in ("wait_rollout", "update", "publish", "bookkeeping")
    }
    step = sum(seconds.values())
    pools = {
        part: pool.workers * pool.gpus_per_worker
        for part, pool in (("rollout", config.rollout), ("learner", config.learner))
    }
    cards = max(1, math.ceil(sum(pools.values()) if config.mode == "train" else pools["rollout"]))
    sampled = work.sampling(config.batch_groups, tokens)
    trained = work.training(config.batch_groups, tokens, whole=config.lora is None) if config.mode == "train" else 0.0
    figures = {
        "tokens_per_second": tokens / step,
        "samples_per_second": median(entry["samples_per_second"] for entry in entries),
        "seconds": seconds,
        "cards": cards,
        "share_of_peak": (sampled + trained) / step / (cards * peak),
    }
    if config.mode == "train":
        figures["mfu_of_rollouts"] = sampled / seconds["wait_rollout"] / (max(1, math.ceil(pools["rollout"])) * peak)
        figures["mfu_of_updates"] = trained / seconds["update"] / (max(1, math.ceil(pools["learner"])) * peak)
    if config.lora is None:
        weights = 2 * (work.language + work.vision)  # bytes in bf16
        figures |= {"transport": config.transport, "gib_per_second": weights / 2**30 / seconds["publish"]}
    return figures


if __name__ == "__main__":
    main()
