"""Folders and files that appear complete or not at all."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dermo_ray.errors import UserError


@contextmanager
def staged(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `folder` that takes its name when the body ends well, and is removed if it fails.

    After a kill the folder `NAME.partial-...` remains and may be deleted. `folder` may exist if it is empty, or is to
    be replaced; raises `OSError` if it is not, and `UserError` where its parent can't be written to.
    """
    aside = folder.with_name(f"{folder.name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        aside.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"can't write to {folder.parent}: {error.strerror}") from error
    try:
        yield aside
        if replace and folder.exists():
            old = folder.with_name(f"{folder.name}.replaced-{uuid.uuid4().hex[:8]}")
            folder.rename(old)
            aside.rename(folder)
            shutil.rmtree(old)
        else:
            aside.rename(folder)
    except BaseException:
        shutil.rmtree(
            aside, ignore_errors=True
        )  # a worker elsewhere may still be writing; the failure itself matters more
        raise


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; that file becomes `path`, replacing an older one, if the body ends well.

    After a kill the file `.NAME.partial-...` remains and may be deleted.
    """
    aside = path.with_name(f".{path.name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        yield aside
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
