"""How sure a completion is of its answer, from the probabilities of the answer's own tokens."""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TypeVar

from dermo_ray.cct.rollout import Sample

Token = TypeVar("Token")

_INCOMPLETE = "\ufffd"
"""What a decoder puts for a part of a character."""


def decode_tokens(decode: Callable[[list[Token]], str], tokens: Sequence[Token]) -> list[str]:
    """The text of each token, so that together they spell the whole; `decode` turns several (ids, or bytes) into text.

    A character that is spread over tokens belongs to the last of them; the others are empty.
    """
    pieces: list[str] = []
    pending: list[Token] = []
    for token in tokens:
        pending.append(token)
        piece = decode(pending)
        if piece.endswith(_INCOMPLETE):
            pieces.append("")
        else:
            pieces.append(piece)
            pending = []
    if pending:
        pieces[-1] = decode(pending)
    return pieces


def token_spans(sample: Sample) -> list[tuple[int, int]]:
    """Where each token stands in the sample's text, as (start, end) in characters.

    A stop token spans nothing at the end. Raises `ValueError` where the tokens spell another text.
    """
    if not "".join(sample.tokens).startswith(sample.text):
        raise ValueError(f"the tokens do not spell the text {sample.text[:40]!r}: decode them by decode_tokens")
    ends = [min(end, len(sample.text)) for end in accumulate(map(len, sample.tokens))]
    return list(zip([0, *ends], ends, strict=False))


def span_probability(sample: Sample, start: int, end: int) -> float:
    """The geometric mean probability of the tokens that spell `sample.text[start:end]`, in [0, 1].

    Raises `ValueError` where no token does.
    """
    spans = token_spans(sample)
    logprobs = [p for (first, last), p in zip(spans, sample.logprobs, strict=True) if first < end and last > start]
    if not logprobs:
        raise ValueError(f"no token stands at {start} to {end} of {sample.text[:40]!r}")
    return min(1.0, math.exp(math.fsum(logprobs) / len(logprobs)))


def option_probabilities(sample: Sample, start: int, options: Sequence[str]) -> dict[str, float]:
    """The probability that each of `options`, as it would be written, stands at `start` of the text; 1 or less in all.

    Follows the tokens of the option that was written for as long as others begin alike. At each, an option that parts
    from it gets the probability of getting there times that of the likeliest tokens that lead to it, whatever their
    case or the space before them; options that a token does not tell apart share it. What is not among the likeliest
    tokens counts as 0.
    """
    spans = token_spans(sample)
    first = next(number for number, (_, end) in enumerate(spans) if end > start)
    lead = sample.text[spans[first][0] : start]
    found = dict.fromkeys(options, 0.0)
    live, read, reached = list(found), 0, 1.0
    for number in range(first, len(spans)):
        written = sample.tokens[number]
        for token, logprob in sample.top_logprobs[number].items() if sample.top_logprobs else ():
            if token != written:
                others = _continued(live, read, _bare(token, lead) if number == first else token)
                for option in others:
                    found[option] += reached * math.exp(logprob) / len(others)
        piece = _bare(written, lead) if number == first else written
        continued = _continued(live, read, piece) or ([] if piece else live)  # an empty piece is part of a character
        if not continued:
            break
        live, read, reached = continued, read + len(piece), reached * math.exp(sample.logprobs[number])
        if len(live) == 1:
            break
    ended = [option for option in live if len(option) <= read] or live
    for option in ended:
        found[option] += reached / len(ended)
    return found


def _bare(token: str, lead: str) -> str:
    """A token without what stands before the answer in it."""
    return token.removeprefix(lead).lstrip()


def _continued(options: Sequence[str], read: int, piece: str) -> list[str]:
    """The options, alike in their first `read` characters, that go on with `piece`; else those that end there."""
    piece = piece.lower()
    rests = {option: option[read:].lower() for option in options}
    on = [option for option, rest in rests.items() if rest and piece and _agree(rest, piece)]
    return on or [option for option, rest in rests.items() if not rest and not piece[:1].isalnum()]


def _agree(rest: str, piece: str) -> bool:
    return rest.startswith(piece) or (piece.startswith(rest) and not piece[len(rest)].isalnum())
