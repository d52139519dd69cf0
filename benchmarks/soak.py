"""20,000 requests in a row: `python -m benchmarks.soak`.

Chat completions and diagnoses by CCT, about images that recur, with a checkpoint swapped every 1,000 requests. Writes
`benchmarks/results/soak.json`: the memory (proportional set size) of all processes of the service along the way, and
its growth after warm-up, as the ratio of the medians of the last and of the first quarter.
"""

import argparse
import asyncio
import json
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from benchmarks.load import Server, add_checkpoint, dermo_ray_server, make_run, put_on, requests
from benchmarks.machine import describe

RESULT = Path("benchmarks/results/soak.json")
CONCURRENCY = 16
TOKENS = 16
BATCH = 500
WARM = 4_000
"""Requests before memory is measured: caches of images and prompts fill meanwhile."""


async def diagnose(server: Server, bodies: list[dict[str, Any]]) -> int:
    """Ask for a diagnosis by CCT about the image of each body; returns how many failed."""
    async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:

        async def one(body: dict[str, Any]) -> bool:
            image = body["messages"][0]["content"][0]["image_url"]["url"]
            asked = {"image": image, "modality": "dermoscopic", "cct": True, "max_tokens": TOKENS}
            return (await client.post("/v1/diagnose", json=asked)).is_success

        return sum(not done for done in await asyncio.gather(*(one(body) for body in bodies)))


async def soak(server: Server, run: Path, count: int) -> tuple[list[tuple[int, float]], int, int]:
    """(requests so far, MiB) along the way, requests that failed, and swaps."""
    memory, failed, swaps = [], 0, 0
    for done in range(BATCH, count + 1, BATCH):
        bodies = requests(BATCH, TOKENS, seed=done % 2_000, images=64)
        load = await put_on(server, bodies[8:], CONCURRENCY)
        failed += len(load.failures) + await diagnose(server, bodies[:8])
        if done % 1_000 == 0:
            swaps += 1
            add_checkpoint(run, run.parent / "adapter", swaps + 1)
        memory.append((done, server.memory_mib()))
        print(done, round(memory[-1][1]), "MiB", load.figures(TOKENS), flush=True)
    return memory, failed, swaps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=20_000)
    count = parser.parse_args().requests
    if count < WARM + BATCH:
        parser.error(f"--requests must be at least {WARM + BATCH}: memory is measured after the first {WARM}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = make_run(folder)
        with dermo_ray_server(run, folder / "server.log", ["live.poll_seconds=0.5"]) as server:
            memory, failed, swaps = asyncio.run(soak(server, run, count))
    warm = [mib for done, mib in memory if done > WARM]
    quarter = max(1, len(warm) // 4)
    first, last = median(warm[:quarter]), median(warm[-quarter:])
    result = {
        "command": f"python -m benchmarks.soak --requests {count}",
        "machine": describe(),
        "requests": count,
        "failed": failed,
        "swaps": swaps,
        "memory_mib": {str(done): round(mib) for done, mib in memory},
        "first_quarter_mib": round(first),
        "last_quarter_mib": round(last),
        "growth": round(last / first - 1, 4),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
