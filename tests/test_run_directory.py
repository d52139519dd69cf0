"""A run directory belongs to one run."""

import pytest

from dermo_ray import checkpoints
from dermo_ray.config import load
from dermo_ray.config.sft import SftConfig
from dermo_ray.errors import UserError
from dermo_ray.run_directory import CHECKPOINTS, CONFIG, claimed


def settings(run, **values) -> SftConfig:
    return SftConfig.model_validate({"run": run, "data": "data", "model": {"path": "model"}, **values})


def claim(config, changeable=("steps",)):
    with claimed(config.run, config, changeable) as checkpoint:
        return checkpoint


def add_checkpoint(run, step):
    return checkpoints.commit(checkpoints.begin(run / CHECKPOINTS, step), {"step": step})


def test_a_new_run_writes_its_settings_and_starts_from_nothing(tmp_path):
    config = settings(tmp_path / "run", seed=3)
    assert claim(config) is None
    assert load(SftConfig, config.run / CONFIG) == config


def test_a_run_without_a_checkpoint_may_be_begun_anew_with_other_settings(tmp_path):
    claim(settings(tmp_path, seed=3))
    assert claim(settings(tmp_path, seed=4)) is None


def test_a_second_run_with_other_settings_names_the_first_that_differs(tmp_path):
    claim(settings(tmp_path))
    add_checkpoint(tmp_path, 5)
    with pytest.raises(UserError, match=r"two runs in one run directory.*optimizer\.learning_rate=0\.0001, not 0\.1"):
        claim(settings(tmp_path, optimizer={"learning_rate": 0.1}))
    with pytest.raises(UserError, match=r"lora=None, not .*'rank': 8"):
        claim(settings(tmp_path, lora={"rank": 8}))


def test_a_run_goes_on_from_its_checkpoint_and_may_change_what_is_changeable(tmp_path):
    claim(settings(tmp_path, steps=5))
    checkpoint = add_checkpoint(tmp_path, 5)
    assert claim(settings(tmp_path, steps=10)) == checkpoint


def test_two_live_runs_cannot_share_a_directory(tmp_path):
    config = settings(tmp_path)
    with (
        claimed(tmp_path, config, ()),
        pytest.raises(UserError, match="two runs in one run directory"),
        claimed(tmp_path, config, ()),
    ):
        pass
    assert claim(config) is None
