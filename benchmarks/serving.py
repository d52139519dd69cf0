"""The service against `vllm serve`: `python -m benchmarks.serving`.

The same tiny model with an adapter, engine settings and load. Both servers are started and then asked in turns, a few
seconds each, so that the machine is as fast for one as for the other; all processes of the one that is not asked are
stopped meanwhile. Each request has an image of its own and gets 64 tokens, at concurrency 1, 8 and 32. Writes
`benchmarks/results/serving.json`: the medians of each server over the rounds, and of what the rounds' own comparisons
gave.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.load import Server, dermo_ray_server, make_run, put_on, requests, vllm_server
from benchmarks.machine import describe
from benchmarks.turns import pause, resume

RESULT = Path("benchmarks/results/serving.json")
TOKENS = 64
LOADS = {1: 12, 8: 80, 32: 192}
"""Requests of each turn, by concurrency."""
_SETTLING = 2.0
"""Seconds after a turn in which nothing is measured."""

Turn = dict[str, dict[str, float]]
"""What came of one load, by server."""


def measure(run: Path, folder: Path, rounds: int) -> dict[int, list[Turn]]:
    """Put each load on both servers, in turns whose order changes, so many times."""
    with vllm_server(run, folder / "theirs.log") as theirs, dermo_ray_server(run, folder / "ours.log") as ours:
        servers = {"vllm serve": theirs, "dermo_ray": ours}
        for server in servers.values():
            asyncio.run(put_on(server, requests(64, TOKENS, seed=10_000), 32))
        found: dict[int, list[Turn]] = {concurrency: [] for concurrency in LOADS}
        for number in range(rounds):
            for concurrency, count in LOADS.items():
                bodies = requests(count, TOKENS, seed=100_000 * (number + 1) + 1000 * concurrency)
                turn: Turn = {}
                for name in list(servers)[:: 1 if number % 2 else -1]:
                    (other,) = (server for key, server in servers.items() if key != name)
                    with stopped(other):
                        turn[name] = asyncio.run(put_on(servers[name], bodies, concurrency)).figures(TOKENS)
                found[concurrency].append(turn)
                print(concurrency, turn, flush=True)
        return found


@contextmanager
def stopped(server: Server) -> Iterator[None]:
    """No process of the server runs during the body of a `with`, and for a moment after it none is measured."""
    pause(server.process.pid)
    try:
        yield
    finally:
        resume(server.process.pid)
        time.sleep(_SETTLING)


def compared(turns: list[Turn]) -> dict[str, Any]:
    """Medians over turns."""
    ratios = [turn["dermo_ray"]["tokens_per_second"] / turn["vllm serve"]["tokens_per_second"] for turn in turns]
    added = [turn["dermo_ray"]["p50_ms"] - turn["vllm serve"]["p50_ms"] for turn in turns]
    return {
        **{
            name: {key: median(turn[name][key] for turn in turns) for key in turns[0][name]}
            for name in ("vllm serve", "dermo_ray")
        },
        "throughput_ratio": round(median(ratios), 3),
        "added_p50_ms": round(median(added), 1),
        "throughput_ratios": [round(ratio, 3) for ratio in ratios],
        "added_p50s_ms": [round(more, 1) for more in added],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(make_run(Path(folder)), Path(folder), rounds)
    by_concurrency = {str(concurrency): compared(turns) for concurrency, turns in measured.items()}
    result = {
        "command": f"python -m benchmarks.serving --rounds {rounds}",
        "machine": describe(),
        "tokens_per_answer": TOKENS,
        "concurrency": by_concurrency,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(by_concurrency, indent=2))


if __name__ == "__main__":
    main()
