"""What a process starts does not outlive it, whatever way it ends."""

import signal
import subprocess
import sys
import time

import psutil
import pytest

SHELL = """
import subprocess, sys, time
from actors.orphans import bind_children
bind_children()
child = subprocess.Popen(["sh", "-c", "sleep 1000 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
print(child.pid, child.stdout.readline().strip(), flush=True)
time.sleep(1000)
"""

FORK_SERVER = """
import multiprocessing, time
from multiprocessing import forkserver
from actors.orphans import bind_children
bind_children()
child = multiprocessing.get_context("forkserver").Process(target=time.sleep, args=(1000,))
child.start()
print(forkserver._forkserver._forkserver_pid, child.pid, flush=True)
time.sleep(1000)
"""
"""How an engine's process comes to be."""


@pytest.mark.parametrize("children_first", [False, True], ids=["alone", "after its children"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("program", [SHELL, FORK_SERVER], ids=["shell", "fork_server"])
def test_children_and_theirs_are_gone_after_their_parent(
    program: str, how: signal.Signals, children_first: bool
) -> None:
    unrelated = subprocess.Popen(["sleep", "1000"])
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    descendants = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(descendants) == 2
    assert all(map(psutil.pid_exists, descendants))
    if children_first:  # as a Ray worker does whose node is gone
        for child in psutil.Process(parent.pid).children():
            child.kill()
    parent.send_signal(how)
    parent.wait()
    deadline = time.monotonic() + 20
    while any(running(pid) for pid in descendants) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(running(pid) for pid in descendants)
    assert unrelated.poll() is None
    unrelated.kill()
    unrelated.wait()


def running(pid: int) -> bool:
    """Whether there is such a process, and it is more than an entry that nobody has asked about."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
