"""Does the consistency term help where annotations are poor? `python -m benchmarks.consistency [--seeds 0 1 2]`.

Takes the fine-tuned policies and the phantoms of `python -m benchmarks.demo` (run that first). Of the training prompts,
15 % lose their reference morphology and 15 % get another image's. A concept model is trained on the same poor
annotations; MAVIC then runs twice from the same policy, with the consistency term and without it, and both are measured
against the exact morphology of held-out phantoms. Writes `benchmarks/results/consistency.json`: the paired difference
of morphology agreement, with minus without, for each seed and over all of them. What an earlier call trained and
measured for the same steps and epochs is read, not run again.
"""

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.demo import RESULTS
from benchmarks.machine import describe
from dermo_ray import rollouts
from dermo_ray.bench.statistics import paired_difference
from dermo_ray.config.base import load
from dermo_ray.config.concepts import ConceptsConfig
from dermo_ray.config.evaluate import EvaluateConfig
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.data.corpus import SAMPLES_FILE
from jobs import concepts, evaluate, mavic
from jobs.cluster import ray_session

STAGES = Path("configs/demo")
MISSING, WRONG = 0.15, 0.15
ARMS = ("without", "with")
DONE = "finished.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=80, help="updates of MAVIC")
    parser.add_argument("--epochs", type=float, default=4, help="of the concept model")
    arguments = parser.parse_args()
    seeds, agreements = [], []
    for seed in arguments.seeds:
        root = Path(f"runs/benchmark-phantoms-seed{seed}").absolute()
        folder = Path(f"runs/benchmark-consistency-seed{seed}").absolute()
        if not measured(folder, arguments):
            shutil.rmtree(folder, ignore_errors=True)
            with ray_session():
                run_seed(root, folder, seed, arguments)
        facts, agreement = figures(folder, seed)
        seeds.append(facts | {"difference": difference(agreement)})
        agreements.append(agreement)
        result = {
            "command": f"python -m benchmarks.consistency --seeds {' '.join(map(str, arguments.seeds))} "
            f"--steps {arguments.steps} --epochs {arguments.epochs:g}",
            "machine": describe(),
            "missing": MISSING,
            "wrong": WRONG,
            "seeds": seeds,
            "all_seeds": difference(np.concatenate(agreements, axis=1)),
        }
        (RESULTS / "consistency.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["all_seeds"]))


def measured(folder: Path, arguments: argparse.Namespace) -> bool:
    """Whether `folder` holds the finished runs that `arguments` ask for."""
    done = folder / DONE
    return done.exists() and json.loads(done.read_text()) == [arguments.steps, arguments.epochs]


def run_seed(root: Path, folder: Path, seed: int, arguments: argparse.Namespace) -> None:
    """Train the concept model and both arms of one seed, and evaluate them."""
    data = folder / "data"
    spoil(root / "data", data, seed)
    settings = {"run": folder / "concepts", "data": data, "seed": seed, "epochs": arguments.epochs}
    concepts.run(load(ConceptsConfig, STAGES / "concepts.yaml", overrides(settings)))
    for arm in ARMS:
        model = folder / "concepts/checkpoints/latest/model" if arm == "with" else "null"
        settings = {
            "run": folder / arm,
            "data": data,
            "seed": seed,
            "steps": arguments.steps,
            "model.path": root / "sft/checkpoints/latest/model",
            "reward.concepts": model,
        }
        mavic.run(load(MavicConfig, STAGES / "mavic.yaml", overrides(settings)))
        settings = {"run": folder / arm, "data": root / "data", "seed": seed}
        evaluate.run(load(EvaluateConfig, STAGES / "evaluate.yaml", overrides(settings)))
    (folder / DONE).write_text(json.dumps([arguments.steps, arguments.epochs]))


def figures(folder: Path, seed: int) -> tuple[dict[str, Any], np.ndarray[Any, np.dtype[np.float64]]]:
    """What the runs of one seed came to, and the agreement of each arm by test prompt, [2, prompts]."""
    concept_model = json.loads((folder / "concepts/evaluation.json").read_text())
    facts: dict[str, Any] = {"seed": seed, "field_accuracy_of_the_concept_model": concept_model["concepts"]}
    agreement = []
    for arm in ARMS:
        facts[arm] = json.loads((folder / arm / "evaluation.json").read_text())["after"]["sampled"]
        rows = rollouts.read(folder / arm / evaluate.COMPLETIONS / f"{evaluate.AFTER}.parquet")
        agreement.append(by_prompt([row for row in rows if not row.greedy]))
    prompts = sorted(agreement[0])
    return facts, np.array([[one[prompt] for prompt in prompts] for one in agreement])


def spoil(prepared: Path, out: Path, seed: int) -> None:
    """A prepared folder like `prepared`, with references of training prompts and annotations missing or wrong."""
    shutil.copytree(prepared, out, copy_function=os.link)
    table = pq.read_table(out / SAMPLES_FILE)
    samples = table.to_pylist()
    generator = np.random.default_rng(seed)
    trained = [row for row in samples if row["split"] != "test"]
    poor = generator.permutation(len(trained))[: round((MISSING + WRONG) * len(trained))]
    missing = round(len(poor) * MISSING / (MISSING + WRONG))
    said: dict[str, str | None] = {row["image"]: row["morphology"] for row in samples}
    for place, index in enumerate(poor):
        other = trained[int(generator.integers(len(trained)))]["morphology"]
        said[trained[index]["image"]] = None if place < missing else other
    for row in samples:
        row["annotation"] = row["morphology"] = said[row["image"]]
    rewrite(out / SAMPLES_FILE, samples, table.schema)
    for path in (out / "rl/train").glob("*.parquet"):
        table = pq.read_table(path)
        rows = table.to_pylist()
        for row in rows:
            morphology = said[row["image"]]
            truth = json.loads(row["ground_truth"])
            truth["morph"] = None if morphology is None else json.loads(morphology)
            row["ground_truth"] = json.dumps(truth)
        rewrite(path, rows, table.schema)


def rewrite(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    path.unlink()  # the other name of the file keeps what it holds
    pq.write_table(pa.Table.from_pylist(rows, schema), path)


def overrides(settings: dict[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in settings.items()]


def by_prompt(rows: list[rollouts.ScoredCompletion]) -> dict[str, float]:
    """Mean agreement with the exact morphology over the samples of each prompt."""
    terms: dict[str, list[float]] = {}
    for row in rows:
        terms.setdefault(row.prompt_id, []).append(row.terms["morphology"])
    return {prompt: float(np.mean(values)) for prompt, values in terms.items()}


def difference(agreement: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, Any]:
    """Of [2, prompts]: mean agreement of each arm, and the paired difference with its 95 % bootstrap interval."""
    without, with_term = agreement
    change = paired_difference(with_term, without)
    means = {arm: float(values.mean()) for arm, values in zip(ARMS, agreement, strict=True)}
    return means | {"difference": change.mean, "ci95": [change.low, change.high]}


if __name__ == "__main__":
    main()
