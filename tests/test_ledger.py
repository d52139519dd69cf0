"""The ledger: what it proves, what it voids, and that each way of losing or repeating a prompt is found."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermo_ray.errors import UserError
from dermo_ray.ledger import LEDGER, Entry, Ledger, Opening, Outcome, check, read

PROMPTS, BATCH = 3, 2


def entry(step: int, index: int, outcome: Outcome = "trained", prompt_id: str | None = None) -> Entry:
    return Entry(
        step=step,
        index=index,
        prompt_id=prompt_id or f"p{index % PROMPTS}",
        group=f"g{index}",
        versions=[step],
        outcome=outcome,
    )


def write(run: Path, entries: list[Entry], resumed_from: int = 0) -> None:
    with Ledger(run, Opening(resumed_from=resumed_from, prompts=PROMPTS, batch_groups=BATCH)) as ledger:
        ledger.record(entries)


WHOLE = [entry(step, index) for step in range(4) for index in (2 * step, 2 * step + 1)]


def test_a_whole_ledger_is_right_and_says_so(tmp_path: Path) -> None:
    write(tmp_path, WHOLE)
    report = check(tmp_path)
    assert report.ok
    assert (report.steps, report.trained, report.epochs, report.resumes, report.undone) == (4, 8, 2, 0, 0)
    assert report.summary == (
        "4 updates, 8 groups trained, 0 dropped, 0 unscored, 0 resumes, 0 groups undone: every prompt once"
    )
    assert read(tmp_path) == WHOLE


def test_a_resume_voids_what_its_checkpoint_does_not_hold(tmp_path: Path) -> None:
    write(tmp_path, WHOLE[:6])
    write(tmp_path, [entry(2, 4), entry(2, 5), entry(3, 6), entry(3, 7)], resumed_from=2)
    report = check(tmp_path)
    assert report.ok, report.problems
    assert (report.steps, report.trained, report.resumes, report.undone) == (4, 8, 1, 2)


def test_a_line_that_a_kill_cut_off_is_dropped(tmp_path: Path) -> None:
    write(tmp_path, WHOLE[:4])
    with (tmp_path / LEDGER).open("a") as file:
        file.write('{"step": 2, "ind')
    assert len(read(tmp_path)) == 4
    write(tmp_path, WHOLE[4:], resumed_from=2)
    assert check(tmp_path).ok


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ([*WHOLE, entry(4, 8), entry(4, 3)], "prompt 3 was used 2 times, by updates 1, 4"),
        ([e for e in WHOLE if e.index != 3] + [entry(1, 8)], "prompt 3 was lost: later ones were trained on"),
        (WHOLE[:-1], "update 3 was made from 1 groups, not 2"),
        ([e for e in WHOLE if e.step != 2], "update 2 is missing"),
        ([*WHOLE[:-1], entry(3, 7, prompt_id="p0")], "prompt p0 was shown 2 times in epoch 2"),
        ([*WHOLE[:-1], entry(3, 7).model_copy(update={"versions": [5]})], "prompt 7 was sampled from version 5, after"),
    ],
)
def test_every_way_of_losing_or_repeating_a_prompt_is_named(entries: list[Entry], problem: str, tmp_path: Path) -> None:
    write(tmp_path, entries)
    report = check(tmp_path)
    assert not report.ok
    assert any(found.startswith(problem) for found in report.problems), report.problems
    assert report.summary.endswith("problems")


def test_dropped_and_unscored_groups_are_accounted_for(tmp_path: Path) -> None:
    entries = [entry(0, 0), entry(0, 1, "dropped"), entry(0, 2), entry(1, 3), entry(1, 5), entry(1, 4, "unscored")]
    write(tmp_path, entries)
    report = check(tmp_path)
    assert report.ok, report.problems
    assert (report.trained, report.dropped, report.unscored) == (4, 1, 1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=6))
def test_however_often_a_run_goes_on_from_a_checkpoint_the_ledger_is_right(resumes: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        done = 0
        for resumed_from in [0, *resumes, 0]:
            begin = min(resumed_from, done)
            write(Path(folder), WHOLE[2 * begin :], resumed_from=begin)
            done = 4
        report = check(Path(folder))
        assert report.ok
        assert report.resumes == len(resumes) + 1


def test_a_folder_without_a_ledger_and_a_damaged_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no ledger\.jsonl"):
        check(tmp_path)
    (tmp_path / LEDGER).write_text("{\n")
    with pytest.raises(UserError, match="is damaged in line 1"):
        check(tmp_path)
    (tmp_path / LEDGER).write_text(json.dumps(entry(0, 0).model_dump()) + "\n")
    with pytest.raises(UserError, match="does not begin with the start of a run"):
        check(tmp_path)
