"""Settings of `jobs.release`."""

from typing import Literal

from pydantic import Field, model_validator

from dermo_ray.config.base import AbsolutePath, Settings

Action = Literal["list", "push", "promote", "rollback", "pin", "unpin", "canary"]


class ReleaseConfig(Settings):
    """Settings of the job."""

    action: Action = "list"
    """What to do: `list` what is held, `push` a checkpoint, `promote` one, go back by `rollback`, `pin` or `unpin`
    one, or let one answer a share of the requests as a `canary`."""
    checkpoint: str | None = None
    """Label, such as `step_000040`: for `promote`, `pin`, `unpin` and `canary`."""
    folder: AbsolutePath | None = None
    """Folder of the checkpoint to `push`, as the cluster sees it."""
    share: float | None = Field(default=None, ge=0, le=1)
    """Share of the requests for a `canary`; 0 ends it."""
    url: str = "http://127.0.0.1:8000"
    """Address of the service."""
    timeout: float = Field(default=600, gt=0)
    """Seconds for the service to answer; a `push` loads the checkpoint and passes the gate first."""

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> "ReleaseConfig":
        needed = {"push": ("folder",), "canary": ("checkpoint", "share")}
        needed |= dict.fromkeys(("promote", "pin", "unpin"), ("checkpoint",))
        for name in needed.get(self.action, ()):
            if getattr(self, name) is None:
                raise ValueError(f"{self.action} needs {name}=")
        return self
