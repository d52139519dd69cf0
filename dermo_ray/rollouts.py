"""Scored completions: what a policy wrote, and why it was rewarded as it was; one Parquet row for each completion.

A run keeps one file a step, `rollouts/step_000012.parquet`. All files have the schema `SCORED_COMPLETIONS`, whatever
terms a run rewards: `terms` and `weights` are maps, which pyarrow, DuckDB (`terms['format']`) and polars read as such.

    SELECT step, avg(reward), avg(terms['morphology']) FROM 'runs/NAME/rollouts/*.parquet' GROUP BY step ORDER BY step

Invariants: a file under its final name is complete; numbers are finite; `ground_truth` reads back as a `GroundTruth`;
the columns of tokens, which a file may lack, have one entry for each sampled token.
"""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, FiniteFloat, field_validator, model_validator

from dermo_ray.errors import UserError
from dermo_ray.morphology import Modality
from dermo_ray.records import GroundTruth, Record, Task
from dermo_ray.staging import staged_file

EVALUATION = -1
"""The `step` of completions that were sampled to measure a policy, not to train it."""

TOKEN_COLUMNS = ("token_ids", "token_logprobs", "token_versions", "learner_logprobs")
"""Lists with one entry for each sampled token."""


class ScoredCompletion(Record):
    """One completion and its reward: reward = sum over terms of weight * term * (gate if the term is gated else 1)."""

    step: int = Field(ge=EVALUATION)
    """The learner step that the completion was sampled for; `EVALUATION` in evaluations."""
    policy: str
    """Which policy wrote it, such as "sft" or "mavic"."""
    version: int = Field(ge=0)
    """Version of the policy that sampled it: the learner updates its weights had seen."""
    prompt_id: str
    image: str
    """Relative to the prepared folder."""
    task: Task
    modality: Modality
    text: str
    tokens: int = Field(ge=0)
    finish_reason: str
    """Why sampling ended, as the engine names it: "stop" or "length"."""
    logprob: FiniteFloat
    """Mean log-probability of the sampled tokens, in nats."""
    token_ids: tuple[int, ...] | None = None
    """The sampled tokens, the end of the turn included where it was reached."""
    token_logprobs: tuple[FiniteFloat, ...] | None = None
    """Log-probability of each as the engine sampled it, in nats."""
    token_versions: tuple[int, ...] | None = None
    """The policy version that sampled each."""
    learner_logprobs: tuple[FiniteFloat, ...] | None = None
    """Log-probability of each by the learner just before its update; absent where the completion was not trained on."""
    advantage: FiniteFloat | None = None
    """Relative to the completion's group; absent in evaluations, and where the group was not trained on."""
    reward: FiniteFloat
    terms: dict[str, FiniteFloat]
    """The reward's terms that apply, each in [0, 1], before the gate."""
    weights: dict[str, FiniteFloat]
    """The weight of each term; they sum to 1."""
    gate: FiniteFloat
    """Multiplier on the terms named in `gated`."""
    gated: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    """Names of format faults, one entry for each block concerned."""
    ground_truth: str
    """A `GroundTruth` as JSON."""
    sample: int = Field(ge=0)
    """Index within the completions of its prompt."""
    greedy: bool
    """Whether each token was the most probable one, instead of drawn at temperature 1."""

    @model_validator(mode="after")
    def _one_entry_for_each_token(self) -> "ScoredCompletion":
        for name in TOKEN_COLUMNS:
            values = getattr(self, name)
            if values is not None and len(values) != self.tokens:
                raise ValueError(f"{name}: {len(values)} entries for {self.tokens} tokens")
        return self

    @field_validator("ground_truth")
    @classmethod
    def _is_a_ground_truth(cls, value: str) -> str:
        GroundTruth.model_validate_json(value)
        return value

    @cached_property
    def truth(self) -> GroundTruth:
        """The reference, parsed."""
        return GroundTruth.model_validate_json(self.ground_truth)

    def contribution(self, term: str) -> float:
        """What `term` adds to the reward."""
        return self.weights[term] * self.terms[term] * (self.gate if term in self.gated else 1.0)


_VALUES = pa.map_(pa.string(), pa.float64())
_NAMES = pa.list_(pa.string())

SCORED_COMPLETIONS = pa.schema(
    {
        "step": pa.int32(),
        "policy": pa.string(),
        "version": pa.int32(),
        "prompt_id": pa.string(),
        "image": pa.string(),
        "task": pa.string(),
        "modality": pa.string(),
        "text": pa.string(),
        "tokens": pa.int32(),
        "finish_reason": pa.string(),
        "logprob": pa.float64(),
        "token_ids": pa.list_(pa.int32()),
        "token_logprobs": pa.list_(pa.float32()),
        "token_versions": pa.list_(pa.int32()),
        "learner_logprobs": pa.list_(pa.float32()),
        "advantage": pa.float64(),
        "reward": pa.float64(),
        "terms": _VALUES,
        "weights": _VALUES,
        "gate": pa.float64(),
        "gated": _NAMES,
        "faults": _NAMES,
        "ground_truth": pa.string(),
        "sample": pa.int32(),
        "greedy": pa.bool_(),
    }
)


def step_file(folder: Path, step: int) -> Path:
    """Where the completions of a step lie; names sort by step."""
    return folder / f"step_{step:06d}.parquet"


def write(rows: Iterable[ScoredCompletion], path: Path) -> None:
    """Write `rows` as one Parquet file; folders are made, a file of that name is replaced at once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([row.model_dump() for row in rows], SCORED_COMPLETIONS)
    with staged_file(path) as aside:
        pq.write_table(table, aside, compression="zstd")


def read(path: Path) -> list[ScoredCompletion]:
    """The rows of a file, or of every `.parquet` file of a folder in the order of their names.

    Raises `UserError` where there is no such file, or its columns are not those of scored completions.
    """
    files = sorted(path.glob("[!.]*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise UserError(f"no scored completions at {path}: it is neither a Parquet file nor a folder of them")
    return [row for file in files for row in _read_file(file)]


def read_prompt(file: Path, prompt_id: str) -> list[ScoredCompletion]:
    """The rows of one prompt in a file, in the file's order. Raises `UserError` as `read` does."""
    return _read_file(file, [("prompt_id", "=", prompt_id)])


def _read_file(file: Path, filters: list[tuple[str, str, str]] | None = None) -> list[ScoredCompletion]:
    try:
        schema = pq.read_schema(file)
    except pa.ArrowInvalid as error:
        raise UserError(f"{file} is damaged or no Parquet file; delete it and let the step run again") from error
    missing = [name for name in SCORED_COMPLETIONS.names if name not in schema.names]
    if any(name not in TOKEN_COLUMNS for name in missing):
        raise UserError(f"{file} holds no scored completions: it lacks the columns {', '.join(missing)}")
    columns = [name for name in SCORED_COMPLETIONS.names if name not in missing]
    table = pq.read_table(file, columns=columns, filters=filters)
    return [ScoredCompletion.model_validate(row) for row in table.to_pylist(maps_as_pydicts="strict")]
