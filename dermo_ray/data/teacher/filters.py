"""Which texts of a teacher are refused: pure functions under the names that the counts go by.

Invariant: a text that passes can be written into any record: `completion.render` takes it.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from dermo_ray.completion import Completion, render
from dermo_ray.config.teacher import FilterSettings
from dermo_ray.morphology import SKINCON_FEATURES, Morphology
from dermo_ray.taxonomy import Taxonomy, fold_label

SCHEMA_VIOLATION = "schema_violation"
"""The name under which answers count that don't fit their schema, however often they were asked for."""

Prose = Literal["description", "reasoning"]

_WORD = re.compile(r"[^\W_]+")
_MAX_NAME_WORDS = 10
"""Longer names of diagnoses aren't looked for."""
_MAX_CODE_CHARACTERS = 3
_FEATURES = frozenset(
    fold_label(part) for name in SKINCON_FEATURES for part in (name, *re.split(r"[/()]", name)) if part
)
"""Terms of the vocabulary: some, such as Cyst, name diagnoses as well, and a description may use them."""


@dataclass(frozen=True)
class Draft:
    """A text of a teacher and what it is compared with; label and diagnosis are None for a description."""

    text: str
    label: str | None = None
    """The confirmed diagnosis, a canonical label."""
    diagnosis: str | None = None
    """What the teacher concluded with, as written."""


Filter = Callable[[Draft, FilterSettings, Taxonomy], bool]
"""Whether a draft is to be dropped."""


def first_fault(draft: Draft, part: Prose, settings: FilterSettings, taxonomy: Taxonomy) -> str | None:
    """The name of the first filter that drops the draft, or None where it passes all."""
    return next((name for name, drops in FILTERS[part].items() if drops(draft, settings, taxonomy)), None)


def diagnoses_named(text: str, taxonomy: Taxonomy) -> Iterator[tuple[str, str]]:
    """The diagnoses that `text` names in whole words, as (folded name, canonical label).

    Of overlapping names the longest counts. A plural in s is a name as well; a single word of up to three letters only
    in capitals: BCC is one, "as" is none.
    """
    words = _WORD.findall(unicodedata.normalize("NFC", text))
    start = 0
    while start < len(words):
        for end in range(min(start + _MAX_NAME_WORDS, len(words)), start, -1):
            name = "".join(words[start:end])
            label = None if len(name) <= _MAX_CODE_CHARACTERS and not name.isupper() else _label(name, taxonomy)
            if label is not None:
                yield fold_label(name), label
                start = end
                break
        else:
            start += 1


def _label(name: str, taxonomy: Taxonomy) -> str | None:
    return taxonomy.canonical(name) or taxonomy.canonical(name.casefold().removesuffix("s"))


def _empty(draft: Draft, settings: FilterSettings, taxonomy: Taxonomy) -> bool:
    return not any(map(str.isalnum, draft.text))


def _too_short(draft: Draft, settings: FilterSettings, taxonomy: Taxonomy) -> bool:
    return len(draft.text.split()) < settings.min_words


def _too_long(draft: Draft, settings: FilterSettings, taxonomy: Taxonomy) -> bool:
    return len(draft.text.split()) > settings.max_words


def _breaks_format(draft: Draft, settings: FilterSettings, taxonomy: Taxonomy) -> bool:
    """Whether records can't hold it: it has tags of a completion, special tokens, or several paragraphs."""
    nothing = Morphology("skincon")
    try:
        if draft.label is None:
            render(Completion("task1", morphology=nothing, description=draft.text))
        else:
            render(Completion("task3", reasoning=draft.text, morphology=nothing, diagnosis=draft.label))
    except ValueError:
        return True
    return False


def _names_diagnosis(draft: Draft, settings: FilterSettings, taxonomy: Taxonomy) -> bool:
    return any(name not in _FEATURES for name, _ in diagnoses_named(draft.text, taxonomy))


def _diagnosis_not_mentioned(draft: Draft, settings: FilterSettings, taxonomy: Taxonomy) -> bool:
    return all(label != draft.label for _, label in diagnoses_named(draft.text, taxonomy))


def _other_diagnosis(draft: Draft, settings: FilterSettings, taxonomy: Taxonomy) -> bool:
    """Whether it concludes with another diagnosis; naming alternatives on the way is what reasoning is for."""
    return {label for _, label in diagnoses_named(draft.diagnosis or "", taxonomy)} != {draft.label}


_ALL_PROSE: dict[str, Filter] = {
    "empty": _empty,
    "too_short": _too_short,
    "too_long": _too_long,
    "breaks_format": _breaks_format,
}

FILTERS: Mapping[Prose, Mapping[str, Filter]] = MappingProxyType(
    {
        "description": _ALL_PROSE | {"names_diagnosis": _names_diagnosis},
        "reasoning": _ALL_PROSE
        | {"diagnosis_not_mentioned": _diagnosis_not_mentioned, "other_diagnosis": _other_diagnosis},
    }
)
"""The filters of each part, by name, in the order in which they are tried."""
