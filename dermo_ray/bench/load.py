"""The items that settings ask for, from released files or from a prepared folder."""

from collections.abc import Sequence

from dermo_ray.bench.build import build, limited
from dermo_ray.bench.released import ImageIndex, read_release, read_skin_tones
from dermo_ray.bench.tasks import Items, TaskId
from dermo_ray.config.bench import ItemSettings
from dermo_ray.errors import UserError
from dermo_ray.taxonomy import Taxonomy


def load_items(settings: ItemSettings, tasks: Sequence[TaskId], taxonomy: Taxonomy) -> dict[TaskId, Items]:
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
    there = {task: items for task, items in found.items() if items.items}
    if not there:
        reasons = {task: items.left_out for task, items in found.items()}
        raise UserError(f"no item of {', '.join(tasks)} can be made: {reasons}; choose other tasks or data")
    return there
