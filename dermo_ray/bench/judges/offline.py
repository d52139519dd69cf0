"""A comparison of answers with references that asks nobody. It is not DermoBench's: no figure of the paper compares.

Text is compared by its words, morphology by the closed vocabularies, diagnoses by the taxonomy. Words are no findings:
a right description in other words scores low, its opposite in the same words high. A part that an answer lacks scores
0; one that the reference lacks is left out.
"""

import re
from collections import defaultdict
from collections.abc import Sequence

from dermo_ray.bench.judges.answers import Judgement
from dermo_ray.bench.judges.rubrics import SHARES, OpenTask, Part, combined
from dermo_ray.bench.tasks.open_ended import Parts
from dermo_ray.morphology import agreement
from dermo_ray.taxonomy import Taxonomy, fold_label

NOTE = "offline comparison by word overlap, vocabularies and taxonomy; not the paper's judge"
"""What stands beside every offline score."""

_WORD = re.compile(r"[^\W_]+")


def compare_offline(task: OpenTask, stated: Parts, reference: Parts, taxonomy: Taxonomy) -> Judgement:
    """Score the parts of an answer, as `open_ended.comparison` reads them, against those of the reference.

    Raises `ValueError` for a reference that has none of the task's parts.
    """
    scores: dict[Part, float] = {}
    expected = words(reference.prose)
    if expected:
        scores["text"] = 100 * rouge_l(words(stated.prose), expected)
    if "morphology" in SHARES[task] and reference.morphology is not None:
        scores["morphology"] = 100 * agreement(stated.morphology, reference.morphology)
    if "diagnosis" in SHARES[task] and reference.diagnosis is not None:
        scores["diagnosis"] = 100 * diagnosis_similarity(stated.diagnosis, reference.diagnosis, taxonomy)
    return Judgement(combined(task, scores), scores, "offline")


def diagnosis_similarity(stated: str | None, reference: str, taxonomy: Taxonomy) -> float:
    """Closeness in the taxonomy, in [0, 1]; outside it two spellings of one label are still equal."""
    if stated is None:
        return 0.0
    if fold_label(stated) == fold_label(reference):
        return 1.0
    return taxonomy.similarity(stated, reference)


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return _WORD.findall(text.casefold())


def rouge_l(stated: Sequence[str], reference: Sequence[str]) -> float:
    """ROUGE-L, the F1 of the longest common subsequence of words (Lin, ACL workshop 2004), in [0, 1]."""
    if not stated or not reference:
        return 0.0
    return 2 * longest_common_subsequence(stated, reference) / (len(stated) + len(reference))


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Its length, by the bit-parallel recurrence of Hyyrö (2004): bit i of `row` is 0 where the length grows at i."""
    places: defaultdict[str, int] = defaultdict(int)
    for place, word in enumerate(first):
        places[word] |= 1 << place
    everywhere = (1 << len(first)) - 1
    row = everywhere
    for word in second:
        matches = row & places[word]
        row = ((row + matches) | (row - matches)) & everywhere
    return len(first) - row.bit_count()
