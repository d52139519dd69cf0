"""Settings of a MAVIC run that can't work are refused before anything starts."""

from pathlib import Path

import pytest

from dermo_ray.config.base import load
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.errors import UserError

NEEDED = ["run=runs/a", "data=data", "model.path=model"]


def test_run_data_and_model_are_all_that_must_be_given() -> None:
    config = load(MavicConfig, None, NEEDED)
    assert config.max_staleness == 0
    assert config.learner.optimizer.learning_rate < 1e-4
    for name in ("run", "data", "model"):
        with pytest.raises(UserError, match=f"the setting {name}(.path)? is required"):
            load(MavicConfig, None, [given for given in NEEDED if not given.startswith(name)])


def test_the_demos_settings_are_valid() -> None:
    config = load(MavicConfig, Path("configs/demo/mavic.yaml"))
    assert config.rollout.max_concurrent >= config.batch_groups


def test_the_recipe_for_a_cluster_is_watched_over() -> None:
    config = load(MavicConfig, Path("configs/cluster/mavic-qwen3vl-8b.yaml"))
    assert config.validation.every == config.checkpoint_every
    assert config.validation.patience
    assert config.anomaly.grad_norm_factor
    assert config.anomaly.reward_drop


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rollout.max_tokens=4096"], r"rollout\.max_tokens must leave room for the prompt"),
        (["algorithm.correction_high=null"], "correction needs correction_high"),
        (
            ["reward.services=[{name: a, url: 'http://a', timeout: 70}, {name: b, url: 'http://b', timeout: 60}]"],
            r"rewards\.timeout=120 must be above the timeouts of reward\.services together \(130 s\)",
        ),
        (["rewards.extra=['my_pkg.rewards:Brevity']"], r"unknown setting rewards\.extra: did you mean reward\.extra\?"),
        (["reward.workers=2"], r"unknown setting reward\.workers: did you mean rewards\.workers\?"),
        (["max_stalenes=1"], r"unknown setting max_stalenes: did you mean max_staleness\?"),
        (["rollout.engine.max_num_seq=4"], r"did you mean rollout\.engine\.max_num_seqs\?"),
        (["learner.sharding.zero_stage=4"], r"learner\.sharding\.zero_stage: "),
        (["max_staleness=-1"], "max_staleness: .*got -1"),
        (["rollout.group_size=1"], r"rollout\.group_size: .*got 1"),
        (["algorithm.estimator=ppo"], r"algorithm\.estimator: .*grpo.*got 'ppo'"),
        (["lora=null", "algorithm.kl_coefficient=0.1"], r"algorithm\.kl_coefficient needs an adapter"),
        (["lora.dropout=0.05"], r"lora\.dropout must be 0: .* not the engine's"),
        (["transport=nccl"], "transport=nccl is for lora=null"),
        (["lora=null", "transport=nccl"], r"transport=nccl needs rollout\.gpus_per_worker"),
        (["mode=replay"], "mode=replay needs replay_from"),
        (["replay_from=runs/a/rollouts"], "replay_from is for mode=train_only and mode=replay, not train"),
        (["mode=rollout_only", "validation.every=20"], r"validation\.every needs mode=train"),
        (
            ["mode=rollout_only", "algorithm.kl_coefficient=0.1", "algorithm.kl_place=reward"],
            r"algorithm\.kl_place=reward needs learners",
        ),
        (["validation.every=30"], r"validation\.every=30 must be a multiple of checkpoint_every=20"),
        (["validation.patience=2"], r"validation\.patience needs validation\.every above 0"),
        (["rollout.autoscale={max_workers: 4, min_workers: 5}"], "min_workers must not be above max_workers"),
        (["rollout.autoscale={max_workers: 4}", "rollout.workers=6"], "workers must lie within autoscale"),
        (["learner.autoscale={max_workers: 4}"], "unknown setting learner.autoscale"),
        (["rollout.gpus_per_worker=1", "rollout.engine.tensor_parallel_size=2"], "GPUs of one node"),
    ],
)
def test_a_setting_that_cannot_work_is_one_line_with_its_name(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(MavicConfig, None, [*NEEDED, *overrides])
    assert "\n" not in str(caught.value)


def test_without_a_correction_its_bounds_may_be_left_out() -> None:
    config = load(MavicConfig, None, [*NEEDED, "algorithm.correction=null", "algorithm.correction_high=null"])
    assert config.algorithm.correction is None


@pytest.mark.parametrize(
    ("overrides", "sends"),
    [
        (["lora=null"], False),
        (["lora=null", "rollout.gpus_per_worker=1", "learner.gpus_per_worker=1"], True),
        (["lora=null", "rollout.gpus_per_worker=1", "learner.gpus_per_worker=1", "transport=files"], False),
        (["lora=null", "rollout.gpus_per_worker=1"], False),
        (["rollout.gpus_per_worker=1", "learner.gpus_per_worker=1"], False),
    ],
)
def test_whole_weights_are_sent_from_gpu_to_gpu_where_both_sides_have_one(overrides: list[str], sends: bool) -> None:
    assert load(MavicConfig, None, [*NEEDED, *overrides]).sends_weights is sends


def test_the_placement_of_a_worker_is_told_in_words() -> None:
    assert load(MavicConfig, None, NEEDED).rollout.placement == "1 CPU"
    given = ["rollout.gpus_per_worker=2", "rollout.accelerator_type=H100", "rollout.node_labels={market: spot}"]
    placed = load(MavicConfig, None, [*NEEDED, *given, "rollout.resources={nvme: 1}"]).rollout
    assert placed.placement == "1 CPU, 2 GPU, 1 nvme on a node with H100, market=spot"
