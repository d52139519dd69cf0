"""Settings of `jobs.keys`."""

from typing import Literal

from pydantic import Field

from dermo_ray.config.base import AbsolutePath, Settings


class KeysConfig(Settings):
    """Settings of the job."""

    file: AbsolutePath
    """File of keys to add to; made where there is none. It holds hashes alone."""
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Whose key it is; stands in the log beside each request."""
    role: Literal["client", "admin"] = "client"
    """`client` may ask, `admin` may also change which checkpoint answers."""
