"""Measures policies: the held-out reward of a MAVIC run, DermoBench, or both.

Held-out reward (`run`, `data`): a checkpoint against the policy it started from. Both answer every prompt several times
at the rollout temperature and once greedily, on the same engines. Writes `evaluation.json` and the scored completions
(`evaluation/*.parquet`) into the run directory, and prints reward by term, valid formats, morphology by field,
diagnosis accuracy, each with a bootstrap 95 % interval.

DermoBench (`bench`): any checkpoints or servers on the eleven tasks, greedily, by a majority vote, by CCT and by CCT
that stops early. Writes `bench.json`, `bench.html` and `model_card.md`; an evaluation that was interrupted goes on.
"""

import asyncio

import rich
import rich.table

from actors.adapters import Adapter
from actors.heldout import sample_both
from actors.messages import Prompt
from dermo_ray import rollouts
from dermo_ray.bench.heldout import Evaluation, evaluate
from dermo_ray.config.evaluate import EvaluateConfig
from dermo_ray.data.prompts import PromptOrder, read_prompts
from dermo_ray.errors import UserError
from dermo_ray.report.tables import tables
from dermo_ray.taxonomy import Taxonomy
from jobs import benchmark, preflight
from jobs.cluster import ray_session
from jobs.command import main
from serve.checkpoints import resolve

CONFIG = EvaluateConfig

BEFORE, AFTER = "sft", "mavic"
RESULT = "evaluation.json"
COMPLETIONS = "evaluation"


def run(config: EvaluateConfig) -> Evaluation | None:
    """Measure what the settings ask for; returns the evaluation of the held-out reward where that is part of it."""
    evaluation = held_out(config) if config.run is not None else None
    if config.bench is not None:
        benchmark.run(config.bench, compat=config.compat)
    return evaluation


def held_out(config: EvaluateConfig) -> Evaluation:
    """Measure both policies of `config.run`, which must be set, write the results into it, and return them."""
    run, data = config.run, config.data
    if run is None or data is None:
        raise ValueError("the settings name no run to measure")
    checkpoint = resolve(run, config.checkpoint)
    if checkpoint.adapter is None:
        raise UserError(f"{run} has no adapter to compare with its base model: give a run of jobs.mavic")
    order = PromptOrder(read_prompts(data, config.split, config.sources), config.seed)
    count = min(config.prompts or len(order.prompts), len(order.prompts))
    prompts = [Prompt(index, order[index]) for index in range(count)]
    with ray_session():
        preflight.ensure("evaluate", config, checkpoint.model)
        rows = asyncio.run(
            sample_both(
                prompts,
                (BEFORE, AFTER),
                checkpoint.model,
                Adapter.at(checkpoint.adapter, checkpoint.version),
                checkpoint.lora_rank,
                data,
                config.reward,
                config.rollout,
                config.seed,
            )
        )
    by_policy = {name: [row for row in rows if row.policy == name] for name in (BEFORE, AFTER)}
    for name, written in by_policy.items():
        rollouts.write(written, run / COMPLETIONS / f"{name}.parquet")
    result = evaluate(by_policy[BEFORE], by_policy[AFTER], Taxonomy.load(config.reward.taxonomy), seed=config.seed)
    (run / RESULT).write_text(result.model_dump_json(indent=2))
    print_tables(result)
    return result


def print_tables(result: Evaluation) -> None:
    """Print every measure of both policies and the paired difference."""
    for table in tables(result):
        shown = rich.table.Table("", BEFORE, AFTER, "difference", "", title=table.title)
        for section in table.sections:
            shown.add_section()
            for row in section.rows:
                intervals = (row.before, row.after, row.difference)
                shown.add_row(row.name, *(f"{i.mean:.3f} [{i.low:.3f}, {i.high:.3f}]" for i in intervals), row.verdict)
        rich.print(shown)


if __name__ == "__main__":
    main(CONFIG, run, __doc__)
