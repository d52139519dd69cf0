"""A made-up run directory of jobs.mavic: no policy wrote its completions and nothing was trained.

Completions are the phantoms' references with random errors, fewer from step to step, scored by the real reward and cut
into tokens by the phantoms' tokenizer; log-probabilities are random numbers. For measuring and testing what reads runs.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from PIL import Image

from dermo_ray.completion import Completion, render
from dermo_ray.config import RewardConfig, dump
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.morphology import DERM7PT_FIELDS, SKINCON_FEATURES, Morphology
from dermo_ray.phantom import DIAGNOSES, PhantomSettings, draw
from dermo_ray.phantom.tokenizer import END_OF_TURN, build_tokenizer
from dermo_ray.records import GroundTruth
from dermo_ray.rollouts import ScoredCompletion, step_file, write
from dermo_ray.run_directory import CONFIG, METRICS, ROLLOUTS, TOKENIZER
from dermo_ray.taxonomy import Taxonomy
from rewards import Scorer

_CUT_AT = 60
"""Tokens of the longest completion."""
_REASONS = ("The colours and the border fit", "The pattern is that of", "Structure and symmetry speak for")


def write_run(run: Path, *, steps: int, groups: int, group_size: int, prompts: int, seed: int = 0) -> None:
    """Write `run` with `steps` files of `groups` groups each, over `prompts` prompts whose data lies in `run/data`."""
    rng = np.random.default_rng(seed)
    data = run / "data"
    (data / "images").mkdir(parents=True)
    truths = [_prompt(number, data) for number in range(prompts)]
    config = MavicConfig.model_validate(
        {"run": run, "data": data, "model": {"path": "synthetic"}, "steps": steps, "batch_groups": groups}
        | {"rollout": {"group_size": group_size, "max_tokens": _CUT_AT}, "max_staleness": 1}
    )
    dump(config, run / CONFIG)
    tokenizer = build_tokenizer(2048)
    tokenizer.backend_tokenizer.save(str(run / TOKENIZER))
    scorer = Scorer(RewardConfig())
    with (run / METRICS).open("w") as metrics:
        for step in range(steps):
            chosen = [(step * groups + place) % prompts for place in range(groups)]
            rows = _step(step, step / max(1, steps - 1), chosen, truths, group_size, tokenizer, scorer, rng)
            write(rows, step_file(run / ROLLOUTS, step))
            metrics.write(json.dumps({"step": step + 1, "time": 1e9 + step, **_metrics(rows, rng)}) + "\n")


def _prompt(number: int, data: Path) -> GroundTruth:
    phantom = draw(number, PhantomSettings())
    Image.fromarray(phantom.image).save(data / "images" / f"{number:04d}.png")
    return GroundTruth(
        task="task3",
        modality=phantom.modality,
        final_label=phantom.diagnosis,
        taxon_path=Taxonomy.load().path(phantom.diagnosis),
        morph=phantom.morphology.to_json(),
    )


def _step(
    step: int,
    skill: float,
    chosen: Sequence[int],
    truths: Sequence[GroundTruth],
    group_size: int,
    tokenizer: Any,
    scorer: Scorer,
    rng: np.random.Generator,
) -> list[ScoredCompletion]:
    numbers = [number for number in chosen for _ in range(group_size)]
    references = [truths[number] for number in numbers]
    encoded = tokenizer([_text(truth, skill, rng) + END_OF_TURN for truth in references])["input_ids"]
    sampled = [ids[:_CUT_AT] for ids in encoded]
    texts = [tokenizer.decode(ids).removesuffix(END_OF_TURN) for ids in sampled]
    rewards = scorer.score(texts, references)
    rows = []
    for place, (number, truth, ids, text, reward) in enumerate(
        zip(numbers, references, sampled, texts, rewards, strict=True)
    ):
        group = rewards[place // group_size * group_size :][:group_size]
        version = max(0, step - int(rng.integers(0, 2)))
        engine = -rng.exponential(0.25 - 0.15 * skill, len(ids)) * (rng.random(len(ids)) < 0.7)
        learner = np.minimum(0, engine + rng.normal(0, 0.03, len(ids)))
        newer = int(rng.integers(0, len(ids))) if version < step else len(ids)
        rows.append(
            ScoredCompletion(
                step=step,
                policy="synthetic",
                version=version,
                prompt_id=f"phantom_{number:04d}",
                image=f"images/{number:04d}.png",
                task=truth.task,
                modality=truth.modality,
                text=text,
                tokens=len(ids),
                finish_reason="length" if len(ids) == _CUT_AT else "stop",
                logprob=float(engine.mean()),
                token_ids=tuple(ids),
                token_logprobs=tuple(engine.tolist()),
                token_versions=(version,) * newer + (step,) * (len(ids) - newer),
                learner_logprobs=tuple(learner.tolist()),
                advantage=reward.total - fmean(other.total for other in group),
                reward=reward.total,
                terms=reward.terms,
                weights=reward.weights,
                gate=reward.gate,
                gated=tuple(sorted(reward.gated)),
                faults=reward.faults,
                ground_truth=truth.model_dump_json(),
                sample=place % group_size,
                greedy=False,
            )
        )
    return rows


def _text(truth: GroundTruth, skill: float, rng: np.random.Generator) -> str:
    """The reference as a completion, with errors that are rarer the higher `skill` is."""
    wrong = 0.5 - 0.4 * skill
    morphology = truth.morphology
    assert morphology is not None  # phantoms have one
    if morphology.schema == "derm7pt":
        fields = {
            name: str(rng.choice(list(DERM7PT_FIELDS[name]))) if rng.random() < wrong else value
            for name, value in morphology.fields.items()
        }
        stated = Morphology("derm7pt", fields=fields)
    else:
        kept = {name for name in morphology.features if rng.random() > wrong}
        added = {str(rng.choice(SKINCON_FEATURES))} if rng.random() < wrong else set()
        stated = Morphology("skincon", features=frozenset(kept | added))
    names = [name for name, entry in DIAGNOSES.items() if entry.modality == truth.modality]
    label = str(rng.choice(names)) if rng.random() < wrong else truth.final_label
    text = render(Completion("task3", f"{rng.choice(_REASONS)} {label}.", stated, diagnosis=label))
    if rng.random() < wrong / 4:
        return str(rng.choice([text.replace("</morph>", ""), f"{text}\nNo doubt.", text.replace("}", "", 1)]))
    return text


def _metrics(rows: Sequence[ScoredCompletion], rng: np.random.Generator) -> dict[str, float]:
    terms = sorted({term for row in rows for term in row.terms})
    return {
        "reward/total": fmean(row.reward for row in rows),
        **{f"reward/{term}": fmean(row.terms[term] for row in rows if term in row.terms) for term in terms},
        "format_valid": fmean(float(not row.faults) for row in rows),
        "gate": fmean(row.gate for row in rows),
        "entropy": -fmean(row.logprob for row in rows),
        "staleness/mean": fmean(row.step - row.version for row in rows),
        "staleness/max": float(max(row.step - row.version for row in rows)),
        "seconds/wait_rollout": float(rng.uniform(20, 25)),
        "seconds/update": float(rng.uniform(8, 10)),
        "loss": float(rng.normal(0, 0.02)),
    }
