"""CCT on held-out phantoms unlike those of training: `python -m benchmarks.cct RUN [RUN ...]`.

RUN is the folder of a demo (`data`, `mavic` and the model it started from), one for each seed. New phantoms are drawn
with stronger lighting and blur, darker skin and other frequencies of diagnoses than any of training's; every RUN's
policy answers them greedily, by a majority vote of as many samples, by CCT, and by CCT that stops early. Beside these
stands CCT adapted to the stream: the answers of CCT with their posteriors corrected for the labels' frequencies, which
are estimated from the images without their labels (`cct.adaptation.prior_shift`); from the same votes, what other
weightings and temperatures would have answered, and one greedy answer to each view; and CCT over other plans of views
and samples. `--held-out` takes RUN's own held-out images instead, without a shift and by the usual plan alone, with
`--sources ham10000` those of that data set. Writes `benchmarks/results/cct.json`, `cct_held_out.json` or
`cct_held_out_ham10000.json`: for each run and over all of them accuracy, calibration, selective accuracy, tokens, and
the paired differences.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe
from dermo_ray.bench.columns import Columns, columns
from dermo_ray.bench.measures import Bootstrap, MethodMeasures, compare, differences, method_measures
from dermo_ray.bench.responses import Response
from dermo_ray.bench.stream import result_of
from dermo_ray.cct import CCTResult, Rollout, adapt, aggregate, by_taxonomy
from dermo_ray.config.bench import BenchSettings, Method
from dermo_ray.config.cct import CCTConfig
from dermo_ray.config.prepare import PrepareConfig
from dermo_ray.phantom import DIAGNOSES
from dermo_ray.taxonomy import Taxonomy, fold_label
from jobs import benchmark, prepare
from jobs.cluster import ray_session

RESULTS = Path("benchmarks/results")
FOLDER = Path("runs/benchmark-cct")
ITEMS = 600
SEED = 7_000
"""Of the drawn phantoms; training's seeds are small numbers."""

SHIFT: dict[str, Any] = {
    "size": 96,
    "dermoscopic_share": 1,
    "skin_tones": (1, 1, 2, 4, 6, 6),
    "nuisances": {"lighting": 1.0, "blur": 0.8, "hair": 0.3, "strength": 1.0},
    # every second diagnosis is four times as frequent as the others
    "diagnoses": {
        name: 4.0 if place % 2 else 1.0
        for place, name in enumerate(sorted(d.name for d in DIAGNOSES.values() if d.modality == "dermoscopic"))
    },
}
EXPONENTS = ((0, 0), (1, 0), (0, 1), (2, 2), (4, 4))
"""Other alphas and betas that are tried on the same votes."""
TEMPERATURES = (0.5, 2.0)
"""Others than 1 of the posteriors, before they are adapted to the stream."""
_AS_THEY_ARE = ("identity", "flip_horizontal", "quarter_turn_left", "half_turn")
_UNEVENED = {"clinical": _AS_THEY_ARE, "dermoscopic": _AS_THEY_ARE}
MORE_PLANS: Mapping[str, dict[str, Any]] = {
    "views without the light evened": {"views": _UNEVENED},
    "samples alone, none greedy": {"greedy_first": False},
    "samples alone and without the light evened": {"views": _UNEVENED, "greedy_first": False},
    "the usual views, each answered greedily alone": {"samples_per_view": 1},
}
"""Others that are tried, the last of half as many rollouts."""


def shifted_phantoms(seed: int) -> Path:
    """A prepared folder of phantoms unlike training's, all but a few of them held out."""
    out = FOLDER / f"data-{seed}"
    prepare.run(
        PrepareConfig.model_validate(
            {
                "source": "phantoms",
                "count": ITEMS + 20,
                "phantom": SHIFT,
                "seed": SEED + seed,
                "out": out,
                "prompts": "brief",
                "formats": ["morph_reasoning"],
                "tasks": ["task3"],
                "images": {"encoding": "png"},
                "split": {"val": 0.0, "test": 0.97},
            }
        )
    )
    return out


def settings_for(run: Path, prepared: Path, name: str, sources: Sequence[str] | None = None) -> BenchSettings:
    """The benchmark of one run: morphology-grounded reasoning, which is what the demo trains.

    Of images without a known morphology the diagnosis alone is the reference, which is all that is measured here.
    """
    return BenchSettings.model_validate(
        {
            "out": FOLDER / name,
            "cache": FOLDER / f"{name}.sqlite",
            "items": {"prepared": prepared, "style": "brief", "limit": ITEMS, "sources": sources},
            "tasks": ["t3.2"],
            "policies": [{"name": "mavic", "run": run / "mavic"}],
            "cct": {"adaptation": {"prior_shift": True}},
            "max_tokens": {"choice": 48, "open": 48},
            "pool": {"cpus_per_worker": 2},
            "engine": {"max_model_len": 256, "max_num_seqs": 256, "cpu_kv_cache_gib": 0.5},
        }
    )


def planned_otherwise(settings: BenchSettings, name: str) -> BenchSettings:
    """The same questions under one of `MORE_PLANS`, by the methods that settings with CCT must name."""
    cct = CCTConfig.model_validate(settings.cct.model_dump() | MORE_PLANS[name])
    out = settings.out.with_name(f"{settings.out.name}-{list(MORE_PLANS).index(name)}")
    return settings.model_copy(update={"cct": cct, "out": out, "methods": ("greedy", "majority", "cct")})


def answers_of(
    settings: BenchSettings, taxonomy: Taxonomy
) -> tuple[dict[Method, list[Response]], dict[Method, Columns]]:
    """The responses of every method, and their columns."""
    asked = benchmark.ask(settings, taxonomy)
    responses: dict[Method, list[Response]] = {method: [] for method in settings.methods}
    for response in asked.answered[0].responses:
        responses[response.method].append(response)
    items = asked.items["t3.2"].items
    found = {method: columns(items, given, taxonomy) for method, given in responses.items()}
    return responses, {method: column for method, column in found.items() if column is not None}


def adapted_to_the_stream(plain: Columns, responses: Sequence[Response], settings: BenchSettings) -> Columns:
    """The columns of CCT once its posteriors are corrected; what no rollout answered stays as it was."""
    steps = {response.item: response.steps[0] for response in responses if response.steps[0].answer is not None}
    answered = [item.id for item in plain.items if item.id in steps]
    adapted = adapt([result_of(steps[item]) for item in answered], settings.cct).results
    return _answered_by(plain, dict(zip(answered, adapted, strict=True)))


def _answered_by(plain: Columns, results: Mapping[str, CCTResult]) -> Columns:
    """The columns with the answers of `results` by item in place of their own."""
    answers, right, confidence = list(plain.answers), plain.right.copy(), plain.confidence.copy()
    for row, item in enumerate(plain.items):
        if result := results.get(item.id):
            answers[row], confidence[row] = result.answer, result.confidence
            right[row] = fold_label(result.answer) == fold_label(plain.truth[row])
    return replace(plain, answers=answers, right=right, confidence=confidence)


def adaptation_figures(plain: Columns, adapted: Columns, greedy: Columns) -> dict[str, Any]:
    """What the adaptation to the stream is worth beside CCT and beside one greedy answer."""
    return {
        "over_cct": compare(plain, adapted, Bootstrap()).model_dump(mode="json"),
        "over_greedy": compare(greedy, adapted, Bootstrap()).model_dump(mode="json"),
    }


def reweighted(
    plain: Columns, responses: Sequence[Response], settings: BenchSettings, taxonomy: Taxonomy, **changes: float
) -> Columns:
    """The columns as CCT would fill them from the same votes under other exponents."""
    similarity = by_taxonomy(taxonomy)
    config = settings.cct.model_copy(update=changes)
    steps = {}
    for response in responses:
        rollouts = [
            Rollout(vote.answer, vote.confidence or 0.0, view=vote.view)
            for vote in response.steps[0].votes
            if vote.answer is not None
        ]
        if rollouts:
            steps[response.item] = aggregate(rollouts, config, similarity=similarity)
    return _answered_by(plain, steps)


def answered_alone(plain: Columns, responses: Sequence[Response], view: str) -> Columns:
    """The columns with the answer of the first rollout about `view`, the greedy one; confidences stay CCT's."""
    first = {
        response.item: next(vote.answer for vote in response.steps[0].votes if vote.view == view)
        for response in responses
    }
    answers = [first[item.id] for item in plain.items]
    right = [
        answer is not None and fold_label(answer) == fold_label(truth)
        for answer, truth in zip(answers, plain.truth, strict=True)
    ]
    return replace(plain, answers=answers, right=np.array(right, plain.right.dtype))


def others_tried(
    plain: Columns, responses: Sequence[Response], settings: BenchSettings, taxonomy: Taxonomy
) -> dict[str, Columns]:
    """What CCT would have answered with other weights, and adapted to the stream with tempered posteriors."""
    weighted = {
        f"alpha {alpha:g}, beta {beta:g}": reweighted(plain, responses, settings, taxonomy, alpha=alpha, beta=beta)
        for alpha, beta in EXPONENTS
    }
    tempered = {}
    for temperature in TEMPERATURES:
        adaptation = settings.cct.adaptation.model_copy(update={"temperature": temperature})
        cct = settings.cct.model_copy(update={"adaptation": adaptation})
        changed = settings.model_copy(update={"cct": cct})
        tempered[f"posteriors of temperature {temperature:g} adapted to the stream"] = adapted_to_the_stream(
            plain, responses, changed
        )
    return weighted | tempered


def pooled(parts: Sequence[Columns]) -> Columns:
    """The columns of several runs below each other; equal items of two runs stay apart."""
    return replace(
        parts[0],
        items=[item for part in parts for item in part.items],
        places=[place for part in parts for place in part.places],
        groups=np.concatenate([np.char.add(f"{number}/", part.groups) for number, part in enumerate(parts)]),
        right=np.concatenate([part.right for part in parts]),
        confidence=np.concatenate([part.confidence for part in parts]),
        answers=[answer for part in parts for answer in part.answers],
        truth=[truth for part in parts for truth in part.truth],
        abstained=np.concatenate([part.abstained for part in parts]),
    )


def figures(responses: Mapping[Method, Sequence[Response]], answers: Mapping[Method, Columns]) -> dict[str, Any]:
    """What is reported of one run, or of all."""
    measured: dict[Method, MethodMeasures] = {
        method: method_measures(method, given, answers[method], Bootstrap()) for method, given in responses.items()
    }
    return {
        "items": len(answers["greedy"].right),
        "methods": {
            method: m.model_dump(mode="json", exclude={"reliability", "risk_coverage"})
            for method, m in measured.items()
        },
        "differences": [d.model_dump(mode="json") for d in differences(answers, measured, Bootstrap())],
    }


def over_greedy(greedy: Columns, found: Sequence[Mapping[str, Columns]]) -> dict[str, Any]:
    """What each of the ways to answer, all runs together, is worth beside one greedy answer to the untouched image."""
    return {
        name: compare(greedy, pooled([columns[name] for columns in found]), Bootstrap()).model_dump(mode="json")
        for name in found[0]
    }


def result_name(*, held_out: bool, sources: Sequence[str] | None) -> str:
    """What the result's file is called, so that no kind of images overwrites another's figures."""
    return "_".join(["cct", *(["held_out"] if held_out else []), *(sources or [])])


def command(*, held_out: bool, sources: Sequence[str] | None) -> str:
    """The command line, RUN for the folders."""
    chosen = f" --sources {','.join(sources)}" if sources else ""
    return f"python -m benchmarks.cct RUN ...{' --held-out' if held_out else ''}{chosen}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of demos, one for each seed")
    parser.add_argument("--held-out", action="store_true", help="RUN's own held-out images, without a shift")
    parser.add_argument(
        "--sources", type=lambda names: names.split(","), help="with --held-out: images of these data sets alone"
    )
    arguments = parser.parse_args()
    if arguments.sources and not arguments.held_out:
        parser.error("--sources belongs to --held-out: phantoms with a shift are drawn anew")
    taxonomy = Taxonomy.load()
    kind = "-".join(["held-out" if arguments.held_out else "shifted", *(arguments.sources or [])])
    by_run: list[tuple[dict[Method, list[Response]], dict[Method, Columns]]] = []
    adapted: list[Columns] = []
    tried: list[dict[str, Columns]] = []
    one_view: list[dict[str, Columns]] = []
    with ray_session():
        for number, run in enumerate(arguments.runs):
            prepared = run / "data" if arguments.held_out else shifted_phantoms(number)
            settings = settings_for(run, prepared, f"{kind}-{run.name}", arguments.sources)
            responses, answers = answers_of(settings, taxonomy)
            by_run.append((responses, answers))
            adapted.append(adapted_to_the_stream(answers["cct"], responses["cct"], settings))
            views = settings.cct.views.dermoscopic
            one_view.append({view: answered_alone(answers["cct"], responses["cct"], view) for view in views[1:]})
            others = others_tried(answers["cct"], responses["cct"], settings, taxonomy)
            for name in () if arguments.held_out else MORE_PLANS:
                _, answered = answers_of(planned_otherwise(settings, name), taxonomy)
                others[name] = answered["cct"]
            tried.append(others)
    methods = by_run[0][0].keys()
    together = {method: pooled([answers[method] for _, answers in by_run]) for method in methods}
    every = {method: [response for given, _ in by_run for response in given[method]] for method in methods}
    result = {
        "command": command(held_out=arguments.held_out, sources=arguments.sources),
        "machine": describe(),
        "shift": None if arguments.held_out else SHIFT,
        "sources": arguments.sources,
        "settings": settings_for(arguments.runs[0], Path("prepared"), kind).cct.model_dump(mode="json"),
        "runs": {run.name: figures(*found) for run, found in zip(arguments.runs, by_run, strict=True)},
        "all": figures(every, together),
        "adapted": adaptation_figures(together["cct"], pooled(adapted), together["greedy"]),
        "tried_over_greedy": over_greedy(together["greedy"], tried),
        "one_view_over_greedy": over_greedy(together["greedy"], one_view),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    name = result_name(held_out=arguments.held_out, sources=arguments.sources)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["all"], indent=2))


if __name__ == "__main__":
    main()
