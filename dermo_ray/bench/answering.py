"""One item answered by one method, over any sampler: the same code for engines of our own and for servers.

Invariants: every method is read by the benchmark's own reader, so that none gains by being read more kindly; every
method sees the same conversation up to a question, but for its own earlier answers in a walk.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from dermo_ray.bench.responses import Response, Step, Vote, item_seed
from dermo_ray.bench.tasks import TASKS, BenchItem, Question, begin, next_question, parts, prompt
from dermo_ray.bench.tasks.choice import chosen
from dermo_ray.bench.tasks.items import LETTERS
from dermo_ray.cct import (
    Inference,
    Rollout,
    Sample,
    Sampler,
    choice,
    diagnosis,
    greedy,
    infer,
    lettered_choice,
    majority,
)
from dermo_ray.cct.confidence import span_probability
from dermo_ray.cct.questions import Question as Reading
from dermo_ray.config.bench import BenchSettings, Method
from dermo_ray.config.cct import CCTConfig
from dermo_ray.morphology import Modality
from dermo_ray.records import Turn
from dermo_ray.taxonomy import Taxonomy


@dataclass(frozen=True)
class Asked:
    """What a sampler is to answer, beside the view of the first image."""

    turns: tuple[Turn, ...]
    """Ends with a human turn; `<image>` stands for each image, the first one's view included."""
    further_images: tuple[Image.Image, ...]
    """The item's second image and those after it, which are shown as they are."""
    max_tokens: int


Respond = Callable[[BenchItem, Method], Awaitable[Response]]
"""Answers an item by a method. Raises `AskFailed` where it stays without an answer."""


async def respond(
    sample: Sampler[Asked],
    item: BenchItem,
    images: Sequence[Image.Image],
    method: Method,
    settings: BenchSettings,
    taxonomy: Taxonomy,
) -> Response:
    """The response of whatever is behind `sample`; `images` are the item's, in RGB."""
    questioner = _Questioner(sample, item, tuple(images), method, settings)
    if TASKS[item.task].scoring == "walk":
        texts, steps = [], []
        walk = begin(item, instruct=settings.instruct)
        while not walk.done:
            asked = item.questions[len(walk.answers)]
            text, step = await questioner.ask(walk.turns, _option_reading(asked, lettered=False), asked)
            texts.append(text)
            steps.append(step)
            walk = next_question(walk, text)
        return Response(item=item.id, method=method, texts=tuple(texts), steps=tuple(steps))
    turns = (Turn(from_="human", value=prompt(item, instruct=settings.instruct)),)
    asked = item.questions[0]
    if asked.options:
        reading = _option_reading(asked, lettered=True)
    elif TASKS[item.task].axis == "reasoning":
        reading = _diagnosis_reading(taxonomy)
    else:
        reading = Reading(lambda sample: None)  # a description names nothing to agree on
    text, step = await questioner.ask(turns, reading, asked)
    return Response(item=item.id, method=method, texts=(text,), steps=(step,))


@dataclass(frozen=True)
class _Questioner:
    """How the questions of one item are put."""

    sample: Sampler[Asked]
    item: BenchItem
    images: tuple[Image.Image, ...]
    method: Method
    settings: BenchSettings

    async def ask(self, turns: tuple[Turn, ...], reading: Reading, question: Question) -> tuple[str, Step]:
        """The text to score and the step behind it."""
        settings = self.settings
        length = settings.max_tokens.choice if question.options else settings.max_tokens.open
        asked = Asked(turns, self.images[1:], length)
        modality: Modality = self.item.facts.modality or "clinical"
        started = time.perf_counter()
        found = await _METHODS[self.method](
            self.sample,
            self.images[0],
            asked,
            _cct(self.method, settings),
            reading,
            modality=modality,
            seed=item_seed(self.item, settings.items.seed),
        )
        return self._text(found, question), _step(found, self.method, time.perf_counter() - started)

    def _text(self, found: Inference, question: Question) -> str:
        """What is scored: a completion that speaks for all, or the option itself where several rollouts elected it."""
        if self.method == "greedy" or found.result is None or not question.options:
            return (found.spokesman or found.votes[0]).sample.text
        answer = found.result.answer
        if TASKS[self.item.task].scoring == "walk":
            return answer
        return f"{LETTERS[question.options.index(answer)]}) {answer}"


_METHODS = {"greedy": greedy, "majority": majority, "cct": infer, "cct_early": infer}


def _cct(method: Method, settings: BenchSettings) -> CCTConfig:
    return settings.cct.model_copy(update={"stop": settings.early}) if method == "cct_early" else settings.cct


def _option_reading(question: Question, *, lettered: bool) -> Reading:
    """The options as CCT reads them, held to the benchmark's reader: what that can't read is no answer."""
    options = question.options
    inner = lettered_choice(dict(zip(LETTERS, options, strict=False))) if lettered else choice(options)

    def read(sample: Sample) -> Rollout | None:
        place = chosen(sample.text, options, lettered=lettered).place
        if place is None:
            return None
        rollout = inner.read(sample)
        if rollout is not None and rollout.answer == options[place]:
            return rollout
        return Rollout(options[place], _overall(sample))

    return replace(inner, read=read)


def _diagnosis_reading(taxonomy: Taxonomy) -> Reading:
    """The diagnosis as CCT reads it, or where it stands in no block of its own as the benchmark does."""
    inner = diagnosis(taxonomy)

    def read(sample: Sample) -> Rollout | None:
        rollout = inner.read(sample)
        if rollout is not None or (stated := parts(sample.text).diagnosis) is None:
            return rollout
        return Rollout(taxonomy.canonical(stated) or " ".join(stated.split()), _overall(sample))

    return replace(inner, read=read)


def _overall(sample: Sample) -> float:
    """The confidence of an answer that stands where CCT doesn't look for it: that of the whole completion."""
    return span_probability(sample, 0, len(sample.text)) if sample.tokens and sample.text else 1.0


def _step(found: Inference, method: Method, seconds: float) -> Step:
    result, first = found.result, found.votes[0].rollout
    confidence = None if result is None else result.confidence
    if method == "greedy":  # the posterior of a lone completion is always 1
        confidence = None if first is None else first.confidence
    return Step(
        answer=None if result is None else result.answer,
        confidence=confidence,
        posterior={} if result is None or method == "greedy" else result.posterior,
        abstain=result is None or result.abstain,
        votes=tuple(
            Vote(
                view=vote.draw.view,
                answer=None if vote.rollout is None else vote.rollout.answer,
                confidence=None if vote.rollout is None else vote.rollout.confidence,
                weight=vote.weight,
            )
            for vote in (found.votes if method != "greedy" else ())
        ),
        planned=found.planned,
        prompt_tokens=found.prompt_tokens,
        completion_tokens=found.completion_tokens,
        seconds=seconds,
    )
