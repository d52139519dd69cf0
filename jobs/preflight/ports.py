"""Whether the job can listen where it is told to."""

from collections.abc import Iterator

from dermo_ray.errors import UserError
from jobs.ports import check_port
from jobs.preflight.finding import Finding

CHECK = "port"


def check_address(host: str, port: int) -> Iterator[Finding]:
    """Listen on `host` and `port` for a moment."""
    try:
        check_port(host, port)
    except UserError as error:
        found, _, fix = str(error).partition(": ")
        yield Finding(CHECK, "fail", found, fix)
    else:
        yield Finding(CHECK, "pass", f"{host}, port {port} is free")
