"""A run directory belongs to one run."""

import pytest

from dermo_ray import checkpoint_copies, checkpoints
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


def copied(run, url, step):
    checkpoint_copies.upload(run, add_checkpoint(run, step), url, keep=3, keep_best=0)


def restored(config, url):
    with claimed(config.run, config, (), url) as checkpoint:
        return checkpoint


def test_a_run_without_a_whole_checkpoint_starts_from_the_newest_copy_of_another_directory(tmp_path, caplog):
    here, there, url = tmp_path / "here", tmp_path / "there", str(tmp_path / "copies")
    assert restored(settings(here), url) is None
    copied(here, url, 5)
    assert restored(settings(there), url) == there / CHECKPOINTS / "step_000005"
    (there / CHECKPOINTS / "step_000005" / checkpoints.STATE).write_text("damaged")
    copied(here, url, 10)
    assert restored(settings(there), url) == there / CHECKPOINTS / "step_000010"
    assert "step_000005 is damaged" in caplog.text
    assert "the copy of step_000010" in caplog.text
    with pytest.raises(UserError, match=r"with seed=0, not 3"):
        restored(settings(tmp_path / "third", seed=3), url)


def test_a_directory_that_a_live_run_holds_gets_no_copy(tmp_path):
    here, there, url = tmp_path / "here", tmp_path / "there", str(tmp_path / "copies")
    with claimed(there, settings(there), ()):
        restored(settings(here), url)
        copied(here, url, 5)
        with pytest.raises(UserError, match="another live run holds"):
            restored(settings(there), url)
    assert not (there / CHECKPOINTS).exists()


def test_two_live_runs_cannot_share_a_directory(tmp_path):
    config = settings(tmp_path)
    with (
        claimed(tmp_path, config, ()),
        pytest.raises(UserError, match="two runs in one run directory"),
        claimed(tmp_path, config, ()),
    ):
        pass
    assert claim(config) is None
