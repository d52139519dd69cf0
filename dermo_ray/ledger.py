"""The ledger of a run: which prompt was trained on at which update, and what was undone on the way.

`RUN/ledger.jsonl` holds one JSON object a line: an `Opening` whenever the run starts or goes on, an `Entry` for each
group that was trained on, dropped, or given up.

Invariants: the file is only appended to, and what an update was made from is on disk before a checkpoint with that
update is; an opening voids the entries before it of updates that its checkpoint does not hold.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

from dermo_ray.errors import UserError
from dermo_ray.records import Record

LEDGER = "ledger.jsonl"

Outcome = Literal["trained", "dropped", "unscored"]


class Opening(Record):
    """A start of the run, or a resume."""

    resumed_from: int
    """Updates that were made before it."""
    prompts: int
    """Prompts of an epoch."""
    batch_groups: int
    """Groups in one update."""


class Entry(Record):
    """What became of one group."""

    step: int
    """The update, counted from 0: the policy version that it was applied to."""
    index: int
    """The prompt's place in the stream of the run."""
    prompt_id: str
    group: str
    """A hash of the token ids that were sampled, so that the same group can be told from one sampled again."""
    versions: list[int]
    """The policy versions that the group was sampled from."""
    outcome: Outcome


class Ledger:
    """Appends to the ledger of `run`; opening it records a start after `opening.resumed_from` updates."""

    def __init__(self, run: Path, opening: Opening) -> None:
        run.mkdir(parents=True, exist_ok=True)
        path = run / LEDGER
        _drop_cut_line(path)
        self._file = path.open("a", encoding="utf-8")
        self._append([opening])

    def record(self, entries: Iterable[Entry]) -> None:
        """Append `entries`; they are on disk when this returns. Raises `OSError` where they can't be written."""
        self._append(entries)

    def _append(self, lines: Iterable[Record]) -> None:
        self._file.write("".join(line.model_dump_json() + "\n" for line in lines))
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


@dataclass(frozen=True)
class LedgerReport:
    """What a ledger proves."""

    steps: int
    """Updates that stand."""
    trained: int
    dropped: int
    unscored: int
    epochs: int
    """Epochs of which every prompt is accounted for."""
    resumes: int
    undone: int
    """Groups of updates that a resume went back behind."""
    problems: list[str]
    """One line each; empty where every prompt was used exactly once."""

    @property
    def ok(self) -> bool:
        """Whether every prompt was trained on exactly once, or recorded once as dropped or given up."""
        return not self.problems

    @property
    def summary(self) -> str:
        """One line."""
        verdict = "every prompt once" if self.ok else f"{len(self.problems)} problems"
        return (
            f"{self.steps} updates, {self.trained} groups trained, {self.dropped} dropped, {self.unscored} unscored, "
            f"{self.resumes} resumes, {self.undone} groups undone: {verdict}"
        )


def read(run: Path) -> list[Entry]:
    """The entries that stand, by step and index. Raises `UserError` where `run` has no ledger."""
    return _replay(run)[0]


def check(run: Path) -> LedgerReport:
    """Check that every prompt was used exactly once, whatever was killed. Raises `UserError` where there is no ledger.

    Groups under way when the ledger was last written are not in it; a prompt counts as lost where one that was admitted
    after it has been trained on.
    """
    entries, openings, undone = _replay(run)
    opening = openings[-1]
    by_outcome = Counter(entry.outcome for entry in entries)
    used = Counter(entry.index for entry in entries)
    trained = Counter(entry.step for entry in entries if entry.outcome == "trained")
    steps = max(trained, default=-1) + 1
    whole = next((index for index in range(len(used) + 1) if index not in used), 0)
    return LedgerReport(
        steps=steps,
        trained=by_outcome["trained"],
        dropped=by_outcome["dropped"],
        unscored=by_outcome["unscored"],
        epochs=whole // opening.prompts,
        resumes=len(openings) - 1,
        undone=undone,
        problems=[
            *_repeated(entries, used),
            *_lost(entries, used),
            *_uneven(trained, steps, opening.batch_groups),
            *_repeated_in_epoch(entries, opening.prompts),
            *_from_the_future(entries),
        ],
    )


def _repeated(entries: list[Entry], used: Counter[int]) -> Iterator[str]:
    for index, count in used.items():
        if count > 1:
            steps = ", ".join(str(entry.step) for entry in entries if entry.index == index)
            yield f"prompt {index} was used {count} times, by updates {steps}"


def _lost(entries: list[Entry], used: Counter[int]) -> Iterator[str]:
    last = max((entry.index for entry in entries if entry.outcome != "unscored"), default=-1)
    for index in range(last):
        if index not in used:
            yield f"prompt {index} was lost: later ones were trained on"


def _uneven(trained: Counter[int], steps: int, batch_groups: int) -> Iterator[str]:
    for step in range(steps):
        if step not in trained:
            yield f"update {step} is missing"
        elif trained[step] != batch_groups:
            yield f"update {step} was made from {trained[step]} groups, not {batch_groups}"


def _repeated_in_epoch(entries: list[Entry], prompts: int) -> Iterator[str]:
    seen = Counter((entry.index // prompts, entry.prompt_id) for entry in entries)
    counted = Counter(entry.index for entry in entries)
    for (epoch, prompt_id), count in seen.items():
        indices = (
            {e.index for e in entries if (e.index // prompts, e.prompt_id) == (epoch, prompt_id)} if count > 1 else ()
        )
        if len(indices) > 1 and all(counted[index] == 1 for index in indices):
            yield f"prompt {prompt_id} was shown {count} times in epoch {epoch}"


def _from_the_future(entries: list[Entry]) -> Iterator[str]:
    for entry in entries:
        if max(entry.versions, default=0) > entry.step:
            yield f"prompt {entry.index} was sampled from version {max(entry.versions)}, after update {entry.step}"


def _replay(run: Path) -> tuple[list[Entry], list[Opening], int]:
    """The entries that stand, every opening, and how many entries were undone."""
    path = run / LEDGER
    if not path.is_file():
        raise UserError(f"{run} has no {LEDGER}: only runs of jobs.mavic keep one, from their first update on")
    standing: list[Entry] = []
    openings: list[Opening] = []
    undone = 0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), start=1):
        if not line.endswith("\n"):
            break  # being written, or cut off by a kill
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path} is damaged in line {number}") from error
        if "resumed_from" in values:
            opening = Opening.model_validate(values)
            kept = [entry for entry in standing if entry.step < opening.resumed_from]
            undone += len(standing) - len(kept)
            standing = kept
            openings.append(opening)
        else:
            standing.append(Entry.model_validate(values))
    if not openings:
        raise UserError(f"{path} is damaged: it does not begin with the start of a run")
    return sorted(standing, key=lambda entry: (entry.step, entry.index)), openings, undone


def _drop_cut_line(path: Path) -> None:
    """Remove a last line that a kill cut off."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
