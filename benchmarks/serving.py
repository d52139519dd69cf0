"""The service against `vllm serve`: `python -m benchmarks.serving`.

The same tiny model with an adapter, engine settings and load; one server at a time, in turns, several rounds, so that
what else the machine does falls on both. Each request has an image of its own and gets 64 tokens, at concurrency 1, 8
and 32. Writes `benchmarks/results/serving.json`: medians over rounds and their ratios.
"""

import argparse
import asyncio
import json
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.load import dermo_ray_server, make_run, put_on, requests, vllm_server
from benchmarks.machine import describe

RESULT = Path("benchmarks/results/serving.json")
TOKENS = 64
LOADS = {1: 40, 8: 240, 32: 480}
"""Requests by concurrency."""
SERVERS = {"vllm serve": vllm_server, "dermo_ray": dermo_ray_server}

Figures = dict[str, float]


def measure(name: str, run: Path, folder: Path, seed: int) -> dict[int, Figures]:
    """Start a server, warm it up, and put each load on it."""
    with SERVERS[name](run, folder / f"{name.replace(' ', '-')}.log") as server:
        asyncio.run(put_on(server, requests(64, TOKENS, seed=10_000), 32))
        found = {}
        for concurrency, count in LOADS.items():
            bodies = requests(count, TOKENS, seed=seed + 1000 * concurrency)
            found[concurrency] = asyncio.run(put_on(server, bodies, concurrency)).figures(TOKENS)
            print(name, concurrency, found[concurrency], flush=True)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    measured: dict[str, list[dict[int, Figures]]] = {name: [] for name in SERVERS}
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder))
        for number in range(rounds):
            for name in SERVERS:
                measured[name].append(measure(name, run, Path(folder), seed=100_000 * number))
    loads = {}
    for concurrency in LOADS:
        by_name = {
            name: {key: median(found[concurrency][key] for found in results) for key in results[0][concurrency]}
            for name, results in measured.items()
        }
        theirs, ours = by_name["vllm serve"], by_name["dermo_ray"]
        loads[str(concurrency)] = by_name | {
            "throughput_ratio": round(ours["tokens_per_second"] / theirs["tokens_per_second"], 3),
            "added_p50_ms": round(ours["p50_ms"] - theirs["p50_ms"], 1),
        }
    result = {
        "command": f"python -m benchmarks.serving --rounds {rounds}",
        "machine": describe(),
        "tokens_per_answer": TOKENS,
        "concurrency": loads,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(loads, indent=2))


if __name__ == "__main__":
    main()
