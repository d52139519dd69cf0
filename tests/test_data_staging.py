"""A staged folder is complete or not there."""

import pytest

from dermo_ray.errors import UserError
from dermo_ray.staging import staged


def test_a_folder_appears_when_the_work_is_done(tmp_path):
    target = tmp_path / "deep" / "out"
    with staged(target) as folder:
        (folder / "file").write_text("done")
        assert not target.exists()
    assert (target / "file").read_text() == "done"
    assert [path.name for path in target.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_nothing(tmp_path, error):
    def work():
        with staged(tmp_path / "out") as folder:
            (folder / "file").write_text("half")
            raise error

    with pytest.raises(error):
        work()
    assert not list(tmp_path.iterdir())


def test_a_place_that_can_not_be_written_is_the_users_mistake(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="can't write to"), staged(tmp_path / "file" / "out"):
        raise AssertionError("the body must not run")
