"""Trains a policy on the MAVIC reward: rollouts on vLLM, rewards, and DeepSpeed learners, each on a pool of its own.

`max_staleness: 0` alternates sampling and learning (on-policy); above it, both go on at once. The adapter of every
update is published under its version and loaded by every engine. A run that was cut off goes on from its latest
checkpoint when it is started again with the same settings; SIGTERM makes it write one and exit with status 0.
"""

import asyncio
import sys

from dermo_ray.config.mavic import MavicConfig
from dermo_ray.config.pools import PoolSettings
from dermo_ray.data.prompts import PromptOrder, read_prompts
from dermo_ray.run_directory import TOKENIZER, claimed
from dermo_ray.staging import staged_file
from dermo_ray.tracking import check_tracking
from jobs import preflight
from jobs.cluster import ray_session
from jobs.command import main
from rewards.check import check_references

CONFIG = MavicConfig

CHANGEABLE = frozenset(
    {
        "steps",
        "validation",
        "anomaly",
        "rollout",
        "rewards",
        "checkpoint_every",
        "keep_checkpoints",
        "keep_best",
        "checkpoint_copy",
        "checkpoint_copy_timeout",
        "tracking",
    }
    | {"preemption_deadline", "learner.timeout"}
    | {f"learner.{placement}" for placement in PoolSettings.model_fields}
)
"""Settings that a run that goes on may change."""


def run(config: MavicConfig) -> None:
    """Train until `config.steps` updates are made. Raises `UserError` for what can't be run as it is set."""
    check_tracking(config.tracking)
    prompts = read_prompts(config.data, "train", config.sources)
    for warning in check_references([prompt.ground_truth for prompt in prompts], config.reward):
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    validates = config.validation.every > 0
    heldout = read_prompts(config.data, config.validation.split, config.sources) if validates else []
    with claimed(config.run, config, CHANGEABLE, config.checkpoint_copy) as checkpoint, ray_session():
        preflight.ensure("mavic", config)
        # these take seconds to import; what preflight finds should show before
        from actors.mavic import Pools, train
        from dermo_ray.models.chat import load_processor
        from dermo_ray.models.lengths import refuse_long_prompts

        processor = load_processor(config.model.path)
        longest, room = config.rollout.max_tokens, config.rollout.engine.max_model_len
        refuse_long_prompts(processor, [*prompts, *heldout], config.data, longest, room)
        with staged_file(config.run / TOKENIZER) as aside:
            processor.tokenizer.backend_tokenizer.save(str(aside))
        ended = asyncio.run(train(config, PromptOrder(prompts, config.seed), checkpoint, Pools.of(config), heldout))
    if not ended:
        sys.exit(0)  # also where another job, such as the demo, runs this one: whoever sent SIGTERM meant all of it


if __name__ == "__main__":
    main(CONFIG, run, __doc__)
