"""Trains a policy on the MAVIC reward: rollouts on vLLM, rewards, and DeepSpeed learners, each on a pool of its own.

`max_staleness: 0` alternates sampling and learning (on-policy); above it, both go on at once. The adapter of every
update is published under its version and loaded by every engine. A run that was cut off goes on from its latest
checkpoint when it is started again with the same settings.
"""

import asyncio

from dermo_ray.config.mavic import MavicConfig
from dermo_ray.data.prompts import PromptOrder, read_prompts
from dermo_ray.run_directory import claimed
from jobs import preflight
from jobs.cluster import ray_session
from jobs.command import main

CONFIG = MavicConfig

CHANGEABLE = frozenset({"steps", "rollout", "rewards", "checkpoint_every", "keep_checkpoints"})
"""Settings that a run that goes on may change."""


def run(config: MavicConfig) -> None:
    """Train until `config.steps` updates are made. Raises `UserError` for what can't be run as it is set."""
    prompts = read_prompts(config.data, "train", config.sources)
    with claimed(config.run, config, CHANGEABLE) as checkpoint, ray_session():
        preflight.ensure("mavic", config)
        # these take seconds to import; what preflight finds should show before
        from actors.mavic import train
        from dermo_ray.models.chat import load_processor
        from dermo_ray.models.lengths import refuse_long_prompts

        processor = load_processor(config.model.path)
        refuse_long_prompts(
            processor, prompts, config.data, config.rollout.max_tokens, config.rollout.engine.max_model_len
        )
        asyncio.run(train(config, PromptOrder(prompts, config.seed), checkpoint))


if __name__ == "__main__":
    main(CONFIG, run, __doc__)
