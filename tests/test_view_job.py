"""The command: a run directory or `ledger` and a run directory, and what is wrong in one line."""

import socket
from pathlib import Path

import pytest

from dermo_ray.config.view import ViewConfig
from dermo_ray.ledger import Entry, Ledger, Opening
from jobs import cli, view
from jobs.command import main


def status(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(ViewConfig, view.run, view.__doc__, arguments)
    code = caught.value.code
    assert isinstance(code, int)
    return code


def write_ledger(run: Path, *indices: int) -> None:
    with Ledger(run, Opening(resumed_from=0, prompts=2, batch_groups=len(indices))) as ledger:
        ledger.record(
            Entry(step=0, index=index, prompt_id=f"p{index}", group="0" * 16, versions=[0], outcome="trained")
            for index in indices
        )


def test_a_ledger_that_proves_every_prompt_once_exits_with_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ledger(tmp_path, 0, 1)
    assert status("ledger", str(tmp_path)) == 0
    assert "every prompt once" in capsys.readouterr().out


def test_a_prompt_that_was_trained_on_twice_is_named_and_exits_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ledger(tmp_path, 0, 0)
    assert status("ledger", str(tmp_path)) == 1
    *problems, summary = capsys.readouterr().out.splitlines()
    assert problems
    assert "problem" in summary


@pytest.mark.parametrize("words", [["."], ["ledger", "."], ["pages", "."], ["page", ".", "and more"], []])
def test_what_can_not_be_shown_is_one_line_and_status_2(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert status(*words, "port=0" if not words else "port=8790") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_port_in_use_is_said_before_anything_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert status(str(tmp_path), f"port={taken.getsockname()[1]}") == 2
    assert "choose another with port=" in capsys.readouterr().err


def test_the_viewer_is_a_job_like_others(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["view", "--help"])
    assert "[SHOW] [RUN]" in capsys.readouterr().out
