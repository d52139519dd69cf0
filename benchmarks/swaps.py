"""Checkpoints swapped under load: `python -m benchmarks.swaps`.

20 checkpoints are committed to a run one after another while 2,000 greedy requests about 8 images go to the service
that follows it. Afterwards another service, without load, is asked what each version says about each image; an answer
of the load that is not what the version it carries says is counted as wrongly attributed. Half as many requests without
swaps, in turns with those, tell the steady p99. Writes `benchmarks/results/swaps.json`.
"""

import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.load import Outcome, Server, add_checkpoint, dermo_ray_server, make_run, put_on, requests
from benchmarks.machine import describe
from dermo_ray import checkpoints

RESULT = Path("benchmarks/results/swaps.json")
SWAPS = 20
REQUESTS = 2_000
CONCURRENCY = 8
TOKENS = 32
IMAGES = 8
TURNS = 4
_AROUND = 1.0
"""Seconds after a checkpoint appeared within which a request counts as one during a swap."""
_SETTLED = 3.0
"""Seconds after which the last checkpoint of a turn has taken over."""


async def swap(server: Server, run: Path) -> dict[str, Any]:
    """Put the load on, in turns without and with swaps."""
    bodies = requests(REQUESTS, TOKENS, images=IMAGES)
    await put_on(server, bodies[:200], CONCURRENCY)  # warm
    steady, load = Outcome(0.0), Outcome(0.0)
    committed: list[float] = []

    async def keep_committing(first: int, seconds: float) -> None:
        for step in range(first, first + SWAPS // TURNS):
            await asyncio.sleep(seconds / (SWAPS // TURNS + 1))
            await asyncio.to_thread(add_checkpoint, run, run.parent / "adapter", step)
            committed.append(time.monotonic())

    for turn in range(TURNS):
        quiet = await put_on(server, bodies[: REQUESTS // TURNS // 2], CONCURRENCY)
        steady.add(quiet)
        swapping = asyncio.create_task(keep_committing(2 + turn * SWAPS // TURNS, 2 * quiet.seconds))
        load.add(await put_on(server, bodies[: REQUESTS // TURNS], CONCURRENCY, keep=True))
        await swapping
        await asyncio.sleep(_SETTLED)
    during = [
        latency
        for began, latency in zip(load.began, load.latencies, strict=True)
        if any(began - _AROUND < moment < began + latency for moment in committed)
    ]
    return {"steady": steady, "load": load, "during": during}


async def ask_each_alone(server: Server, run: Path) -> dict[tuple[str, int], str]:
    """What each version says about each image, by its fingerprint, one version after the other."""
    said = {}
    async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:
        for step in range(1, SWAPS + 2):
            if step > 1:
                folder = str(run / "checkpoints" / checkpoints.step_name(step))
                (await client.post("/admin/push", json={"folder": folder})).raise_for_status()
            alone = await put_on(server, requests(IMAGES, TOKENS, images=IMAGES), 1, keep=True)
            for image, answer in alone.answers:
                said[answer["system_fingerprint"], image] = answer["choices"][0]["message"]["content"]
    return said


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = make_run(folder)
        with dermo_ray_server(run, folder / "server.log", ["live.poll_seconds=0.5"]) as server:
            found = asyncio.run(swap(server, run))
            load = found["load"]
        alone = ["checkpoint=step_000001", "live.follow=false", f"live.store={folder / 'alone'}"]
        with dermo_ray_server(run, folder / "alone.log", alone) as server:
            said = asyncio.run(ask_each_alone(server, run))
    wrong, counts, texts = 0, dict[str, int](), set[str]()
    for number, answer in load.answers:
        fingerprint, text = answer["system_fingerprint"], answer["choices"][0]["message"]["content"]
        counts[fingerprint] = counts.get(fingerprint, 0) + 1
        wrong += text != said[fingerprint, number % IMAGES]
        texts.add(text)
    steady_p99, during_p99 = (1e3 * float(np.percentile(x, 99)) for x in (found["steady"].latencies, found["during"]))
    result = {
        "command": "python -m benchmarks.swaps",
        "machine": describe(),
        "requests": REQUESTS,
        "concurrency": CONCURRENCY,
        "tokens_per_answer": TOKENS,
        "swaps": len(counts) - 1,
        "failed": len(load.failures),
        "wrongly_attributed": wrong,
        "versions_that_answered": len(counts),
        "different_texts": len(texts),
        "requests_during_swaps": len(found["during"]),
        "steady": found["steady"].figures(TOKENS),
        "with_swaps": load.figures(TOKENS),
        "p99_steady_ms": round(steady_p99, 1),
        "p99_during_swaps_ms": round(during_p99, 1),
        "p99_ratio": round(during_p99 / steady_p99, 2),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
