"""Whether the job can listen where it is told to."""

import socket
from collections.abc import Iterator

from dermo_ray.errors import UserError
from jobs.preflight.finding import Finding

CHECK = "port"


def check_port(host: str, port: int) -> None:
    """Raise `UserError` unless a server could listen on `host` and `port` now."""
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # Python's own text repeats the address
        raise UserError(
            f"can't listen on {host}, port {port} ({reason}): stop what uses it, or choose another with port="
        ) from error


def check_address(host: str, port: int) -> Iterator[Finding]:
    """The same as one finding."""
    try:
        check_port(host, port)
    except UserError as error:
        found, _, fix = str(error).partition(": ")
        yield Finding(CHECK, "fail", found, fix)
    else:
        yield Finding(CHECK, "pass", f"{host}, port {port} is free")
