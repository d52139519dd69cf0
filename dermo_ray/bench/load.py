"""The items that settings ask for, from released files or from a prepared folder."""

from collections.abc import Sequence
from typing import NamedTuple

from dermo_ray.bench.build import build, limited
from dermo_ray.bench.released import ImageIndex, read_release, read_skin_tones
from dermo_ray.bench.tasks import Items, TaskId
from dermo_ray.config.bench import ItemSettings
from dermo_ray.errors import UserError
from dermo_ray.taxonomy import Taxonomy


class Loaded(NamedTuple):
    """The items of every task that has some, and why others have none."""

    items: dict[TaskId, Items]
    missing: dict[str, str]
    """By task, or by the file of a data set of one."""


def load_items(settings: ItemSettings, tasks: Sequence[TaskId], taxonomy: Taxonomy) -> Loaded:
    """The items of each of `tasks` that the files or the data have some for, at most `settings.limit` of each.

    Raises `UserError` where files are missing or malformed, the folder is not prepared, or no task has an item.
    """
    if settings.prepared is not None:
        found = build(
            settings.prepared,
            taxonomy,
            tasks,
            split=settings.split,
            sources=settings.sources,
            style=settings.style,
            seed=settings.seed,
            limit=settings.limit,
        )
    else:
        assert settings.release is not None
        assert settings.images is not None
        released = read_release(
            settings.release,
            ImageIndex(settings.images),
            tasks,
            skin_tones=None if settings.skin_tones is None else read_skin_tones(settings.skin_tones),
            taxonomy=taxonomy,
            style=settings.style or "full",
            seed=settings.seed,
        )
        found = {task: limited(items, settings.limit, settings.seed) for task, items in released.items()}
    missing: dict[str, str] = {}
    for task, items in found.items():
        if not items.items:
            missing[task] = _why_empty(items)
        else:
            missing |= {f"{task}, {file}": "no such file" for file in items.absent}
    there = {task: items for task, items in found.items() if items.items}
    if not there:
        reasons = "; ".join(f"{task}: {reason}" for task, reason in missing.items())
        raise UserError(f"no item of {', '.join(tasks)} can be made: {reasons}; choose other tasks or data")
    return Loaded(there, missing)


def _why_empty(items: Items) -> str:
    if items.left_out:
        return ", ".join(f"{reason.replace('_', ' ')} ({count:,})" for reason, count in items.left_out.items())
    return f"no file {', '.join(items.absent)}" if items.absent else "no image to ask about"
