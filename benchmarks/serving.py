"""The service against `vllm serve`: `python -m benchmarks.serving`.

The same tiny model with an adapter, engine settings and load. Both servers are started and then asked in turns, a few
seconds each, so that the machine is as fast for one as for the other; all processes of the one that is not asked are
stopped meanwhile. Ours runs behind Ray Serve's own proxy, as by default, and then behind HAProxy, which Ray Serve
brings along. Each request has an image of its own and gets 64 tokens, at concurrency 1, 8 and 32. Writes
`benchmarks/results/serving.json`: the medians of each pair over its rounds, and of what the rounds' own comparisons
gave.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
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
OURS: dict[str, Mapping[str, str]] = {"Ray Serve's proxy": {}, "HAProxy": {"RAY_SERVE_ENABLE_HA_PROXY": "1"}}
"""What stands in front of ours, and the environment that puts it there."""

_SETTLING = 2.0

Figures = dict[str, float]
Turn = tuple[Figures, Figures]
"""What came of one load, on `vllm serve` and on ours."""


def measure(run: Path, folder: Path, environment: Mapping[str, str], rounds: int) -> dict[int, list[Turn]]:
    """Put each load on both servers, in turns whose order changes, so many times."""
    with (
        vllm_server(run, folder / "theirs.log") as theirs,
        dermo_ray_server(run, folder / "ours.log", environment=environment) as ours,
    ):
        servers = [theirs, ours]
        for server in servers:
            asyncio.run(put_on(server, requests(64, TOKENS, seed=10_000), 32))
        found: dict[int, list[Turn]] = {concurrency: [] for concurrency in LOADS}
        for number in range(rounds):
            for concurrency, count in LOADS.items():
                seed = 100_000 * (number + 1) + 1000 * concurrency
                bodies = requests(count, TOKENS, seed=seed)
                figures = []
                for server in servers:
                    with stopped(ours if server is theirs else theirs):
                        figures.append(asyncio.run(put_on(server, bodies, concurrency)).figures(TOKENS))
                found[concurrency].append((figures[servers.index(theirs)], figures[servers.index(ours)]))
                print(concurrency, found[concurrency][-1], flush=True)
            servers.reverse()
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
    ratios = [ours["tokens_per_second"] / theirs["tokens_per_second"] for theirs, ours in turns]
    added = [ours["p50_ms"] - theirs["p50_ms"] for theirs, ours in turns]
    by_server = zip(("vllm serve", "dermo_ray"), zip(*turns, strict=True), strict=True)
    return {
        **{name: {key: median(turn[key] for turn in figures) for key in figures[0]} for name, figures in by_server},
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
        run = make_run(Path(folder))
        measured = {name: measure(run, Path(folder), environment, rounds) for name, environment in OURS.items()}
    behind = {
        name: {str(concurrency): compared(turns) for concurrency, turns in found.items()}
        for name, found in measured.items()
    }
    result = {
        "command": f"python -m benchmarks.serving --rounds {rounds}",
        "machine": describe(),
        "tokens_per_answer": TOKENS,
        "behind": behind,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(behind, indent=2))


if __name__ == "__main__":
    main()
