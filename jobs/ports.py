"""Whether a port is free, before anything slow begins."""

import socket

from dermo_ray.errors import UserError


def check_port(host: str, port: int) -> None:
    """Raise `UserError` unless a server could listen on `host` and `port` now."""
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise UserError(
            f"can't listen on {host}, port {port} ({_reason(error)}): stop what uses it, or choose another with port="
        ) from error


def _reason(error: OSError) -> str:
    """Python's own text repeats the address."""
    return str(error.strerror).partition(" (")[0]
