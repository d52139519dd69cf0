"""Files that hold a tree of diagnoses: our YAML, and the JSON shapes that DermoGPT's scripts read.

| shape | holds |
| --- | --- |
| YAML | nested categories; a leaf is a label with the list of its other names; `_covers_`: umbrella -> what it covers |
| bottom-up JSON | label -> categories from the superclass down |
| top-down JSON | nested categories; leaves in a list, under `_items_` beside subclasses |
| mapping JSON | raw label -> canonical label; stands beside a tree and adds names |

Invariant: what a function here makes, its reader gives back, leaf by leaf (top-down groups leaves by category).
The JSON shapes hold no names beside the label, so a tree with synonyms is bottom-up or top-down plus mapping; they do
not say what a leaf covers either.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import yaml

from dermo_ray.errors import UserError

ITEMS_KEY = "_items_"
"""Under this key the released top-down files list the leaves of a node that has subclasses too."""

COVERS_KEY = "_covers_"
"""Under this key a YAML file lists, at the top, what its umbrella leaves cover."""


@dataclass(frozen=True)
class Leaf:
    """A diagnosis: its canonical label, the categories above it from the superclass down, its other names."""

    label: str
    path: tuple[str, ...]
    synonyms: tuple[str, ...] = ()
    covers: tuple[str, ...] = ()
    """Other leaves, and categories, whose diagnoses this one's name fits too."""


def parse_yaml(text: str) -> list[Leaf]:
    """The leaves of a YAML tree. Raises `ValueError` or `yaml.YAMLError` saying what is malformed."""
    tree = dict(_mapping(yaml.load(text, Loader=_DistinctKeysLoader)))
    covers = {_text(label): _texts(names, label) for label, names in _mapping(tree.pop(COVERS_KEY, {})).items()}
    leaves = [replace(leaf, covers=covers.pop(leaf.label, ())) for leaf in _leaves_nested(tree, ())]
    if covers:
        raise ValueError(f"{COVERS_KEY} names {next(iter(covers))!r}, which is no leaf")
    return leaves


def parse_json(text: str) -> list[Leaf]:
    """The leaves of a bottom-up or top-down tree: where every value is a list and none `_items_`, it is bottom-up.

    Raises `ValueError` saying what is malformed.
    """
    tree = _mapping(json.loads(text, object_pairs_hook=_distinct))
    if tree and all(isinstance(value, str) for value in tree.values()):
        raise ValueError("it maps labels to labels, so it is no tree; give it as the mapping beside one")
    if ITEMS_KEY not in tree and all(isinstance(value, list) for value in tree.values()):
        return [Leaf(label, _texts(categories, label)) for label, categories in tree.items()]
    return list(_leaves_top_down(tree, ()))


def parse_mapping(text: str) -> dict[str, str]:
    """Raw label -> canonical label, of a mapping file. Raises `ValueError` saying what is malformed."""
    mapping = _mapping(json.loads(text, object_pairs_hook=_distinct))
    return {raw: _text(label) for raw, label in mapping.items()}


def nested(leaves: Iterable[Leaf]) -> dict[str, Any]:
    """The tree of our YAML. Raises `UserError` where a leaf has the name of a category beside it."""
    tree: dict[str, Any] = {}
    leaves = list(leaves)
    for leaf in leaves:
        node = tree
        for category in leaf.path:
            node = node.setdefault(category, {})
            if isinstance(node, list):
                raise _same_name(category)
        if leaf.label in node:
            raise _same_name(leaf.label)
        node[leaf.label] = list(leaf.synonyms)
    covers = {leaf.label: list(leaf.covers) for leaf in leaves if leaf.covers}
    return tree | ({COVERS_KEY: covers} if covers else {})


def bottom_up(leaves: Iterable[Leaf]) -> dict[str, list[str]]:
    """Label -> categories from the superclass down."""
    return {leaf.label: list(leaf.path) for leaf in leaves}


def top_down(leaves: Iterable[Leaf]) -> dict[str, Any]:
    """Nested categories, the leaves of each under `_items_`, so that the shape can't be taken for bottom-up."""
    tree: dict[str, Any] = {}
    for leaf in leaves:
        node = tree
        for category in leaf.path:
            node = node.setdefault(category, {})
        node.setdefault(ITEMS_KEY, []).append(leaf.label)
    return tree


def mapping(leaves: Iterable[Leaf]) -> dict[str, str]:
    """Every synonym -> its label. DermoGPT's scripts take a label that is missing here for itself."""
    return {name: leaf.label for leaf in leaves for name in leaf.synonyms}


def _leaves_nested(node: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[Leaf]:
    for name, below in node.items():
        if isinstance(below, dict):
            yield from _leaves_nested(below, (*path, _text(name)))
        else:
            yield Leaf(_text(name), path, _texts(below, name))


def _leaves_top_down(node: object, path: tuple[str, ...]) -> Iterator[Leaf]:
    if isinstance(node, list):
        for label in _texts(node, " > ".join(path)):
            yield Leaf(label, path)
        return
    if not isinstance(node, Mapping):
        raise ValueError(f"{' > '.join(path)!r} must hold categories or a list of labels")
    for name, below in node.items():
        yield from _leaves_top_down(below, path if name == ITEMS_KEY else (*path, name))


def _mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("it must hold a mapping of categories or labels")
    return value


def _texts(value: object, name: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{name!r} must hold a list, [] where it is empty")
    return tuple(map(_text, value))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not text; quote it")
    return value


def _same_name(name: str) -> UserError:
    return UserError(f"{name!r} is a category and a diagnosis beside each other, which our YAML can't hold; rename one")


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
