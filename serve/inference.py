"""One question about one image, put to a release: answered once, or by CCT over several views.

Invariants: all rollouts of an inference come from one release; what is told while it goes on (`Watcher`) changes
nothing about it.
"""

import asyncio
import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any, Literal, Protocol

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, field_validator

from dermo_ray.cct import Inference, Question, Sample, aggregate, greedy, infer, plan
from dermo_ray.cct.views import Draw
from dermo_ray.config.cct import CCTConfig, ViewName, ViewSettings
from dermo_ray.morphology import Modality
from serve.catalogue import Release
from serve.messages import Answer, Completed, Policies, Usage
from serve.safety.errors import unavailable

_MAX_SAMPLES = 8
_MAX_VIEWS = 4

Body = dict[str, Any]
Show = Callable[[str], Body]
"""Makes the request that shows an image, given as a data URI."""


class CCTOptions(BaseModel):
    """What a request may change about CCT; all else is as the service is set."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    alpha: float | None = Field(default=None, ge=0, le=100)
    """Exponent of a rollout's confidence in its weight."""
    beta: float | None = Field(default=None, ge=0, le=100)
    """Exponent of a rollout's consistency with the others in its weight."""
    tau: float | None = Field(default=None, ge=0, le=1)
    """Abstain where the posterior of the leading answer is below this."""
    views: list[ViewName] | None = Field(default=None, min_length=1, max_length=_MAX_VIEWS)
    """The views of the image, whatever its modality; `identity`, the untouched image, comes first."""
    samples_per_view: int | None = Field(default=None, ge=1, le=_MAX_SAMPLES)
    """Completions for each view."""
    greedy_first: bool | None = None
    """The first completion of a view is its likeliest."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """Of the samples."""
    stop: Literal["never", "certain", "probable"] | None = None
    """When to stop early."""
    stop_probability: float | None = Field(default=None, gt=0.5, lt=1)
    """How probable the lead must be for `probable`."""
    round_size: int | None = Field(default=None, ge=1)
    """Rollouts of each round after the first."""

    @field_validator("views")
    @classmethod
    def _as_in_the_settings(cls, value: list[ViewName] | None) -> list[ViewName] | None:
        if value is not None:
            _views(value)
        return value

    def over(self, config: CCTConfig) -> CCTConfig:
        """The settings of `config` with what is given here."""
        names = CCTOptions.model_fields
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        if self.views is not None:
            given["views"] = _views(self.views)
        return config.model_copy(update=given)


def _views(names: Sequence[ViewName]) -> ViewSettings:
    """These views for either modality. Raises `ValueError` where they are not what the settings allow."""
    return ViewSettings(clinical=tuple(names), dermoscopic=tuple(names))


class EngineRefused(Exception):
    """The engine answered a rollout with an error, which is the answer to the whole request."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.content.decode(errors="replace"))
        self.answer = answer


class Watcher(Protocol):
    """Hears what an inference does while it goes on."""

    def wrote(self, text: str) -> None:
        """A piece of the first rollout's text."""
        ...

    def voted(self, draw: Draw, sample: Sample) -> None:
        """A rollout is complete."""
        ...


@dataclass(frozen=True)
class Asker:
    """Asks a release: once, greedily, or as CCT plans."""

    policies: Policies
    release: Release
    question: Question
    max_side: int | None

    async def ask(
        self,
        picture: Image.Image,
        show: Show,
        config: CCTConfig,
        *,
        cct: bool,
        modality: Modality,
        seed: int,
        watcher: Watcher | None = None,
    ) -> Inference:
        """The inference about an RGB `picture`. Raises `EngineRefused`, and `Refused` where no replica can answer."""
        if self.max_side is not None and max(picture.size) > self.max_side:
            picture = await asyncio.to_thread(_within, picture, self.max_side)
        draws = {draw.seed: draw for draw in plan(config, modality, seed)}
        shown = _Shown(show)
        first = next(iter(draws))

        async def sample(
            image: Image.Image, prompt: _Shown, *, temperature: float, seed: int, top_logprobs: int
        ) -> Sample:
            body = await prompt.body(image) | {"temperature": temperature, "seed": seed}
            if watcher is not None and seed == first:
                completed = await self._watched(body, watcher)
            else:
                completed = await self.policies.rollout(self.release, body, top_logprobs)
            if isinstance(completed, Answer):
                raise EngineRefused(completed)
            if watcher is not None:
                watcher.voted(draws[seed], completed)
            return completed

        how = infer if cct else greedy
        return await how(sample, picture, shown, config, self.question, modality=modality, seed=seed)

    async def _watched(self, body: Body, watcher: Watcher) -> Completed | Answer:
        async for part in self.policies.stream_rollout(self.release, body):
            if isinstance(part, str):
                watcher.wrote(part)
            else:
                return part
        raise unavailable("The replica that was answering has failed. Try again.", "replica_lost")


class _Shown:
    """The requests that show the views of one image; each view is encoded once."""

    def __init__(self, show: Show) -> None:
        self._show = show
        self._encoded: dict[int, asyncio.Future[str]] = {}

    async def body(self, view: Image.Image) -> Body:
        if id(view) not in self._encoded:
            self._encoded[id(view)] = asyncio.ensure_future(asyncio.to_thread(data_uri, view))
        return self._show(await asyncio.shield(self._encoded[id(view)]))


def data_uri(image: Image.Image) -> str:
    """The image without loss, as a PNG in a data URI."""
    buffer = BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def thumbnail(image: Image.Image, side: int) -> str:
    """The image scaled down to `side` pixels at most, as a JPEG in a data URI."""
    buffer = BytesIO()
    _within(image, side).save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _within(image: Image.Image, side: int) -> Image.Image:
    """The image, scaled down until its longer side is `side` pixels at most."""
    small = image.copy()
    small.thumbnail((side, side))
    return small


def majority_of(inference: Inference, config: CCTConfig) -> str | None:
    """What a plain vote of the same rollouts would have answered."""
    rollouts = [replace(vote.rollout, option_probabilities=None) for vote in inference.votes if vote.rollout]
    if not rollouts:
        return None
    return aggregate(rollouts, config.model_copy(update={"alpha": 0.0, "beta": 0.0})).answer


def usage_of(inference: Inference) -> Usage:
    """The tokens of all rollouts."""
    return Usage(inference.prompt_tokens, inference.completion_tokens)
