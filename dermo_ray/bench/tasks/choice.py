"""Multiple choice: the options in a question, and the one that an answer names.

An answer names an option by its letter or by its whole text, never by a part of it: "Melanoma in situ" does not name
"Melanoma". It is looked for in three places: after the last "answer is" or "I choose", in the first line and in the
last one, there also in quotes, and as a letter in brackets at the end.

Invariants: an answer that names two options names none; reading takes time linear in the answer's length.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from dermo_ray.bench.tasks.items import LETTERS, Fault, Question
from dermo_ray.completion import MAX_LABEL_CHARS
from dermo_ray.data.samples import Reject
from dermo_ray.morphology import DERM7PT_FIELDS
from dermo_ray.taxonomy import fold_label

_OPTION_LINE = re.compile(r"^[ \t]*\(?([A-Z])[).][ \t]*(\S.*?)[ \t]*$", re.MULTILINE)

_TAG = re.compile(r"</?[A-Za-z_]{1,20}>|\\(?:boxed|text|textbf)\b")
_MARKUP = str.maketrans("", "", "*`$#{}")
_CUE = re.compile(
    r"\b(?:(?:answer|choice|option|diagnosis|category|classification|group|label)[ \t]{0,4}(?:is\b[ \t]{0,4}:?|[:=])"
    r"|(?:choose|pick|select|go with|opt for)\b:?)\s{0,4}",
    re.IGNORECASE,
)
_NAMED = re.compile(
    r"""(?:(?:option|choice|letter)[ ]+)?["'(\[]*([A-Z])\b"""
    r"""([)\]]["']?[.:]?|["'][.:]?(?=\s|$)|[.:](?=\s|$)|[ ]+[-\u2013\u2014](?=\s)|)[ ]*(.*)""",
    re.IGNORECASE,
)
_WITH_COMMA = re.compile(r"""(?:(?:option|choice|letter)[ ]+)?["'(\[]*([A-HJ-Z])["')\]]*,[ ]+(.*)""")
"""A letter and a reason. In capitals, and no I, with which sentences begin too."""
_LETTER_AT_END = re.compile(r"\((option |choice |letter |answer )?([A-Z])\)$", re.IGNORECASE)
_QUOTED = re.compile(r"[\"\u201c]([^\"\u201c\u201d]{1,200})[\"\u201d]")
_NEGATED = re.compile(r"(?:\bnot|n't|\bnever|\bno|\bthan)\W*$", re.IGNORECASE)
_NEAR = 24
"""Characters before a word among which a "not" means it."""
_LONE_LETTER = re.compile(r"\b([A-Z])\b")
_BRACKETED = re.compile(r"\b([A-Z])\)")
_LISTED = re.compile(r"^\W{0,4}([A-Z])(?:\)|\.(?=\s|$))", re.IGNORECASE)
_BETWEEN_WORDS = re.compile(r"[\s\-_/()\[\].,:;]+")
_PUNCTUATION = " \t\"'.:;,"


class Choice(NamedTuple):
    """The option that an answer names, by its place; None with the reason where it names none."""

    place: int | None
    fault: Fault | None = None


def question(text: str, reference: str) -> Question:
    """The question in a human turn with lettered options, one a line, from A on; `reference` is the right answer.

    Raises `Reject`: no_options; answer_not_an_option, also where its letter and its text disagree.
    """
    options = _options(text)
    if not options:
        raise Reject("no_options")
    right = chosen(reference, options).place
    if right is None:
        raise Reject("answer_not_an_option")
    return Question(text=text, options=options, right=right)


def chosen(text: str, options: Sequence[str], *, lettered: bool = True) -> Choice:
    """The one of `options` that an answer names; without `lettered`, letters mean nothing and only whole texts count.

    Reasoning between `<think>` and `</think>` is not part of the answer.
    """
    shown = text.rpartition("</think>")[2].partition("<think>")[0]
    lines = [line.strip() for line in _TAG.sub("\n", shown).translate(_MARKUP).splitlines() if line.strip()]
    if not lines:
        return Choice(None, "no_answer")
    cue = _after_last_cue(lines)
    listed = {match[1].upper() for line in lines if lettered and (match := _LISTED.match(line))}
    kept = [line for line in lines if not _LISTED.match(line)] if len(listed) > 1 else lines
    spans = [*cue, *(kept[:1] + kept[-1:])]
    named = {index for span in spans for index in _named(span, tuple(options), lettered)}
    if len(named) == 1:
        return Choice(named.pop())
    return Choice(None, "several" if named or len(listed) > 1 else "unreadable")


def field(question: Question) -> str | None:
    """The Derm7pt field that a question asks about: the one with its options, and that its words name if two have."""
    folded = {fold_label(option) for option in question.options}
    fitting = [name for name, values in DERM7PT_FIELDS.items() if {fold_label(value) for value in values} == folded]
    if len(fitting) > 1:
        words = question.text.casefold()
        fitting = [name for name in fitting if name.casefold().split()[0].rstrip("s") in words]
    return fitting[0] if len(fitting) == 1 else None


def _options(text: str) -> tuple[str, ...]:
    """The options at the end of a human turn: the last run of lines with letters from A on, without gaps."""
    run: list[str] = []
    for letter, option in _OPTION_LINE.findall(text):
        if letter == LETTERS[len(run) : len(run) + 1]:
            run.append(option)
        elif letter == "A":
            run = [option]
    return tuple(run) if len(run) > 1 else ()


def _after_last_cue(lines: Sequence[str]) -> list[str]:
    """What follows the last "answer is" or the like: the rest of its line, or the next line where that is empty."""
    text = "\n".join(lines)
    cues = [cue for cue in _CUE.finditer(text) if not _negated(text, cue.start())]
    return text[cues[-1].end() :].splitlines()[:1] if cues else []


def _named(line: str, options: tuple[str, ...], lettered: bool) -> set[int]:
    """The options that one line names: several where its letter and its text disagree, or other letters follow."""
    places = _places(options)
    if (whole := places.get(_fold(line))) is not None:
        return {whole}
    found = _quoted(line, places)
    if lettered:
        found |= _reasoned(line, options) | _at_end(line, places, len(options))
    if found:
        return found
    match = _NAMED.match(line) if lettered else None
    if match is None or (index := LETTERS.index(match[1].upper())) >= len(options):
        return set()
    rest = match[3]
    if _fold(rest) == _fold(options[index]):
        return {index}
    if not match[2] and rest.strip(_PUNCTUATION):
        return set()  # a word of one letter, such as the article
    others = {LETTERS.index(letter) for letter in _BRACKETED.findall(rest)}
    stated = places.get(_fold(rest))
    return {index} | {place for place in others if place < len(options)} | ({stated} if stated is not None else set())


def _quoted(line: str, places: Mapping[str, int]) -> set[int]:
    """The options that stand in quotes, but for those that are said not to be it."""
    quotes = [quote for quote in _QUOTED.finditer(line) if not _negated(line, quote.start())]
    return {places[text] for quote in quotes if (text := _fold(quote[1])) in places}


def _reasoned(line: str, options: tuple[str, ...]) -> set[int]:
    """The option of "B, since it is blue"; of "B, C or D" all of them."""
    match = _WITH_COMMA.match(line)
    if match is None or (index := LETTERS.index(match[1])) >= len(options):
        return set()
    if _fold(match[2]) == _fold(options[index]):
        return {index}
    others = [LETTERS.index(letter) for letter in _LONE_LETTER.findall(match[2]) if letter not in "AI"]
    return {index} | {place for place in others if place < len(options)}


def _at_end(line: str, places: Mapping[str, int], options: int) -> set[int]:
    """The options of "Blue Nevus (option B)": several where text and letter disagree.

    A letter that isn't said to be one counts only behind the text of an option.
    """
    text = line.rstrip(_PUNCTUATION)
    match = _LETTER_AT_END.search(text, max(0, len(text) - _NEAR))
    if match is None or _negated(line, match.start()):
        return set()
    stated = places.get(_fold(text[: match.start()]))
    index = LETTERS.index(match[2].upper())
    if index >= options or (stated is None and match[1] is None):
        return set()
    return {index} if stated is None else {index, stated}


def _negated(text: str, start: int) -> bool:
    return bool(_NEGATED.search(text[max(0, start - _NEAR) : start]))


@lru_cache(maxsize=65_536)
def _places(options: tuple[str, ...]) -> Mapping[str, int]:
    """Folded text of each option: its place; a text that two options share names neither."""
    folded = [_fold(option) for option in options]
    return {text: place for place, text in enumerate(folded) if text and folded.count(text) == 1}


@lru_cache(maxsize=65_536)
def _fold(text: str) -> str:
    """The words of a short text in lower case, without punctuation; nothing of a longer one, which is no option.

    Words stay apart: "A) typical" is not "atypical".
    """
    return " ".join(filter(None, map(fold_label, _BETWEEN_WORDS.split(text)))) if len(text) <= MAX_LABEL_CHARS else ""
