"""What judging will cost, from the lengths of the prompts, before anything is asked."""

from collections.abc import Sequence

from dermo_ray.asking.cache import opened
from dermo_ray.bench.judges.answers import OpenAnswer
from dermo_ray.bench.judges.client import questions_of
from dermo_ray.bench.judges.rubrics import MAX_CLAIMS
from dermo_ray.config.judge import JudgeSettings
from dermo_ray.records import Record

_TOKENS_PER_CLAIM = 12
"""The JSON around a claim and its verdict."""


class Estimate(Record):
    """What is going to be asked, failures and unfit verdicts left aside."""

    requests: int
    cached: int
    """Questions that the cache answers for nothing."""
    input_tokens: int
    output_tokens: int
    """Of verdicts alone: a verdict repeats the claims of the reference. A thinking model writes more."""
    most_output_tokens: int
    """Where every verdict is as long as `max_tokens` lets it be."""
    cost: float | None
    """In the currency of the prices; None where there are none."""
    highest_cost: float | None
    """With the most output tokens."""


def estimate(answers: Sequence[OpenAnswer], settings: JudgeSettings) -> Estimate:
    """Estimate the cost of judging `answers`, without what the cache has. Raises `UserError` as `cache.opened` does."""
    requests = cached = input_tokens = output_tokens = 0
    with opened(settings.cache) as cache:
        for answer in answers:
            claims = round(len(answer.reference) / settings.characters_per_token)
            for asked in questions_of(answer, settings):
                if cache.get(asked.key) is not None:
                    cached += 1
                    continue
                requests += 1
                input_tokens += round(len(asked.prompt) / settings.characters_per_token)
                output_tokens += min(settings.max_tokens, claims + MAX_CLAIMS * _TOKENS_PER_CLAIM)
    most = requests * settings.max_tokens
    return Estimate(
        requests=requests,
        cached=cached,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        most_output_tokens=most,
        cost=cost(input_tokens, output_tokens, settings),
        highest_cost=cost(input_tokens, most, settings),
    )


def cost(input_tokens: int, output_tokens: int, settings: JudgeSettings) -> float | None:
    """The price of so many tokens, None where the settings don't name both prices."""
    if settings.price_input is None or settings.price_output is None:
        return None
    return (input_tokens * settings.price_input + output_tokens * settings.price_output) / 1e6
