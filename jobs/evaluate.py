"""Measures what training did: a MAVIC checkpoint against the policy that it started from, on held-out prompts.

Both policies answer every prompt several times at the rollout temperature and once greedily, on the same engines.
Writes `evaluation.json` and the scored completions (`evaluation/*.parquet`) into the run directory, and prints a table:
reward by term, valid formats, morphology by field, diagnosis accuracy, each with a bootstrap 95 % interval.
"""

import asyncio
from itertools import product
from pathlib import Path

import rich
import rich.table

from actors.adapters import Adapter
from actors.batch import scored_completion
from actors.messages import Prompt, Sampling, sampling_seed
from actors.reward import RewardWorker
from actors.rollout import rollout_pool
from dermo_ray import rollouts
from dermo_ray.bench.heldout import Evaluation, evaluate
from dermo_ray.config.evaluate import EvaluateConfig
from dermo_ray.data.prompts import PromptOrder, read_prompts
from dermo_ray.errors import UserError
from dermo_ray.progress import progress_bar
from dermo_ray.report.tables import tables
from dermo_ray.rollouts import EVALUATION, ScoredCompletion
from dermo_ray.taxonomy import Taxonomy
from jobs import preflight
from jobs.cluster import ray_session
from jobs.command import main
from serve.checkpoints import Checkpoint, resolve

CONFIG = EvaluateConfig

BEFORE, AFTER = "sft", "mavic"
RESULT = "evaluation.json"
COMPLETIONS = "evaluation"


def run(config: EvaluateConfig) -> Evaluation:
    """Measure both policies, write the results, and return them."""
    checkpoint = resolve(config.run, config.checkpoint)
    if checkpoint.adapter is None:
        raise UserError(f"{config.run} has no adapter to compare with its base model: give a run of jobs.mavic")
    order = PromptOrder(read_prompts(config.data, config.split, config.sources), config.seed)
    count = min(config.prompts or len(order.prompts), len(order.prompts))
    prompts = [Prompt(index, order[index]) for index in range(count)]
    with ray_session():
        preflight.ensure("evaluate", config)
        rows = asyncio.run(_sample(config, checkpoint, checkpoint.adapter, prompts))
    by_policy = {name: [row for row in rows if row.policy == name] for name in (BEFORE, AFTER)}
    for name, written in by_policy.items():
        rollouts.write(written, config.run / COMPLETIONS / f"{name}.parquet")
    result = evaluate(by_policy[BEFORE], by_policy[AFTER], Taxonomy.load(config.reward.taxonomy), seed=config.seed)
    (config.run / RESULT).write_text(result.model_dump_json(indent=2))
    print_tables(result)
    return result


async def _sample(
    config: EvaluateConfig, checkpoint: Checkpoint, adapter: Path, prompts: list[Prompt]
) -> list[ScoredCompletion]:
    """Every prompt answered by both policies, sampled and greedily, and scored."""
    settings = config.rollout
    pool = rollout_pool(settings, checkpoint.model, checkpoint.lora_rank, config.data)
    pool.start_arguments = (Adapter.at(adapter, checkpoint.version),)
    scorer = RewardWorker(config.reward, config.data)
    room = asyncio.Semaphore(settings.max_concurrent)

    async def answer(prompt: Prompt, policy: str, greedy: bool) -> list[ScoredCompletion]:
        sampling = Sampling(
            n=1 if greedy else settings.group_size,
            temperature=0.0 if greedy else settings.temperature,
            max_tokens=settings.max_tokens,
            seed=sampling_seed(config.seed, prompt.index),
        )
        async with room:
            group = await pool.call("sample", prompt, sampling, policy == AFTER, timeout=settings.timeout)
        scored = scorer.score(group)
        bar.update(len(scored.rewards))
        return [
            scored_completion(scored, sample, policy, step=EVALUATION, greedy=greedy)
            for sample in range(len(scored.rewards))
        ]

    total = 2 * len(prompts) * (settings.group_size + 1)
    with progress_bar(total, "evaluate", " completions") as bar:
        try:
            await pool.open()
            answers = await asyncio.gather(
                *(answer(*which) for which in product(prompts, (BEFORE, AFTER), (False, True)))
            )
        finally:
            await pool.close(farewell="close")
    return [row for rows in answers for row in rows]


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
