"""What an actor starts never outlives it, however it ends.

An engine is a process of its own, and a SIGKILL leaves its parent no time to end it: the engine would keep its GPU.
"""

import os
import subprocess
from uuid import uuid4

MARK = "DERMO_RAY_PARENT"
"""The environment variable by which descendants are found."""

_GUARD = """
cat >/dev/null
for environment in /proc/[0-9]*/environ; do
    if tr '\\0' '\\n' <"$environment" 2>/dev/null | grep -qx "$1"; then
        process=${environment%/environ}
        kill -9 "${process#/proc/}"
    fi
done
"""
"""Reads until the other end of its pipe is closed, which the kernel does when the parent is gone."""

_guards: list[subprocess.Popen[bytes]] = []


def bind_children() -> None:
    """Every process that this one starts from now on is killed when this one is gone, and so are theirs."""
    mark = uuid4().hex
    _guards.append(
        subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "guard", f"{MARK}={mark}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    )
    os.environ[MARK] = mark
