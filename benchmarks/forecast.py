"""What 8, 64 and 512 GPUs would make of MAVIC on an 8-billion-parameter policy: `python -m benchmarks.forecast`.

A forecast, not a measurement: nobody has run this on GPUs. A run is as fast as the slowest of its parts, which work
side by side. How much work a group is for the GPUs follows from the model's size and the card's datasheet; what share
of the datasheet is reached is assumed. What the other parts can do at most is measured, on this machine, and read from
the other results: the controller's CPU time a group, rewards a second and core, seconds to publish an adapter, and the
share of the time that engines are busy where updates overlap. Batches grow with the GPUs. Writes
`benchmarks/results/forecast.json`: tokens a second by number of GPUs, and which part is the bottleneck.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.demo import RESULTS

GPUS = (8, 64, 512)


@dataclass(frozen=True)
class Assumed:
    """What the forecast rests on beyond measured parts."""

    parameters: float = 8.2e9
    """Of Qwen3-8B, the language model of Qwen3-VL-8B."""
    cache_bytes_per_token: float = 36 * 8 * 128 * 2 * 2
    """Layers, heads of keys and values, their width, keys and values, bfloat16."""
    flops: float = 989e12
    """An H100 SXM in bfloat16, dense, by NVIDIA's datasheet."""
    bandwidth: float = 3.35e12
    """Bytes a second, likewise."""
    share_of_flops: float = 0.35
    share_of_bandwidth: float = 0.6
    prompt_tokens: int = 600
    """With one image."""
    completion_tokens: int = 400
    group_size: int = 8
    sequences_at_once: int = 256
    """That an engine decodes side by side."""
    groups_per_batch_and_gpu: int = 8
    rewards_cores_per_gpu: float = 1.0


def seconds_of_a_group(assumed: Assumed) -> dict[str, float]:
    """Of one GPU as an engine, and of one as a learner rank."""
    a = assumed
    compute = a.flops * a.share_of_flops
    context = a.prompt_tokens + a.completion_tokens / 2
    read = 2 * a.parameters + a.sequences_at_once * context * a.cache_bytes_per_token
    step = max(read / (a.bandwidth * a.share_of_bandwidth), 2 * a.parameters * a.sequences_at_once / compute)
    decoding = a.group_size * a.completion_tokens * step / a.sequences_at_once
    prefill = 2 * a.parameters * a.prompt_tokens / compute  # once a group: the others find it in the prefix cache
    # forward, recomputed for the backward pass, and backward to the adapter through weights that are frozen
    trained = a.group_size * (a.prompt_tokens + a.completion_tokens)
    return {"rollout": decoding + prefill, "learner": 6 * a.parameters * trained / compute}


def forecast(gpus: int, assumed: Assumed, measured: Mapping[str, float]) -> dict[str, Any]:
    """Groups and tokens a second on `gpus` GPUs, split so that engines and learners keep pace."""
    seconds = seconds_of_a_group(assumed)
    engines = max(1, round(gpus * seconds["rollout"] / sum(seconds.values())))
    batch = assumed.groups_per_batch_and_gpu * gpus
    most = {
        "engines": measured["busy_share_of_engines"] * engines / seconds["rollout"],
        "learners": (gpus - engines) / seconds["learner"],
        "controller": 1000 / measured["controller_ms_per_group"],
        "rewards": gpus * assumed.rewards_cores_per_gpu * measured["rewards_per_core"] / assumed.group_size,
    }
    bottleneck = min(most, key=lambda part: most[part])
    update = batch / most[bottleneck]
    # as if learners always waited while an adapter is loaded; where their next batch is there, they go on
    groups = batch / (update + measured["publish_seconds"])
    return {
        "gpus": gpus,
        "engines": engines,
        "learner_ranks": gpus - engines,
        "at_most_groups_per_second": {part: round(value, 1) for part, value in most.items()},
        "bottleneck": bottleneck,
        "share_of_the_time_spent_publishing": round(measured["publish_seconds"] * groups / batch, 4),
        "groups_per_second": round(groups, 2),
        "tokens_per_second": round(groups * assumed.group_size * assumed.completion_tokens),
    }


def calibration() -> dict[str, float]:
    """The measured parts, from the committed results."""
    of_many = 512
    overlap, control, reward, publish = (
        json.loads((RESULTS / f"{name}.json").read_text()) for name in ("overlap", "control_plane", "reward", "publish")
    )
    return {
        "busy_share_of_engines": overlap["figures"]["max_staleness=1"]["rollout_busy"],
        "controller_ms_per_group": next(
            speed["controller_cpu_ms_per_group"] for speed in control["throughput"] if speed["workers"] == of_many
        ),
        "rewards_per_core": reward["completions_per_second"]["one_by_one"],
        "publish_seconds": publish["figures"]["350 MB"]["publish_to_loaded_on_all_seconds"]["median"],
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    assumed, measured = Assumed(), calibration()
    result = {
        "command": "python -m benchmarks.forecast",
        "kind": "forecast; nothing of it was measured on a GPU",
        "assumed": asdict(assumed),
        "measured": measured,
        "seconds_of_a_group_on_one_gpu": seconds_of_a_group(assumed),
        "forecasts": [forecast(gpus, assumed, measured) for gpus in GPUS],
    }
    (RESULTS / "forecast.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["forecasts"], indent=2))


if __name__ == "__main__":
    main()
