"""Scores a file of completions and prints why each earned what it earned: every term, weight, gate and fault.

    python -m jobs.reward_check CONFIG.yaml --completions FILE

FILE is JSONL or Parquet with `text` (or `completion`) and `ground_truth`, or the `rollouts` folder of a run. CONFIG may
be the settings file of jobs.mavic or jobs.evaluate, whose `reward` is taken. The reward's extra terms and services are
checked first, as at the start of a run. Needs no Ray.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import rich
from pydantic import ValidationError
from rich.table import Table

from dermo_ray.config.reward_check import RewardCheckConfig
from dermo_ray.errors import UserError
from dermo_ray.records import GroundTruth
from jobs.command import main
from rewards import Reward, Scorer
from rewards.check import check_reward
from rewards.concepts import FolderConcepts

CONFIG = RewardCheckConfig

_SHOWN_CHARS = 400
"""How much of a completion is printed."""


@dataclass(frozen=True)
class Written:
    """A completion to score; `image` is relative to the prepared folder, where the file says."""

    text: str
    truth: GroundTruth
    image: str | None


def run(config: RewardCheckConfig) -> list[Reward]:
    """Score, print, and return the rewards in the file's order."""
    check_reward(config.reward)
    written = list(islice(read(config.completions), config.limit))
    if not written:
        raise UserError(f"{config.completions} holds no completion")
    rewards = score(written, config)
    for number, (completion, reward) in enumerate(islice(zip(written, rewards, strict=True), config.show), 1):
        print_reward(number, completion, reward)
    print_summary(rewards)
    if config.reward.concepts is not None and not any("consistency" in reward.terms for reward in rewards):
        print("  no consistency: it needs `data`, the prepared folder, and an `image` beside each completion")
    return rewards


def read(path: Path) -> Iterator[Written]:
    """The completions of a file or folder, in order. Raises `UserError` naming file and row where it can't be read."""
    files = sorted(path.glob("[!.]*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise UserError(f"no completions at {path}: it is neither a file nor a folder of Parquet files")
    for file in files:
        rows = _parquet_rows(file) if file.suffix == ".parquet" else _json_rows(file)
        for number, row in rows:
            yield _written(row, f"{file}, row {number}")


def score(written: Sequence[Written], config: RewardCheckConfig) -> list[Reward]:
    """The rewards in order; completions about one image that follow each other share its encoding."""
    scorer = Scorer(config.reward)
    images = None
    if config.reward.concepts is not None and config.data is not None:
        images = FolderConcepts(config.reward.concepts, config.data)
    rewards: list[Reward] = []
    for image, completions in groupby(written, key=lambda completion: completion.image):
        group = list(completions)
        concepts = images.of(image, group[0].truth.modality) if images is not None and image is not None else None
        rewards += scorer.score([one.text for one in group], [one.truth for one in group], concepts)
    return rewards


def print_reward(number: int, completion: Written, reward: Reward) -> None:
    """One completion: what it says, and how its total comes about."""
    truth = completion.truth
    table = Table("term", title=f"completion {number}: {reward.total:.4f}", title_justify="left")
    for heading in ("value", "weight", "gate", "adds"):
        table.add_column(heading, justify="right")
    for name, value in reward.terms.items():
        gate = reward.gate if name in reward.gated else 1.0
        adds = reward.weights[name] * value * gate
        gate_shown = f"{gate:.4f}" if name in reward.gated else ""
        table.add_row(name, f"{value:.4f}", f"{reward.weights[name]:.4f}", gate_shown, f"{adds:.4f}")
    table.add_section()
    table.add_row("total", "", "", "", f"{reward.total:.4f}")
    rich.print(table)
    text = completion.text
    shown = text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}... ({len(text)} characters)"
    print(f"  reference: {truth.task}, {truth.modality}, {truth.final_label or 'no label'}")
    print(f"  stated:    {repr(reward.diagnosis) if reward.diagnosis else 'no diagnosis'}")
    print(f"  faults:    {', '.join(reward.faults) or 'none'}")
    print(f"  text:      {shown!r}\n")


def print_summary(rewards: Sequence[Reward]) -> None:
    """All completions together: each term, the total, the gate and the faults."""
    table = Table("", "completions", "mean", "least", "most", title=f"{len(rewards)} completions", title_justify="left")
    for name in dict.fromkeys(name for reward in rewards for name in reward.terms):
        _add_row(table, name, [reward.terms[name] for reward in rewards if name in reward.terms])
    table.add_section()
    _add_row(table, "total", [reward.total for reward in rewards])
    rich.print(table)
    closed = sum(reward.gate < 1 for reward in rewards)
    print(f"  gate not fully open: {closed} of {len(rewards)} ({closed / len(rewards):.1%})")
    faults = Counter(fault for reward in rewards for fault in reward.faults)
    print(f"  faults: {', '.join(f'{name} {count}' for name, count in faults.most_common()) or 'none'}")


def _add_row(table: Table, name: str, values: Sequence[float]) -> None:
    table.add_row(name, str(len(values)), *(f"{value:.4f}" for value in (fmean(values), min(values), max(values))))


def _written(row: Any, where: str) -> Written:
    if not isinstance(row, dict):
        raise UserError(f"{where} is not a JSON object")
    text = row.get("text", row.get("completion"))
    if not isinstance(text, str):
        raise UserError(f"{where} has no text under `text` or `completion`")
    truth = row.get("ground_truth")
    try:
        if isinstance(truth, str):
            return Written(text, GroundTruth.model_validate_json(truth), row.get("image"))
        return Written(text, GroundTruth.model_validate(truth), row.get("image"))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(["ground_truth", *map(str, first["loc"])])
        raise UserError(f"{where}: {field}: {first['msg']}") from error


def _json_rows(file: Path) -> Iterator[tuple[int, Any]]:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file} is not UTF-8 text: give JSONL, or Parquet under a name that ends in .parquet"
        ) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except ValueError as error:
            raise UserError(f"{file}, row {number} is not JSON: {error}") from error


def _parquet_rows(file: Path) -> Iterator[tuple[int, Any]]:
    try:
        parquet = pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise UserError(f"{file} is damaged or no Parquet file") from error
    with parquet:
        wanted = {"text", "completion", "ground_truth", "image"}
        columns = [name for name in parquet.schema_arrow.names if name in wanted]
        number = 0
        for batch in parquet.iter_batches(columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield number, row


if __name__ == "__main__":
    main(CONFIG, run, __doc__)
