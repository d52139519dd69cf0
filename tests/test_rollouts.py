"""Scored completions survive the disk exactly, and a bad file is one readable line."""

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from dermo_ray.config import RewardConfig
from dermo_ray.errors import UserError
from dermo_ray.records import GroundTruth
from dermo_ray.rollouts import SCORED_COMPLETIONS, ScoredCompletion, read, step_file, write
from rewards import mavic_reward

TRUTH = GroundTruth(
    task="task3",
    modality="clinical",
    final_label="Psoriasis",
    morph={"morphological_features_skincon": ["Plaque", "Scale"]},
)
TEXT = (
    '<reasoning>Sharp, scaly.</reasoning><morph>{"morphological_features_skincon": ["Plaque"]}</morph>'
    "<final_diagnosis>Psoriasis</final_diagnosis> é\n"
)


def completion(**changes: Any) -> ScoredCompletion:
    reward = mavic_reward(TEXT, TRUTH, RewardConfig(tau=1.0))
    values: dict[str, Any] = {
        "step": 12,
        "policy": "mavic",
        "version": 11,
        "prompt_id": "phantoms-7",
        "image": "images/00/7.png",
        "task": "task3",
        "modality": "clinical",
        "text": TEXT,
        "tokens": 40,
        "finish_reason": "stop",
        "logprob": -0.25,
        "advantage": 1.5,
        "reward": reward.total,
        "terms": reward.terms,
        "weights": reward.weights,
        "gate": reward.gate,
        "gated": tuple(reward.gated),
        "faults": reward.faults,
        "ground_truth": TRUTH.model_dump_json(),
        "sample": 3,
        "greedy": False,
    }
    return ScoredCompletion.model_validate(values | changes)


def test_what_is_written_reads_back_equal(tmp_path: Path) -> None:
    rows = [
        completion(),
        completion(step=-1, advantage=None, terms={}, weights={}, faults=["missing_block", "missing_block"]),
        completion(terms={"my_term": 0.5}, weights={"my_term": 1.0}, gated=()),
        completion(
            tokens=2,
            token_ids=(5, 6),
            token_logprobs=(-0.5, -2.25),
            token_versions=(11, 12),
            learner_logprobs=(-0.75, -2.0),
        ),
    ]
    path = tmp_path / "rollouts" / "rows.parquet"
    write(rows, path)
    assert read(path) == rows
    assert pq.read_schema(path).equals(SCORED_COMPLETIONS)


def test_a_file_may_lack_the_columns_of_tokens(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write([completion()], path)
    pq.write_table(pq.read_table(path).drop_columns(["token_ids", "learner_logprobs"]), path)
    assert read(path) == [completion()]


def test_columns_of_tokens_have_one_entry_for_each_token() -> None:
    with pytest.raises(ValidationError, match="token_ids: 1 entries for 2 tokens"):
        completion(tokens=2, token_ids=(5,))


def test_no_rows_are_a_file_too(tmp_path: Path) -> None:
    write([], tmp_path / "none.parquet")
    assert read(tmp_path / "none.parquet") == []


def test_a_folder_reads_in_the_order_of_steps_and_leaves_out_what_is_unfinished(tmp_path: Path) -> None:
    for step in (100, 2, 30):
        write([completion(step=step)], step_file(tmp_path, step))
    (tmp_path / ".step_000031.parquet.99.partial").write_bytes(b"half")
    assert [row.step for row in read(tmp_path)] == [2, 30, 100]
    assert step_file(tmp_path, 12).name == "step_000012.parquet"


def test_writing_again_replaces_and_leaves_nothing_aside(tmp_path: Path) -> None:
    path = step_file(tmp_path, 1)
    write([completion(sample=0)], path)
    write([completion(sample=1), completion(sample=2)], path)
    assert [row.sample for row in read(path)] == [1, 2]
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_the_contributions_of_the_terms_add_up_to_the_reward() -> None:
    row = completion()
    assert 0 < row.gate < 1
    assert sum(row.contribution(term) for term in row.terms) == pytest.approx(row.reward)


@pytest.mark.parametrize("field", ["reward", "logprob", "advantage", "gate"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValidationError, match=field):
        completion(**{field: value})


def test_a_term_that_is_not_finite_and_a_reference_that_is_none_are_refused() -> None:
    with pytest.raises(ValidationError, match="terms"):
        completion(terms={"format": math.nan})
    with pytest.raises(ValidationError, match="ground_truth"):
        completion(ground_truth="{}")


def test_the_reference_is_at_hand_parsed() -> None:
    assert completion().truth == TRUTH


def test_missing_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no scored completions at"):
        read(tmp_path / "absent.parquet")
    with pytest.raises(UserError, match="no scored completions at"):
        read(tmp_path)
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"damaged\.parquet is damaged"):
        read(damaged)
    foreign = tmp_path / "foreign.parquet"
    pq.write_table(pa.table({"text": ["a"]}), foreign)
    with pytest.raises(UserError, match="lacks the columns step, policy"):
        read(foreign)
