"""`jobs.reward_check` scores a file and says why; what is wrong with the file is named."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reward_cases import CLINICAL, HONEST, MELANOMA, PSORIASIS, features, fields, write

from dermo_ray.config import RewardConfig, load
from dermo_ray.errors import UserError
from dermo_ray.rollouts import ScoredCompletion
from dermo_ray.rollouts import write as write_rollouts
from jobs import reward_check
from jobs.command import parse
from rewards import mavic_reward

UNFOUNDED = write(features("Papule"), "Psoriasis")


def check(*arguments: object) -> list[Any]:
    return reward_check.run(load(reward_check.CONFIG, *parse([str(argument) for argument in arguments])))


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def row(text: str, truth: Any, **more: object) -> dict[str, object]:
    return {"text": text, "ground_truth": truth.model_dump(), **more}


def test_every_completion_and_a_summary_are_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = lines(tmp_path / "written.jsonl", row(HONEST, MELANOMA), row(UNFOUNDED + "!", PSORIASIS))

    rewards = check(f"completions={file}")

    assert [reward.total for reward in rewards] == pytest.approx([1.0, 0.16])
    shown = capsys.readouterr().out
    assert "completion 2: 0.1600" in shown
    for said in ("text_outside 1", "gate not fully open: 1 of 2", "stated:    'Psoriasis'", "task3, clinical"):
        assert said in shown
    (diagnosis,) = [line for line in shown.splitlines() if "diagnosis" in line and "0.0000" in line][:1]
    assert [cell.strip() for cell in diagnosis.replace("│", "|").strip("| ").split("|")] == [
        "diagnosis",
        "1.0000",
        "0.3000",
        "0.0000",
        "0.0000",
    ]


def test_json_lines_parquet_and_rollouts_give_the_same(tmp_path: Path) -> None:
    expected = mavic_reward(CLINICAL, PSORIASIS, RewardConfig())
    truth = PSORIASIS.model_dump_json()
    other_spelling = lines(tmp_path / "a.jsonl", {"completion": CLINICAL, "ground_truth": truth})
    pq.write_table(pa.Table.from_pylist([{"text": CLINICAL, "ground_truth": truth}]), tmp_path / "b.parquet")
    scored = ScoredCompletion(
        step=0,
        policy="mavic",
        version=0,
        prompt_id="p",
        image="images/a.png",
        task="task3",
        modality="clinical",
        text=CLINICAL,
        tokens=3,
        finish_reason="stop",
        logprob=-1.0,
        reward=0.1,
        terms={},
        weights={},
        gate=1.0,
        ground_truth=truth,
        sample=0,
        greedy=False,
    )
    write_rollouts([scored], tmp_path / "rollouts/step_000000.parquet")

    for path in (other_spelling, tmp_path / "b.parquet", tmp_path / "rollouts"):
        assert check(f"completions={path}") == [expected]


def test_the_settings_of_a_run_and_the_option_for_the_file_are_taken(tmp_path: Path) -> None:
    file = lines(tmp_path / "written.jsonl", row(write(fields(7), "Melanoma"), MELANOMA))
    settings = tmp_path / "mavic.yaml"
    settings.write_text("run: runs/x\ndata: runs/data\nmodel: {path: m}\nsteps: 3\nreward: {gate: none}\n")

    ended = subprocess.run(
        [sys.executable, "-m", "jobs.reward_check", str(settings), "--completions", str(file)],
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert (ended.returncode, ended.stderr) == (0, "")
    assert "completion 1: 0.6000" in ended.stdout


def test_a_setting_that_no_job_has_is_still_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown setting rewrad: did you mean reward\?"):
        check(f"completions={tmp_path}", "rewrad.tau=0.1")


def test_limits_bound_what_is_scored_and_what_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = lines(tmp_path / "written.jsonl", *[row(HONEST, MELANOMA)] * 5)

    assert len(check(f"completions={file}", "limit=3", "show=1")) == 3
    shown = capsys.readouterr().out
    assert "completion 1:" in shown
    assert "completion 2:" not in shown
    assert "3 completions" in shown


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("", "holds no completion"),
        ("\n{", "row 2 is not JSON"),
        ("3\n", "row 1 is not a JSON object"),
        ('{"text": 3}', "row 1 has no text"),
        ('{"text": ""}', "row 1: ground_truth: "),
        ('{"text": "", "ground_truth": {"task": "task3"}}', "row 1: ground_truth.modality: Field required"),
        ('{"text": "", "ground_truth": "{"}', "row 1: ground_truth: Invalid JSON"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(content: str, cause: str, tmp_path: Path) -> None:
    file = tmp_path / "written.jsonl"
    file.write_text(content)

    with pytest.raises(UserError) as caught:
        check(f"completions={file}")

    assert str(file) in str(caught.value)
    assert cause in str(caught.value)


def test_a_file_that_is_not_there_or_damaged_is_named(tmp_path: Path) -> None:
    (tmp_path / "damaged.parquet").write_text("not Parquet")
    (tmp_path / "picture.jsonl").write_bytes(b"\xff\xd8\xff")

    causes = {"absent.jsonl": "no completions at", "damaged.parquet": "damaged", "picture.jsonl": "UTF-8"}
    for name, cause in causes.items():
        with pytest.raises(UserError, match=cause):
            check(f"completions={tmp_path / name}")


def test_text_that_no_terminal_can_show_is_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = write(features("Plaque"), "[red]\ud800")
    file = lines(tmp_path / "written.jsonl", row(text, PSORIASIS))

    check(f"completions={file}")

    assert r"'[red]\ud800'" in capsys.readouterr().out
