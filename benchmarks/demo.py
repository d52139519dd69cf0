"""The demo's figures over several seeds: `python -m benchmarks.demo [SOURCE [ROOT]] [--seeds 0 1 2]`.

Runs `jobs.demo` from nothing for each seed, into `runs/benchmark-SOURCE-seedN`, and writes
`benchmarks/results/demo_SOURCE.json`: the machine, the command, and each seed's `summary.json`. Seeds of an earlier
call stay in the file until they are measured anew.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.machine import describe

RESULTS = Path("benchmarks/results")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", default="phantoms", choices=["phantoms", "ham10000"])
    parser.add_argument("root", nargs="?", help="folder of HAM10000")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    path = RESULTS / f"demo_{arguments.source}.json"
    summaries = {s["seed"]: s for s in json.loads(path.read_text())["seeds"]} if path.exists() else {}
    for seed in arguments.seeds:
        out = Path(f"runs/benchmark-{arguments.source}-seed{seed}")
        shutil.rmtree(out, ignore_errors=True)
        settings = [f"out={out}", f"seed={seed}", f"source={arguments.source}"]
        if arguments.root:
            settings.append(f"root={arguments.root}")
        subprocess.run([sys.executable, "-m", "jobs.demo", "configs/demo/demo.yaml", *settings], check=True)
        summaries[seed] = json.loads((out / "summary.json").read_text())
        measured = sorted(summaries)
        source = arguments.source + (" ROOT" if arguments.root else "")
        result = {
            "command": f"python -m benchmarks.demo {source} --seeds {' '.join(map(str, measured))}",
            "machine": describe(),
            "seeds": [summaries[each] for each in measured],
        }
        RESULTS.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
