"""Questions and their answers: kept ones first, new ones within the budget, all of them counted.

Invariants: an answer that the cache has is never asked for; each question counts once, as cached, asked, failed or over
budget.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from dermo_ray.asking.answers import Answer, AskFailed
from dermo_ray.asking.cache import Cache, Provenance, Record
from dermo_ray.config.asking import AskingSettings, Backend
from dermo_ray.errors import UserError

T = TypeVar("T")


@dataclass
class Tally:
    """What came of every question."""

    cached: int = 0
    """Questions whose answer was in the cache."""
    asked: int = 0
    """Questions that were asked and answered."""
    requests: int = 0
    """Answers asked for, those included that were asked for again because they didn't fit."""
    input_tokens: int = 0
    """Tokens that were read in this run."""
    output_tokens: int = 0
    """Tokens that were written in this run."""
    failed: Counter[str] = field(default_factory=Counter)
    """Questions without an answer, by reason; a later run asks them again."""
    said: dict[str, str] = field(default_factory=dict)
    """What the first failure of each reason said."""
    over_budget: int = 0
    """Questions that were not asked, or not again, as the budget was spent."""


@dataclass
class Answering:
    """One model that is asked; every question is counted in `tally`."""

    who: str
    """What messages call it, such as "the teacher"."""
    model: str
    backend: Backend
    settings: AskingSettings
    cache: Cache
    tally: Tally
    keep_unfit: bool
    """Whether an answer that didn't fit, however often it was asked for, is kept; else the question failed."""
    failures_in_a_row: int = 0

    def kept(self, key: str) -> Record | None:
        """The answer that the cache has."""
        record = self.cache.get(key)
        self.tally.cached += record is not None
        return record

    async def ask(
        self, key: str, prompt: str, ask: Callable[[int], Awaitable[Answer]], fits: Callable[[str], bool]
    ) -> Record | None:
        """A new answer, kept under `key`; None where there is none to be had.

        `prompt` is the version of the template. `ask` is told how often it was called before; what doesn't fit is asked
        for again. Raises `UserError` after too many failures in a row.
        """
        for repetition in range(self.settings.max_retries + 1):
            if self._budget_is_spent():
                self.tally.over_budget += 1
                return None
            self.tally.requests += 1
            try:
                answer = await ask(repetition)
            except AskFailed as failure:
                self._count(failure)
                return None
            self.tally.input_tokens += answer.input_tokens
            self.tally.output_tokens += answer.output_tokens
            if fits(answer.text):
                break
        else:
            if not self.keep_unfit:
                self._count(AskFailed("unfit", "no answer fitted its schema"))
                return None
        self.failures_in_a_row = 0
        self.tally.asked += 1
        date = datetime.now(UTC).isoformat(timespec="seconds")
        return self.cache.put(key, Record(answer, Provenance(self.model, prompt, date, self.backend)))

    def _budget_is_spent(self) -> bool:
        settings, tally = self.settings, self.tally
        tokens = tally.input_tokens + tally.output_tokens
        return (settings.budget_requests is not None and tally.requests >= settings.budget_requests) or (
            settings.budget_tokens is not None and tokens >= settings.budget_tokens
        )

    def _count(self, failure: AskFailed) -> None:
        self.tally.failed[failure.reason] += 1
        self.tally.said.setdefault(failure.reason, failure.detail)
        self.failures_in_a_row += 1
        if self.failures_in_a_row >= self.settings.give_up_after:
            raise UserError(
                f"{self.who} left {self.failures_in_a_row} questions in a row without an answer, the last because of "
                f"{failure}; what it answered before is kept in {self.settings.cache}"
            ) from failure


async def work_through(items: Iterable[T], work: Callable[[T], Awaitable[None]], concurrency: int) -> None:
    """Do `work` on every item, on `concurrency` of them at once.

    The first error ends the others, and is raised once none of them runs any more.
    """
    stream = iter(items)

    async def worker() -> None:
        for item in stream:
            await work(item)
            await asyncio.sleep(0)  # where every answer is kept nothing else lets an interrupt in

    tasks = [asyncio.create_task(worker()) for _ in range(concurrency)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
