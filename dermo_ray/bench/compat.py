"""The scoring rules of the DermoGPT authors' public scripts, defects included, for comparison with published numbers.

Source: github.com/mendicant04/DermoGPT at ef9b449: src/infer/mcq/evaluation_{derm7pt,skincon}_performance.py,
src/infer/{lora/sft,baseline/api}/task2_2_hierarchical.py, dataset_final/benchmark/task4/eval_fairness_ddi.py.
Everywhere else this project avoids these rules; docs/bench.md says why for each.

Invariant: nothing here is used unless `compat` is asked for.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

_WORD = re.compile(r"\w+")


def same_first_character(answer: str, reference: str) -> bool | None:
    """Multiple choice: whether answer and reference begin alike, letter case included; None for an empty answer.

    The scripts pass over rows with an empty answer, so these count neither as right nor as wrong.
    """
    stripped = answer.strip()
    return stripped[0] == reference[:1] if stripped else None


def same_option_head(answer: str, reference: str) -> bool:
    """Fairness: whether the letters before ")" are equal, or where one lacks its ")" the whole texts."""
    return _option_head(answer) == _option_head(reference)


def option_named(answer: str, options: Sequence[str]) -> int | None:
    """Hierarchical: the place of the option whose text occurs first in the answer, as any substring of it.

    Where none occurs: the option that shares most words with it, if the Jaccard index is at least 0.5. Equal ones go to
    the earlier option. So "Melanoma" is found in "Melanoma in situ".
    """
    said = _normal(answer)
    found = [(said.find(_normal(option)), place) for place, option in enumerate(options) if _normal(option)]
    if hits := [hit for hit in found if hit[0] >= 0]:
        return min(hits)[1]
    words = set(_WORD.findall(said))
    closeness = [(_jaccard(words, set(_WORD.findall(_normal(option)))), -place) for place, option in enumerate(options)]
    best, place = max(closeness, default=(0.0, 0))
    return -place if best >= 0.5 else None


def fairness_score(accuracies: Mapping[str, float]) -> float:
    """1 - (max - min) / max over the groups' accuracies; 1 with one group or none, 0 where the best has none right."""
    if len(accuracies) < 2:
        return 1.0
    best, worst = max(accuracies.values()), min(accuracies.values())
    return 1 - (best - worst) / best if best > 0 else 0.0


def macro_f1(truth: Sequence[str], answers: Sequence[str]) -> float:
    """Derm7pt: the mean over letters, those that were only answered included, of the F1 of each; 0 without answers."""
    letters = sorted({*truth, *answers})
    right = Counter(true for true, answer in zip(truth, answers, strict=True) if true == answer)
    seen = Counter(truth) + Counter(answers)
    return sum(2 * right[letter] / seen[letter] for letter in letters) / max(1, len(letters))


def last_of_each(ids: Sequence[str]) -> list[int]:
    """The places that remain where a later row with an id takes the place of an earlier one."""
    return list({name: place for place, name in enumerate(ids)}.values())


def _option_head(text: str) -> str:
    stripped = text.strip()
    return stripped[0] if stripped[1:2] == ")" else stripped


def _normal(text: str) -> str:
    return " ".join(text.split()).lower()


def _jaccard(first: set[str], second: set[str]) -> float:
    # the scripts add 1e-9 below the line, so that 1 of 2 words falls just short of a half
    return len(first & second) / (len(first | second) + 1e-9)
