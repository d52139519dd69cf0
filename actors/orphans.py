"""What an actor starts never outlives it, however it ends.

An engine is a process of its own, and a SIGKILL leaves its parent no time to end it: the engine would keep its GPU.
"""

import os
import subprocess
from uuid import uuid4

MARK = "DERMO_RAY_PARENT"
"""The environment variable by which descendants are found."""

_GUARD = """
exec 3<&0
{
    cat <&3 >/dev/null
    for environment in /proc/[0-9]*/environ; do
        if tr '\\0' '\\n' <"$environment" 2>/dev/null | grep -qx "$1"; then
            process=${environment%/environ}
            kill -9 "${process#/proc/}"
        fi
    done
} &
"""
"""Reads until the other end of its pipe is closed, which the kernel does when the parent is gone.

In the background of a shell that ends, and so no child of the parent's: a Ray worker that loses its node kills its
children before it ends itself, but not theirs (<https://docs.ray.io/en/latest/ray-core/user-spawn-processes.html>).
"""

_guards: list[subprocess.Popen[bytes]] = []


def bind_children() -> None:
    """Every process that this one starts from now on is killed when this one is gone, and so are theirs."""
    mark = uuid4().hex
    shell = subprocess.Popen(
        ["/bin/sh", "-c", _GUARD, "guard", f"{MARK}={mark}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    shell.wait()
    _guards.append(shell)  # for its pipe, which must stay open
    os.environ[MARK] = mark
