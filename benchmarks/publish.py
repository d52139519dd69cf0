"""How long weights take from the learners to all engines: `python -m benchmarks.publish`.

Publishes adapters as rank 0 of the learners does, and loads them into the engines of a rollout pool as the run
controller does, checksums included: a tiny adapter, and those of 35 and 350 MB on a wider model with the same parts.
After each, the same bytes are written to the same disk and read back, so that both meet the same load. Writes
`benchmarks/results/publish.json`: median, quartiles and every time in seconds.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch

from actors.adapters import WEIGHTS, Adapter, publish, retire
from actors.rollout import Rollouts, rollout_pool
from benchmarks.machine import describe
from dermo_ray.config.mavic import RolloutSettings
from dermo_ray.config.model import LoraSettings, ModelSettings
from dermo_ray.models.policy import load_policy
from dermo_ray.phantom.tiny_model import TinyModelSettings, save_tiny_model
from jobs.cluster import ray_session

RESULT = Path("benchmarks/results/publish.json")
ENGINES = 2
CASES = {
    "tiny": (TinyModelSettings(), LoraSettings(rank=32, alpha=32), 30),
    # 19 * width parameters a layer and rank: seven matrices, gate, up and down three times as wide
    "35 MB": (TinyModelSettings(hidden_size=1024, layers=7, initializer_range=0.03), LoraSettings(rank=64), 20),
    "350 MB": (TinyModelSettings(hidden_size=1024, layers=9, initializer_range=0.03), LoraSettings(rank=512), 10),
}
"""The model, the adapter, and how many versions of it are published."""


@dataclass
class Times:
    """Seconds, one entry for each version; the size of an adapter in bytes."""

    writing: list[float] = field(default_factory=list)
    loading: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    size: int = 0


async def published(model: Path, lora: LoraSettings, count: int, folder: Path) -> Times:
    """How long `count` versions take."""
    policy: Any = load_policy(ModelSettings(path=model), lora)
    settings = RolloutSettings.model_validate(
        {
            "workers": ENGINES,
            "cpus_per_worker": 0.5,
            "engine": {"max_model_len": 256, "max_num_seqs": 8, "cpu_kv_cache_gib": 0.05},
        }
    )
    pool = rollout_pool(settings, ModelSettings(path=model), lora.rank, folder)
    times = Times()
    try:
        await pool.open()
        rollouts = Rollouts(pool, timeout=600)
        for version in range(count + 1):
            with torch.no_grad():
                next(p for p in policy.parameters() if p.requires_grad).add_(1e-3)  # no two versions are alike
            began = time.monotonic()
            adapter = await asyncio.to_thread(publish, folder, version, policy.save_pretrained, Adapter)
            written = time.monotonic()
            await rollouts.load(adapter)
            loaded = time.monotonic()
            times.size = (adapter.path / WEIGHTS).stat().st_size
            plain = await asyncio.to_thread(write_and_read, folder / "bytes", os.urandom(times.size))
            if version:  # the first load allocates what later ones use
                times.writing.append(written - began)
                times.loading.append(loaded - written)
                times.plain.append(plain)
            retire(folder, keep={version, version - 1})
        return times
    finally:
        await pool.close()


def write_and_read(path: Path, content: bytes) -> float:
    """Seconds of writing `content` to a new file and reading it back."""
    began = time.monotonic()
    path.write_bytes(content)
    path.read_bytes()
    seconds = time.monotonic() - began
    path.unlink()
    return seconds


def spread(times: list[float]) -> dict[str, Any]:
    """Median, quartiles and all of them."""
    low, _, high = quantiles(times, n=4)
    return {"median": median(times), "quartiles": [low, high], "all": [round(value, 4) for value in times]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=list(CASES), help=" or ".join(CASES))
    arguments = parser.parse_args()
    figures: dict[str, Any] = json.loads(RESULT.read_text())["figures"] if RESULT.is_file() else {}
    for name in arguments.cases:
        shape, lora, count = CASES[name]
        with tempfile.TemporaryDirectory(dir=".") as temporary, ray_session():
            model, folder = Path(temporary, "model").absolute(), Path(temporary, "adapters").absolute()
            save_tiny_model(model, shape)
            times = asyncio.run(published(model, lora, count, folder))
        total = [write + load for write, load in zip(times.writing, times.loading, strict=True)]
        figures[name] = {
            "bytes": times.size,
            "publish_to_loaded_on_all_seconds": spread(total),
            "writing_seconds": median(times.writing),
            "loading_seconds": median(times.loading),
            "plain_write_and_read_seconds": spread(times.plain),
            "times_plain": median(total) / median(times.plain),
        }
        print(name, json.dumps({key: value for key, value in figures[name].items()}))
    result = {
        "command": "python -m benchmarks.publish",
        "machine": describe(),
        "engines": ENGINES,
        "figures": figures,
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
