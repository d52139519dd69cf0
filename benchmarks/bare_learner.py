"""The learner ranks alone on what a run sampled, for `benchmarks.rl_step` to compare with.

Model, prompts and algorithm are those of `configs/demo/mavic.yaml`. One process is one rank; it reads the groups of a
run's `rollouts` before it starts, makes the same updates from memory, without Ray, engines or records, and writes when
each update ended, by the machine's monotonic clock.
"""

import argparse
import asyncio
import json
import time
from pathlib import Path

from actors.batch import with_advantages
from actors.messages import Prompt, Sampling, TrainingGroup
from actors.replay import Dump, DumpedRewards, DumpedRollouts
from dermo_ray.config.base import load
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.data.prompts import read_prompts
from dermo_ray.models.chat import load_processor

STAGE = Path("configs/demo/mavic.yaml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("rollouts", type=Path, help="folder of a run")
    parser.add_argument("out", type=Path, help="file")
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--port", type=int, required=True, help="where the ranks meet")
    parser.add_argument("--steps", type=int, required=True)
    arguments = parser.parse_args()
    config = load(MavicConfig, STAGE, [f"model.path={arguments.model}", f"data={arguments.data}"])
    from actors.learner import LearnerRank

    updates = asyncio.run(recorded(arguments.rollouts, config, arguments.steps))
    rank = LearnerRank(config, arguments.rank)
    rank.start("127.0.0.1", arguments.port, None)
    ended = []
    for step, groups in enumerate(updates):
        rank.update(groups, step)
        rank.trained_logprobs()
        ended.append(time.monotonic())
    arguments.out.write_text(json.dumps(ended))


async def recorded(folder: Path, config: MavicConfig, steps: int) -> list[list[TrainingGroup]]:
    """The groups of each of the first `steps` updates of a run, with their advantages."""
    dump = Dump.read(folder, read_prompts(config.data, "train"))
    sampled, rewarded = DumpedRollouts(dump, load_processor(config.model.path), config), DumpedRewards(dump)
    size, limit = config.batch_groups, config.rollout.max_tokens
    prompts = [Prompt(index, record) for index, record in enumerate(dump.prompts[: steps * size])]
    scored = [await rewarded.score(await sampled.sample(prompt, Sampling())) for prompt in prompts]
    return [
        with_advantages(scored[first : first + size], config.algorithm, limit) for first in range(0, steps * size, size)
    ]


if __name__ == "__main__":
    main()
