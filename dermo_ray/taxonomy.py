"""The tree of diagnoses: superclass, subclasses, leaf labels with their synonyms.

Labels are found by their letters and digits alone (case, spaces, punctuation and accents are folded away), never by
substring: "Melanoma" must not find "Melanoma in situ". Invariants of a tree: each leaf stands in one place, each
folded name belongs to one leaf, each leaf can be written as one diagnosis.
"""

import difflib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import TypeVar

import yaml

from dermo_ray.completion import MAX_LABEL_CHARS, is_one_label
from dermo_ray.errors import UserError
from dermo_ray.taxonomy_files import ITEMS_KEY, Leaf, parse_json, parse_mapping, parse_yaml

__all__ = ["Leaf", "Taxonomy", "fold_label"]

T = TypeVar("T")

_NOT_LETTER_OR_DIGIT = re.compile(r"[\W_]+")


def fold_label(text: str) -> str:
    """The letters and digits of a label, without case and accents; equal for spellings of one label."""
    return _NOT_LETTER_OR_DIGIT.sub("", unicodedata.normalize("NFD", text.casefold()))


class Taxonomy:
    """An immutable tree of diagnoses. Methods that take a label take any of its names."""

    def __init__(self, leaves: Iterable[Leaf], source: str = "the taxonomy") -> None:
        """Index the leaves; raises `UserError` naming both where two claim one name."""
        self.leaves = tuple(leaves)
        """Every leaf, in the file's order."""
        if not self.leaves:
            raise UserError(f"{source} holds no diagnosis; it needs at least one leaf")
        self._leaf_by_label = {leaf.label: leaf for leaf in self.leaves}
        self._label_by_name: dict[str, str] = {}
        places: dict[str, str] = {}
        for leaf in self.leaves:
            if not is_one_label(leaf.label):
                raise UserError(f"{source}: {leaf.label!r} does not read as one label; rename it, keep this a synonym")
            place = " > ".join([*leaf.path, leaf.label])
            if ITEMS_KEY in (*leaf.path, leaf.label):
                raise UserError(f"{source}: {ITEMS_KEY!r} in {place} marks lists of labels in JSON files; rename it")
            for name in dict.fromkeys(map(fold_label, (leaf.label, *leaf.synonyms))):
                if not name:
                    raise UserError(f"{source}: {place} has a name without letters or digits")
                if name in places:
                    raise UserError(f"{source}: {name!r} names two diagnoses, {places[name]} and {place}; keep one")
                places[name] = place
                self._label_by_name[name] = leaf.label
        covered = {*self.labels, *(category for leaf in self.leaves for category in leaf.path)}
        for leaf in self.leaves:
            if unknown := [name for name in leaf.covers if name not in covered]:
                raise UserError(f"{source}: {leaf.label} covers {unknown[0]!r}, which is neither a leaf nor a category")

    @classmethod
    def load(cls, path: Path | str | None = None, mapping: Path | str | None = None) -> "Taxonomy":
        """Read a tree; without a path the default one, which holds the labels of the supported data sets.

        A `.yaml` file nests categories; a leaf is a label with the list of its synonyms. A `.json` file has one of
        the shapes DermoGPT's scripts read: bottom-up, label -> categories from the top down (every value is a
        list), or top-down, nested categories whose leaves stand in a list, under `_items_` beside subclasses.
        `mapping` is a JSON file raw label -> name of a leaf; the raw labels become synonyms.

        Raises `UserError` for a missing, malformed or ambiguous file.
        """
        if path is None:
            tree = _default()
        else:
            parse = parse_json if Path(path).suffix == ".json" else parse_yaml
            tree = cls(_read(Path(path), "taxonomy", parse), str(path))
        if mapping is None:
            return tree
        return tree.with_names(_read(Path(mapping), "mapping", parse_mapping), str(mapping))

    @property
    def labels(self) -> tuple[str, ...]:
        """Every leaf's canonical label, in the file's order."""
        return tuple(self._leaf_by_label)

    def canonical(self, text: str) -> str | None:
        """The leaf label that `text` is a spelling or synonym of, or None."""
        return self._label_by_name.get(fold_label(text)) if len(text) <= MAX_LABEL_CHARS else None

    def path(self, label: str) -> list[str]:
        """The categories above a leaf, superclass first. Raises `KeyError` for a label not in the tree."""
        return list(self._leaf(label).path)

    def siblings(self, label: str) -> list[str]:
        """The other leaves under the same parent. Raises `KeyError` for a label not in the tree."""
        leaf = self._leaf(label)
        return [other.label for other in self.leaves if other.path == leaf.path and other is not leaf]

    def overlap(self, a: str, b: str) -> bool:
        """Whether one of two leaves covers the other ("Melanocytic Nevus" does "Compound Nevus"): both may be right.

        Raises `KeyError` for a label not in the tree.
        """
        one, other = self._leaf(a), self._leaf(b)
        return any(
            not {narrow.label, *narrow.path}.isdisjoint(wide.covers) for wide, narrow in ((one, other), (other, one))
        )

    def similarity(self, a: str, b: str) -> float:
        """Closeness 2 * depth(lca) / (depth(a) + depth(b)), in [0, 1]; 0 where either is not in the tree.

        The root has depth 0 and the leaf counts, so that only a leaf itself is at 1 (Wu and Palmer, ACL 1994).
        """
        first, second = self.canonical(a), self.canonical(b)
        if first is None or second is None:
            return 0.0
        if first == second:
            return 1.0
        one, other = self._leaf_by_label[first].path, self._leaf_by_label[second].path
        shared = 0
        for left, right in zip(one, other, strict=False):
            if left != right:
                break
            shared += 1
        return 2 * shared / (len(one) + len(other) + 2)

    def nearest(self, text: str, count: int = 3) -> list[str]:
        """The labels of up to `count` leaves with a name spelt like `text`, best first, for a person to choose from.

        Names are compared letter by letter (difflib's ratio, at least 0.6), their words in alphabetical order, so that
        "Nevus, blue" is near "Blue Nevus". Spelling is no medicine: never take a candidate for the diagnosis unseen.
        """
        keys = difflib.get_close_matches(_sorted_words(text[:MAX_LABEL_CHARS]), self._spellings, len(self._spellings))
        return list(dict.fromkeys(self._spellings[key] for key in keys))[:count]

    def with_names(self, names: Mapping[str, str], source: str = "the mapping") -> "Taxonomy":
        """The tree with more synonyms: raw label -> any name of the leaf that it means.

        Raises `UserError` for a leaf that is not in the tree, and for a raw label that names another one.
        """
        added = defaultdict(list)
        for raw, name in names.items():
            label = self.canonical(name)
            if label is None:
                raise UserError(
                    f"{source} maps {raw!r} to {name!r}, which is not in the tree; add the leaf or change it"
                )
            if self.canonical(raw) != label:
                added[label].append(raw)
        return Taxonomy([replace(leaf, synonyms=(*leaf.synonyms, *added[leaf.label])) for leaf in self.leaves], source)

    @cached_property
    def _spellings(self) -> dict[str, str]:
        """Every name with its words in alphabetical order -> the label."""
        return {_sorted_words(name): leaf.label for leaf in self.leaves for name in (*leaf.synonyms, leaf.label)}

    def _leaf(self, label: str) -> Leaf:
        canonical = self.canonical(label)
        if canonical is None:
            raise KeyError(f"{label!r} is not in the taxonomy")
        return self._leaf_by_label[canonical]


@cache
def _default() -> Taxonomy:
    """The default tree, read once: that takes a fraction of a second, and nothing can change it."""
    text = resources.files("dermo_ray").joinpath("taxonomy.yaml").read_text(encoding="utf-8")
    return Taxonomy(parse_yaml(text), "the default taxonomy")


def _read(path: Path, kind: str, parse: Callable[[str], T]) -> T:
    if not path.is_file():
        raise UserError(f"no such {kind} file: {path}")
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"the {kind} {path} can't be read: {' '.join(str(error).split())}") from error


def _sorted_words(text: str) -> str:
    return "".join(sorted(fold_label(word) for word in _NOT_LETTER_OR_DIGIT.split(text)))
