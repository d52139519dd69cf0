"""The walk down the taxonomy as a dialogue, one question a level.

Invariants: options stand in double quotes, separated by commas, in a random order; the answer is one of them, without
the quotes. A level with a single child is passed over, so the last answer has one leaf below it or is the leaf. How a
question is worded depends on the node it is asked at, never on the answer.
"""

from collections.abc import Mapping
from functools import lru_cache

from dermo_ray.data.formats.context import FormatContext, randomness, record
from dermo_ray.data.samples import StoredSample
from dermo_ray.prompts.stems import Request, ask
from dermo_ray.records import Trajectory
from dermo_ray.taxonomy import Taxonomy

Node = tuple[str, ...]
"""A place in the tree: the names from the superclass down to it; the root is empty."""


def hierarchy(sample: StoredSample, context: FormatContext) -> list[Trajectory]:
    """One dialogue from the superclass to the leaf, over the whole taxonomy."""
    if sample.label is None:
        return []
    draw = randomness(sample, "hierarchy", context)
    children = _children(context.taxonomy)
    path = (*context.taxonomy.path(sample.label), sample.label)
    exchanges = []
    for depth, answer in enumerate(path):
        node = path[:depth]
        options = list(children[node])
        if len(options) == 1:
            continue
        draw.shuffle(options)
        values = {"options": ", ".join(f'"{option}"' for option in options), "category": node[-1] if node else ""}
        exchanges.append((ask(_request(node, children), context.style, sample.modality, draw, **values), answer))
    return [record(sample, "hierarchy", exchanges)] if exchanges else []


def _request(node: Node, children: Mapping[Node, tuple[str, ...]]) -> Request:
    if not any((*node, name) in children for name in children[node]):
        return "hierarchy_leaves"
    return "hierarchy_middle" if node else "hierarchy_top"


@lru_cache(maxsize=8)
def _children(taxonomy: Taxonomy) -> Mapping[Node, tuple[str, ...]]:
    """The categories and leaves right under each category and under the root."""
    found: dict[Node, dict[str, None]] = {}
    for label in taxonomy.labels:
        path = (*taxonomy.path(label), label)
        for depth, name in enumerate(path):
            found.setdefault(path[:depth], {})[name] = None
    return {node: tuple(names) for node, names in found.items()}
