"""How a job gets its Ray cluster.

Invariant: a job shuts down only the cluster that it started itself.
"""

import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.data import DataContext

from dermo_ray.errors import UserError

_PATIENCE = 10.0
"""Seconds within which the machine at a cluster's address must answer."""

_TALKATIVE = ("ray.data._internal.progress", "ray._private.authentication.authentication_token_setup")
"""Loggers that warn of what is meant to be so: no bars of Ray Data's own, and a token for the local cluster."""


@contextmanager
def ray_session(num_cpus: int | None = None, address: str | None = None) -> Iterator[None]:
    """A connected Ray for the body of a `with`.

    Uses the Ray that is already connected, else the cluster that `RAY_ADDRESS` names (as in a submitted job), else the
    one at `address` of a run that is live, else starts one on this machine with `num_cpus` cores (default: all). Raises
    `UserError` where the address can't be reached.
    """
    _quieten()
    if ray.is_initialized():
        yield
        return
    variable = os.environ.get("RAY_ADDRESS")
    address = variable or address
    if address:
        try:
            _knock(address)
            ray.init(address=address, logging_level=logging.WARNING)
        except ConnectionError as error:
            if variable:
                raise UserError(f"no Ray cluster at RAY_ADDRESS={address}: start it, or unset the variable") from error
            raise UserError(f"no Ray cluster at {address} any more: the run has ended") from error
    else:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            logging_level=logging.WARNING,
            log_to_driver=False,  # the libraries in the workers talk a lot; errors reach the driver as exceptions
        )
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raises `ConnectionError` where nobody listens at HOST:PORT: Ray itself would try for minutes."""
    found = re.fullmatch(r"\[?([^/\]]+)\]?:(\d+)", address)
    if found is None:  # `auto`, ray://... and so on
        return
    try:
        socket.create_connection((found[1], int(found[2])), timeout=_PATIENCE).close()
    except OSError as error:
        raise ConnectionError(f"{address} does not answer: {error}") from error


def _quieten() -> None:
    """Jobs show progress in their own units; bars and plans of Ray Data's would write over it."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_auto_log_stats = False
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
