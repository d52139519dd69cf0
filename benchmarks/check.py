"""Whether the quick benchmarks still give the committed ratios: `make bench-check`, or `python -m benchmarks.check`.

Runs them again in an empty folder, so that the committed results stay, and compares ratios of figures that were
measured side by side; times of different machines say nothing of each other. Every ratio is made so that more is
better, and may be worse than the committed one by the margin that stands beside it. Ends with status 1 where one is
worse.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import rich
import rich.table

from benchmarks.demo import RESULTS

Result = dict[str, Any]


@dataclass(frozen=True)
class Ratio:
    """One figure over another, read from a result."""

    name: str
    read: Callable[[Result], float]
    margin: float
    """The share of the committed ratio by which it may be worse."""

    def holds(self, committed: Result, again: Result) -> bool:
        """Whether what was measured again is as good as what is committed, within the margin."""
        return self.read(again) >= self.read(committed) * (1 - self.margin)


def _speedup(max_staleness: int, result: Result) -> float:
    return float(result["speedup"][f"max_staleness={max_staleness}"])


def _scored(result: Result, way: str) -> float:
    return float(result["completions_per_second"][way])


def _beside_100_kb(result: Result) -> float:
    return 1e3 / _scored(result, "one_by_one") / float(max(result["parse_100_kB_ms"].values()))


def _beside_brute_force(result: Result) -> float:
    searched = next(run for run in result["components"]["clustered"] if run["distance"] == 2)
    return float(result["brute_force"]["brute_force_seconds"] / searched["seconds"])


RATIOS: Mapping[str, list[Ratio]] = {
    "overlap": [Ratio(f"samples/s at staleness {age} over those at 0", partial(_speedup, age), 0.1) for age in (1, 2)],
    "reward": [
        Ratio(
            "scored in batches over scored one by one",
            lambda result: _scored(result, "in_batches") / _scored(result, "one_by_one"),
            0.2,
        ),
        Ratio("an ordinary completion's time over that of the worst of 100 kB", _beside_100_kb, 0.4),
    ],
    "duplicates": [Ratio("brute force on 5,000 hashes over the search in 211,243", _beside_brute_force, 0.4)],
}
"""By the name of a benchmark: what must hold of it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(RATIOS), help="one of " + ", ".join(RATIOS))
    names = parser.parse_args().names
    if unknown := set(names) - set(RATIOS):
        parser.error(f"no quick benchmark is called {', '.join(sorted(unknown))}: there are {', '.join(RATIOS)}")
    table = rich.table.Table("benchmark", "ratio", "committed", "now", "margin", "")
    worse = 0
    for name in names:
        committed, again = json.loads((RESULTS / f"{name}.json").read_text()), run_again(name)
        for ratio in RATIOS[name]:
            holds = ratio.holds(committed, again)
            worse += not holds
            table.add_row(
                name,
                ratio.name,
                f"{ratio.read(committed):.3g}",
                f"{ratio.read(again):.3g}",
                f"{ratio.margin:.0%}",
                "holds" if holds else "[red]worse[/red]",
            )
    rich.print(table)
    sys.exit(worse > 0)


def run_again(name: str) -> Result:
    """What the benchmark called `name` writes now."""
    print(f"benchmarks.{name} runs", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
        command = [sys.executable, "-m", f"benchmarks.{name}"]
        subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
        result: Result = json.loads((Path(folder) / RESULTS / f"{name}.json").read_text())
    return result


if __name__ == "__main__":
    main()
