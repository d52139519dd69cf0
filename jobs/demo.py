"""Runs the whole chain on a small scale: concepts, prepare, sft, mavic, evaluate and serve, on phantoms or on HAM10000.

The policy is a Qwen3-VL of about two million parameters. Ends with a printed summary, `summary.json` and a
self-contained `report.html` in `out`. Stages that are done are not done again: remove `out` to begin anew.
"""

import base64
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import openai
import ray
import rich
import rich.table

from dermo_ray import rollouts
from dermo_ray.bench.heldout import Evaluation
from dermo_ray.config.base import Settings, load
from dermo_ray.config.concepts import ConceptsConfig
from dermo_ray.config.demo import BaseModelSettings, DemoConfig
from dermo_ray.config.evaluate import EvaluateConfig
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.config.prepare import PrepareConfig
from dermo_ray.config.serve import ServeConfig
from dermo_ray.config.sft import SftConfig
from dermo_ray.data.prompts import PromptOrder, read_prompts
from dermo_ray.metrics import METRICS
from dermo_ray.phantom import Phantom, draw
from dermo_ray.phantom.tiny_model import save_tiny_model
from dermo_ray.report.html import write_report
from dermo_ray.report.summary import Summary
from dermo_ray.staging import staged
from dermo_ray.taxonomy import Taxonomy
from dermo_ray.versions import installed_versions
from jobs import concepts, evaluate, mavic, prepare, sft
from jobs.cluster import ray_session
from jobs.command import main
from jobs.memory import PeakMemory
from jobs.serve import check_port, serving

CONFIG = DemoConfig

SUMMARY = "summary.json"
_PRETRAINING_SEEDS = 9_000_000_000
"""First drawing seed of the vision tower's phantoms, out of reach of prepared corpora."""

SettingsT = TypeVar("SettingsT", bound=Settings)


def run(config: DemoConfig) -> Summary:
    """Run every stage that is not done yet, and write summary and report."""
    out = config.out
    data, base, sft_run, mavic_run = out / "data", out / "base", out / "sft", out / "mavic"
    tuning = _stage(SftConfig, config, "sft", {"run": sft_run, "data": data, "model.path": base, "seed": config.seed})
    tuned = sft_run / "checkpoints/latest/model"
    expert, concepts_run = out / "expert", out / "concepts"
    learned = concepts_run / "checkpoints/latest/model"
    drawn = config.source == "phantoms"
    real = {"concepts": learned} | ({"sources.0.root": config.root} if config.root else {})
    preparing = _stage(
        PrepareConfig,
        config,
        "prepare" if drawn else f"prepare-{config.source}",
        {"out": data, "seed": config.seed} | ({} if drawn else real),
    )
    annotating = _stage(PrepareConfig, config, "prepare-concepts", {"out": expert, "seed": config.seed})
    seeing = _stage(ConceptsConfig, config, "concepts", {"run": concepts_run, "data": expert, "seed": config.seed})
    prompts = {"data": data, "sources": [config.source]}
    training = _stage(
        MavicConfig,
        config,
        "mavic",
        {
            "run": mavic_run,
            "model.path": tuned,
            "seed": config.seed,
            "reward.concepts": learned if drawn else "null",
        }
        | prompts,
    )
    measuring = _stage(EvaluateConfig, config, "evaluate", {"run": mavic_run, "seed": config.seed} | prompts)
    offering = _stage(ServeConfig, config, "serve", {"run": mavic_run})
    check_port(offering.host, offering.port)  # before the work, not after it

    seconds = Seconds(out)
    with PeakMemory() as memory, ray_session():
        with seconds.of("concepts"):
            prepare.run(annotating)
            concepts.run(seeing)
        with seconds.of("prepare"):
            prepare.run(preparing)
        with seconds.of("base"):
            _build_base(base, config.base)
        with seconds.of("sft"):
            sft.run(tuning)
        with seconds.of("mavic"):
            mavic.run(training)
        with seconds.of("evaluate"):
            evaluation = evaluate.held_out(measuring)
        with seconds.of("serve"):
            answer = _ask(offering, measuring, data)
    summary = Summary.of(
        evaluation,
        source=config.source,
        seed=config.seed,
        seconds=seconds.measured,
        peak_rss_gib=memory.gib,
        versions=installed_versions(),
        served_answer=answer,
    )
    (out / SUMMARY).write_text(summary.model_dump_json(indent=2))
    report = write_report(
        out,
        summary=summary,
        evaluation=evaluation,
        before=rollouts.read(mavic_run / evaluate.COMPLETIONS / f"{evaluate.BEFORE}.parquet"),
        after=rollouts.read(mavic_run / evaluate.COMPLETIONS / f"{evaluate.AFTER}.parquet"),
        prepared=data,
        taxonomy=Taxonomy.load(training.reward.taxonomy),
        sft_metrics=sft_run / METRICS,
        mavic_metrics=mavic_run / METRICS,
    )
    _print(summary, evaluation, report)
    return summary


class Seconds:
    """Wall time of each stage, kept in `seconds.json` so that a demo that goes on still knows its first stages."""

    def __init__(self, out: Path) -> None:
        self._path = out / "seconds.json"
        self.measured: dict[str, float] = json.loads(self._path.read_text()) if self._path.is_file() else {}

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Time the body of a `with`; a stage that went on where it was cut off adds to what it had taken."""
        print(f"\n== {stage}", file=sys.stderr, flush=True)
        started = time.monotonic()
        try:
            yield
        finally:
            self.measured[stage] = self.measured.get(stage, 0.0) + time.monotonic() - started
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(self.measured))


def _stage(model: type[SettingsT], config: DemoConfig, name: str, overrides: dict[str, object]) -> SettingsT:
    """The settings of a stage: its file, and what the demo decides."""
    return load(model, config.stages / f"{name}.yaml", [f"{key}={value}" for key, value in overrides.items()])


def _build_base(folder: Path, settings: BaseModelSettings) -> None:
    """Write the tiny model, its vision tower trained on phantoms, unless it is there."""
    if folder.exists():
        return

    @ray.remote
    def draw_all(seeds: range) -> list[Phantom]:
        return [draw(seed, settings.phantom) for seed in seeds]

    first = _PRETRAINING_SEEDS + settings.seed * settings.images
    chunks = [
        range(start, min(start + 256, first + settings.images)) for start in range(first, first + settings.images, 256)
    ]
    phantoms = [phantom for chunk in ray.get([draw_all.remote(seeds) for seeds in chunks]) for phantom in chunk]
    with staged(folder) as partial:
        save_tiny_model(partial, settings, settings.seed, phantoms, settings.steps)


def _ask(config: ServeConfig, measured: EvaluateConfig, data: Path) -> str:
    """Serve the trained policy, and let OpenAI's client ask it about a held-out image."""
    prompt = PromptOrder(read_prompts(data, measured.split, measured.sources), measured.seed)[0]
    image = data / prompt.image
    uri = f"data:image/{image.suffix[1:]};base64,{base64.b64encode(image.read_bytes()).decode()}"
    text = prompt.prompt.removeprefix("<image>\n")
    with serving(config) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
        answer = client.chat.completions.create(
            model=config.name,
            messages=[
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": text}],
                }
            ],
            temperature=0,
            max_tokens=measured.rollout.max_tokens,
        )
    content = answer.choices[0].message.content
    if not content:
        raise RuntimeError("the served policy answered nothing")
    print(f"{answer.system_fingerprint} answered:\n{content}")
    return f"{content}\n({answer.system_fingerprint})"


def _print(summary: Summary, evaluation: Evaluation, report: Path) -> None:
    table = rich.table.Table("", "sft", "mavic", "difference [95 %]", title=f"DermoRay on {summary.source}")
    table.add_row("valid format", f"{summary.format_valid.sft:.3f}", f"{summary.format_valid.mavic:.3f}")
    gains = {
        "reward, sampled": summary.reward_heldout,
        "reward, greedy": summary.reward_greedy,
        "diagnosis accuracy": summary.diagnosis_accuracy,
        "balanced accuracy": summary.balanced_accuracy,
    }
    for name, gain in gains.items():
        if gain is not None:
            change = f"{gain.diff:+.3f} [{gain.ci95[0]:+.3f}, {gain.ci95[1]:+.3f}]"
            table.add_row(name, f"{gain.sft:.3f}", f"{gain.mavic:.3f}", change)
    rich.print(table)
    stages = ", ".join(f"{stage} {taken:.0f} s" for stage, taken in summary.seconds.items())
    print(f"{sum(summary.seconds.values()):.0f} s ({stages}); at most {summary.peak_rss_gib:.1f} GiB; report: {report}")


if __name__ == "__main__":
    main(CONFIG, run, __doc__)
