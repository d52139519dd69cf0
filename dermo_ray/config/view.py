"""Settings of the rollout viewer."""

from typing import ClassVar, Literal

from pydantic import Field

from dermo_ray.config.base import AbsolutePath, Settings


class ViewConfig(Settings):
    """Settings of `jobs.view`."""

    words: ClassVar[tuple[str, ...]] = ("show", "run")

    show: Literal["page", "ledger"] = "page"
    """`page` serves the viewer; `ledger` prints whether every prompt was trained on exactly once."""
    run: AbsolutePath
    """Run directory of jobs.mavic, finished or under way; nothing in it is changed."""
    data: AbsolutePath | None = None
    """Prepared folder that holds the images; null takes the one that the run was trained on."""
    host: str = "127.0.0.1"
    """Address to listen on; the page asks for no password, so open it to other machines only in a trusted network."""
    port: int = Field(default=8790, ge=1, le=65535)
    """Port to listen on."""
