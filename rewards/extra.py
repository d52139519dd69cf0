"""Reward terms of the user's own: a callable found by its import path, or a service that speaks JSON over HTTP.

Both score a batch: completions and their references go in, one score for each comes out in their order, None where the
term does not apply. Invariant: what `ExtraTerm.scores` returns is as long as the batch, and each score None or in
[0, 1]; anything else, and any failure, is a `UserError` that names the term.
"""

import asyncio
import importlib
import json
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import httpx

from dermo_ray.config.reward import ImportedTerm, RewardConfig, ServiceTerm
from dermo_ray.errors import UserError
from dermo_ray.records import GroundTruth
from rewards.deadline import awaited

Score = Callable[[list[str], list[GroundTruth]], Sequence[float | None]]


@dataclass(frozen=True)
class ExtraTerm:
    """A term beside those of MAVIC, ready to score."""

    name: str
    weight: float
    function: Score

    def scores(self, completions: Sequence[str], truths: Sequence[GroundTruth]) -> list[float | None]:
        """The score of each completion, in order. Raises `UserError` where the term does not give that."""
        try:
            answer = self.function(list(completions), list(truths))
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"the reward term {self.name} failed: {_told(error)}") from error
        try:
            given = list(answer)
        except TypeError:
            raise UserError(f"the reward term {self.name} gave {answer!r:.80}: it must return a list") from None
        if len(given) != len(completions):
            raise UserError(f"the reward term {self.name} gave {len(given)} scores for {len(completions)} completions")
        for position, score in enumerate(given):
            # NaN fails the comparison as well
            if score is not None and not (isinstance(score, Real) and 0.0 <= float(score) <= 1.0):
                raise UserError(
                    f"the reward term {self.name} gave {score!r:.80} for completion {position} of a batch: "
                    f"a score is a number in [0, 1], or None where the term does not apply"
                )
        return [None if score is None else float(score) for score in given]


def extra_terms(config: RewardConfig) -> tuple[ExtraTerm, ...]:
    """The terms that `config.extra` and `config.services` name. Raises `UserError` for one that can't be made."""
    return tuple(map(extra_term, config.others))


def extra_term(settings: ImportedTerm | ServiceTerm) -> ExtraTerm:
    """The term that `settings` describe. Raises `UserError` where it can't be made."""
    function = import_term(settings) if isinstance(settings, ImportedTerm) else Service(settings)
    return ExtraTerm(settings.name, settings.weight, function)


def import_term(settings: ImportedTerm) -> Score:
    """The callable at `settings.path`: a class is built with the options, a function gets them at each call."""
    module_name, _, attribute = settings.path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"the reward term {settings.name} (path {settings.path}): there is no module {error.name}; "
            f"put the folder that holds it on PYTHONPATH"
        ) from error
    except Exception as error:
        raise UserError(f"the reward term {settings.name}: importing {module_name} failed: {_told(error)}") from error
    if not hasattr(module, attribute):
        raise UserError(f"the reward term {settings.name}: the module {module_name} has no {attribute}")
    found, options = getattr(module, attribute), settings.options
    if isinstance(found, type):
        try:
            found = found(**options)
        except Exception as error:
            raise UserError(
                f"the reward term {settings.name} can't be built with the options {options}: {_told(error)}"
            ) from error
        options = {}
    if not callable(found):
        raise UserError(
            f"the reward term {settings.name}: {settings.path} is of type {type(found).__name__}, not callable"
        )
    return lambda completions, truths: found(completions, truths, **options)


class Service:
    """A service that scores a batch by one POST: `{"completions", "ground_truths"}` in, `{"rewards"}` out.

    What may pass (no connection, status 429 or 5xx) is tried again until the deadline, which no answer outlasts, at
    whatever pace it trickles in.
    """

    def __init__(self, settings: ServiceTerm) -> None:
        self._settings = settings
        self._client = httpx.AsyncClient()

    def __call__(self, completions: list[str], truths: list[GroundTruth]) -> Any:
        """The service's `rewards`. Raises `UserError` naming service, address and what went wrong."""
        settings = self._settings
        # json.dumps escapes what isn't ASCII: a completion may hold lone surrogates, which UTF-8 has no bytes for
        truths_as_json = [truth.model_dump(mode="json") for truth in truths]
        body = json.dumps({"completions": completions, "ground_truths": truths_as_json}).encode()
        deadline, trouble = time.monotonic() + settings.timeout, "the deadline passed"
        for attempt in range(settings.retries + 1):
            if attempt:
                time.sleep(max(0.0, min(0.1 * 2**attempt, deadline - time.monotonic())))
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                break
            try:
                response = awaited(self._post(body, remaining))
            except TimeoutError:
                trouble = "there was no whole answer in time"
                break
            except httpx.HTTPError as error:
                trouble = str(error) or type(error).__name__
                continue
            if response.status_code == 429 or response.status_code >= 500:
                trouble = f"it answered with status {response.status_code}"
                continue
            return self._rewards(response)
        raise UserError(
            f"the reward service {settings.name} at {settings.url} did not score a batch (deadline "
            f"{settings.timeout:g} s, at most {settings.retries + 1} attempts): {trouble}"
        )

    async def _post(self, body: bytes, seconds: float) -> httpx.Response:
        async with asyncio.timeout(seconds):  # httpx's own timeouts start anew with every read
            return await self._client.post(
                self._settings.url, content=body, headers={"content-type": "application/json"}, timeout=None
            )

    def _rewards(self, response: httpx.Response) -> Any:
        where = f"the reward service {self._settings.name} at {self._settings.url}"
        if not response.is_success:
            raise UserError(f"{where} refused with status {response.status_code}: {response.text[:200]}")
        try:
            return response.json()["rewards"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f'{where} must answer {{"rewards": [...]}}, not {response.text[:200]!r}') from error


def _told(error: Exception) -> str:
    """An exception of the user's code in one line, with the place in that code that it came through first."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if frame.filename != __file__ and "importlib" not in frame.filename]
    where = f" ({theirs[0].filename}, line {theirs[0].lineno})" if theirs else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"
