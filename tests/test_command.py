"""How a job starts and ends: its command line and its exit status."""

import pytest
from pydantic import BaseModel

from dermo_ray.config import Settings
from dermo_ray.errors import UserError
from jobs.command import main, parse


class Config(Settings):
    """Settings of a job that exists for these tests."""

    steps: int = 3
    """How many steps."""


def status(run, *arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(Config, run, "Counts steps.", arguments)
    return caught.value.code


def fail_with(error: BaseException):
    def run(config: Config) -> None:
        raise error

    return run


def test_settings_come_from_the_file_and_overrides_win(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("steps: 5\n")
    seen = []
    assert status(seen.append, str(file)) == 0
    assert status(seen.append, str(file), "steps=7") == 0
    assert status(seen.append) == 0
    assert status(seen.append, str(file), "--steps", "8") == 0
    assert [config.steps for config in seen] == [5, 7, 3, 8]


def test_bare_words_are_the_values_of_the_settings_that_the_job_names():
    assert parse(["runs/a", "port=1"], ("show", "run")) == (None, ['run="runs/a"', "port=1"])
    assert parse(["ledger", "runs/a"], ("show", "run")) == (None, ['show="ledger"', 'run="runs/a"'])
    with pytest.raises(UserError, match="only show and run can stand without a name, not a b c"):
        parse(["a", "b", "c"], ("show", "run"))


@pytest.mark.parametrize("argument", ["step=4", "steps=many", "--steps", "-s", "absent.yaml", "steps.more=1"])
def test_a_bad_command_line_is_one_line_and_status_2(argument, capsys):
    assert status(fail_with(AssertionError("the job must not start")), argument) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_users_mistake_in_the_job_is_one_line_and_status_2(capsys):
    assert status(fail_with(UserError("no such\nfolder"))) == 2
    assert capsys.readouterr().err == "error: no such folder\n"


def test_a_malformed_record_is_one_line_and_status_2(capsys):
    class Point(BaseModel):
        x: int

    assert status(lambda config: Point.model_validate({"x": "far"})) == 2
    assert capsys.readouterr().err.startswith("error: Point: x: Input should be a valid integer")


def test_an_interrupt_ends_with_status_130():
    assert status(fail_with(KeyboardInterrupt())) == 130


def test_any_other_failure_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        main(Config, fail_with(ZeroDivisionError()), None, [])


def test_help_shows_the_job_and_its_settings(capsys):
    assert status(fail_with(AssertionError("the job must not start")), "--help") == 0
    shown = capsys.readouterr().out
    assert "Counts steps." in shown
    assert "steps: int = 3" in shown
    assert "How many steps." in shown
