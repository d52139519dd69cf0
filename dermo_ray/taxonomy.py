"""The tree of diagnoses: superclass, subclasses, leaf labels with their synonyms.

Labels are found by their letters and digits alone (case, spaces, punctuation and accents are folded away), never by
substring: "Melanoma" must not find "Melanoma in situ". Invariants of a tree: each leaf stands in one place, each
folded name belongs to one leaf, each leaf can be written as one diagnosis.
"""

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from dermo_ray.completion import MAX_LABEL_CHARS, is_one_label
from dermo_ray.errors import UserError

ITEMS_KEY = "_items_"
"""Under this key the released top-down files list the leaves of a node that has subclasses too."""

_NOT_LETTER_OR_DIGIT = re.compile(r"[\W_]+")


def fold_label(text: str) -> str:
    """The letters and digits of a label, without case and accents; equal for spellings of one label."""
    return _NOT_LETTER_OR_DIGIT.sub("", unicodedata.normalize("NFD", text.casefold()))


@dataclass(frozen=True)
class Leaf:
    """A diagnosis: its canonical label, the categories above it from the superclass down, its other names."""

    label: str
    path: tuple[str, ...]
    synonyms: tuple[str, ...] = ()


class Taxonomy:
    """An immutable tree of diagnoses. Methods that take a label take any of its names."""

    def __init__(self, leaves: list[Leaf], source: str = "the taxonomy") -> None:
        """Index the leaves; raises `UserError` naming both where two claim one name."""
        if not leaves:
            raise UserError(f"{source} holds no diagnosis; it needs at least one leaf")
        self._leaves = {leaf.label: leaf for leaf in leaves}
        self._label_by_name: dict[str, str] = {}
        places: dict[str, str] = {}
        for leaf in leaves:
            if not is_one_label(leaf.label):
                raise UserError(f"{source}: {leaf.label!r} does not read as one label; rename it, keep this a synonym")
            place = " > ".join([*leaf.path, leaf.label])
            for name in dict.fromkeys(map(fold_label, (leaf.label, *leaf.synonyms))):
                if not name:
                    raise UserError(f"{source}: {place} has a name without letters or digits")
                if name in places:
                    raise UserError(f"{source}: {name!r} names two diagnoses, {places[name]} and {place}; keep one")
                places[name] = place
                self._label_by_name[name] = leaf.label

    @classmethod
    def load(cls, path: Path | str | None = None) -> "Taxonomy":
        """Read a tree; without a path the default one, which holds the labels of HAM10000 and the phantoms.

        A `.yaml` file nests categories; a leaf is a label with the list of its synonyms. A `.json` file has one of
        the shapes DermoGPT's scripts read: bottom-up, label -> categories from the top down (every value is a
        list), or top-down, nested categories whose leaves stand in a list, under `_items_` beside subclasses.

        Raises `UserError` for a missing, malformed or ambiguous file.
        """
        if path is None:
            text = resources.files("dermo_ray").joinpath("taxonomy.yaml").read_text(encoding="utf-8")
            return cls(list(_leaves_of_yaml(yaml.safe_load(text), ())), "the default taxonomy")
        path = Path(path)
        if not path.is_file():
            raise UserError(f"no such taxonomy file: {path}")
        try:
            if path.suffix == ".json":
                tree = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_distinct)
            else:
                tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_DistinctKeysLoader)
            if not isinstance(tree, dict):
                raise ValueError("it must hold a mapping of categories")
            leaves = list(_leaves_of_json(tree) if path.suffix == ".json" else _leaves_of_yaml(tree, ()))
        except (ValueError, yaml.YAMLError) as error:
            raise UserError(f"the taxonomy {path} can't be read: {' '.join(str(error).split())}") from error
        return cls(leaves, str(path))

    @property
    def labels(self) -> tuple[str, ...]:
        """Every leaf's canonical label, in the file's order."""
        return tuple(self._leaves)

    def canonical(self, text: str) -> str | None:
        """The leaf label that `text` is a spelling or synonym of, or None."""
        return self._label_by_name.get(fold_label(text)) if len(text) <= MAX_LABEL_CHARS else None

    def path(self, label: str) -> list[str]:
        """The categories above a leaf, superclass first. Raises `KeyError` for a label not in the tree."""
        return list(self._leaf(label).path)

    def siblings(self, label: str) -> list[str]:
        """The other leaves under the same parent. Raises `KeyError` for a label not in the tree."""
        leaf = self._leaf(label)
        return [other.label for other in self._leaves.values() if other.path == leaf.path and other is not leaf]

    def similarity(self, a: str, b: str) -> float:
        """Closeness 2 * depth(lca) / (depth(a) + depth(b)), in [0, 1]; 0 where either is not in the tree.

        The root has depth 0 and the leaf counts, so that only a leaf itself is at 1 (Wu and Palmer, ACL 1994).
        """
        first, second = self.canonical(a), self.canonical(b)
        if first is None or second is None:
            return 0.0
        if first == second:
            return 1.0
        one, other = self._leaves[first].path, self._leaves[second].path
        shared = 0
        for left, right in zip(one, other, strict=False):
            if left != right:
                break
            shared += 1
        return 2 * shared / (len(one) + len(other) + 2)

    def _leaf(self, label: str) -> Leaf:
        canonical = self.canonical(label)
        if canonical is None:
            raise KeyError(f"{label!r} is not in the taxonomy")
        return self._leaves[canonical]


def _leaves_of_yaml(node: dict[str, Any], path: tuple[str, ...]) -> Iterator[Leaf]:
    for name, below in node.items():
        if isinstance(below, dict):
            yield from _leaves_of_yaml(below, (*path, _text(name)))
        else:
            yield Leaf(_text(name), path, _texts(below, name))


def _leaves_of_json(tree: dict[str, Any]) -> Iterator[Leaf]:
    if all(isinstance(value, list) for value in tree.values()):
        for label, categories in tree.items():
            yield Leaf(label, _texts(categories, label))
    else:
        yield from _leaves_top_down(tree, ())


def _leaves_top_down(node: Mapping[str, Any] | list[Any], path: tuple[str, ...]) -> Iterator[Leaf]:
    if isinstance(node, list):
        for label in _texts(node, " > ".join(path)):
            yield Leaf(label, path)
        return
    if not isinstance(node, Mapping):
        raise ValueError(f"{' > '.join(path)!r} must hold categories or a list of labels")
    for name, below in node.items():
        yield from _leaves_top_down(below, path if name == ITEMS_KEY else (*path, name))


def _texts(value: object, name: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{name!r} must hold a list, [] where it is empty")
    return tuple(map(_text, value))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not text; quote it")
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dict of the pairs; refuses a repeated key, which JSON and YAML readers would drop in silence."""
    tree: dict[str, Any] = {}
    for key, value in pairs:
        if key in tree:
            raise ValueError(f"{key!r} is written twice under one parent")
        tree[key] = value
    return tree


class _DistinctKeysLoader(yaml.SafeLoader):
    """YAML in which a key stands once in a mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        _distinct([(key.value, None) for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
        return super().construct_mapping(node, deep=deep)
