"""What is asked: how the answer is read in a completion, and how near two answers are.

Four kinds: one of lettered options, one of options in words (a step down the taxonomy too), a diagnosis of the policy's
own words, with or without a morphology before it. Invariant: a completion that gives no answer, or several, gives None.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from dermo_ray.cct.confidence import option_probabilities, span_probability
from dermo_ray.cct.consistency import Similarity, by_taxonomy, exact
from dermo_ray.cct.rollout import Rollout, Sample
from dermo_ray.completion import parse
from dermo_ray.taxonomy import Taxonomy

_MOST_LOGPROBS = 20
"""What OpenAI's API and vLLM's defaults allow."""

_AFTER_LETTER = r"(?=\s*(?:[).:,\]*]|$))"
_LETTER_FIRST = re.compile(rf"\W*([A-Z]){_AFTER_LETTER}", re.MULTILINE)
_LETTER_NAMED = re.compile(rf"\b(?i:answer|option|choice)\b(?i:\s+is)?\W*([A-Z]){_AFTER_LETTER}", re.MULTILINE)


@dataclass(frozen=True)
class Question:
    """How completions about one question become rollouts."""

    read: Callable[[Sample], Rollout | None]
    """The answer of a completion, None where it gives none or several."""
    similarity: Similarity = exact
    answers: Sequence[str] = ()
    """Every answer there may be; one that is not here is unlike all others."""
    morphology: bool = False
    """Whether rollouts may state one."""
    top_logprobs: int = 0
    """How many of the likeliest tokens to ask for at each place."""


def lettered_choice(options: Mapping[str, str]) -> Question:
    """One of `options`, letter -> what it stands for, answered by the letter, the line `C) ...` or the words.

    The answer is what the letter stands for; equal options under two letters are one answer. Where letter and words
    disagree the letter counts.
    """

    def read(sample: Sample) -> Rollout | None:
        found = _letter(sample.text, options)
        if found is not None:
            letter, start = found
            return _chosen(sample, start, options[letter], options)
        return in_words.read(sample)

    in_words = choice(list(options.values()))
    return replace(in_words, read=read)


def choice(options: Sequence[str]) -> Question:
    """One of `options`, answered in their words: a step down the taxonomy, or a list without letters."""
    words = {option: option for option in options}

    def read(sample: Sample) -> Rollout | None:
        found = _mentioned(sample.text, list(words))
        return None if found is None else _chosen(sample, found[1], found[0], words)

    return Question(read, answers=tuple(words), top_logprobs=min(_MOST_LOGPROBS, 2 * len(words)))


def diagnosis(taxonomy: Taxonomy) -> Question:
    """The label in `<final_diagnosis>`, and the morphology where the completion states one.

    The answer is the label of the tree, or the words as written where the tree lacks them. Confidence is the geometric
    mean probability of the label's tokens.
    """

    def read(sample: Sample) -> Rollout | None:
        completion = parse(sample.text, "task3")
        if completion.diagnosis is None:
            return None
        answer = taxonomy.canonical(completion.diagnosis) or " ".join(completion.diagnosis.split())
        start = sample.text.rindex(completion.diagnosis, 0, sample.text.rindex("</final_diagnosis>"))
        end = start + len(completion.diagnosis)
        confidence = span_probability(sample, start, end) if sample.tokens else 1.0
        return Rollout(answer, confidence, completion.morphology)

    return Question(read, by_taxonomy(taxonomy), taxonomy.labels, morphology=True)


def votes_only(question: Question) -> Question:
    """The question with each rollout for its own answer alone, as a plain vote counts it."""

    def read(sample: Sample) -> Rollout | None:
        rollout = question.read(sample)
        return None if rollout is None else replace(rollout, option_probabilities=None)

    return replace(question, read=read)


def _chosen(sample: Sample, start: int, answer: str, written: Mapping[str, str]) -> Rollout:
    """The rollout for `answer`, which begins at `start`; `written` maps how an option is written to the answer."""
    if not sample.tokens:
        return Rollout(answer, 1.0)
    probabilities = dict.fromkeys(written.values(), 0.0)
    for form, probability in option_probabilities(sample, start, list(written)).items():
        probabilities[written[form]] += probability
    if not sample.top_logprobs:
        return Rollout(answer, min(1.0, probabilities[answer]))
    confidence = min(1.0, probabilities[answer] / sum(probabilities.values()))
    return Rollout(answer, confidence, option_probabilities=probabilities)


def _letter(text: str, options: Mapping[str, str]) -> tuple[str, int] | None:
    """The letter that is answered and where it stands: at the beginning, or after "answer", "option" or "choice"."""
    first = _LETTER_FIRST.match(text)
    if first is not None and first[1] in options:
        return first[1], first.start(1)
    named = [match for match in _LETTER_NAMED.finditer(text) if match[1] in options]
    return (named[0][1], named[0].start(1)) if len({match[1] for match in named}) == 1 else None


def _mentioned(text: str, options: Sequence[str]) -> tuple[str, int] | None:
    """The option that the text begins with, or the only one it mentions, and where it stands.

    An option inside a longer one that is mentioned ("Melanoma" in "Melanoma in situ") is not.
    """
    pattern = re.compile(
        "|".join(rf"(?<!\w){re.escape(option)}(?!\w)" for option in sorted(options, key=len, reverse=True)),
        re.IGNORECASE,
    )
    by_name = {option.lower(): option for option in options}
    mentions = [(by_name[match[0].lower()], match.start()) for match in pattern.finditer(text)]
    if not mentions:
        return None
    option, start = mentions[0]
    if not any(map(str.isalnum, text[:start])) or len({name for name, _ in mentions}) == 1:
        return option, start
    return None
