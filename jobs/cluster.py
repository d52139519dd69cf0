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
from ray.exceptions import AuthenticationError

from dermo_ray.errors import UserError

_PATIENCE = 10.0
"""Seconds within which the machine at a cluster's address must answer."""

_TALKATIVE = ("ray.data._internal.progress", "ray._private.authentication.authentication_token_setup")
"""Loggers that warn of what is meant to be so: no bars of Ray Data's own, and a token for the local cluster."""


@contextmanager
def ray_session(num_cpus: int | None = None, address: str | None = None) -> Iterator[None]:
    """A connected Ray for the body of a `with`.

    Uses the Ray that is already connected, else the cluster that `RAY_ADDRESS` names (as in a submitted job), else the
    one at `address` of a run that is live, else starts one on this machine with `num_cpus` cores (default: all).
    Raises `UserError` where the address can't be reached, or is that of a job server, which takes submitted jobs alone.
    """
    _quieten()
    if ray.is_initialized():
        yield
        return
    named = os.environ.get("RAY_ADDRESS", "")
    if named.startswith(("http://", "https://")):
        if address is None:
            raise UserError(
                f"RAY_ADDRESS={named} is a job server: submit the job with `ray job submit`, or set RAY_ADDRESS=auto "
                "on a machine of the cluster"
            )
        named = ""
    address = named or address
    if address:
        try:
            _knock(address)
            ray.init(address=address, logging_level=logging.WARNING)
        except ConnectionError as error:  # also where the cluster asks for a token, and gets none or another
            if named:
                raise UserError(
                    f"no Ray cluster lets this job in at RAY_ADDRESS={named}: start it, set RAY_AUTH_MODE=token with "
                    "the cluster's token if it asks for one, or unset RAY_ADDRESS"
                ) from error
            raise UserError(f"no Ray cluster at {address} any more: the run has ended") from error
        except AuthenticationError as error:
            raise UserError(
                "RAY_AUTH_MODE=token is set and no token is here: put the cluster's into ~/.ray/auth_token "
                "(`ray get-auth-token` prints it on the head)"
            ) from error
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
