"""A real Ray cluster of several nodes on this machine, started as on several: by `make head` and `make worker`.

Each cluster has a home of its own, so that its token is no other's, and is taken down by handle: `ray stop` would end
every Ray on the machine.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
DEADLINE = 240.0
"""Seconds within which a node must be up, or a job be over."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def _running(group: int) -> bool:
    """Whether a process of the group is more than an entry that nobody has asked about."""
    for process in psutil.process_iter(["pid", "status"]):
        try:
            if process.info["status"] != psutil.STATUS_ZOMBIE and os.getpgid(process.info["pid"]) == group:
                return True
        except ProcessLookupError:  # it ended meanwhile
            continue
    return False


@dataclass
class RayNodes:
    """The nodes, the address of the job server, and the environment that its clients need."""

    home: Path
    port: int = field(default_factory=free_port)
    dashboard: int = field(default_factory=free_port)
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    temporary: list[str] = field(default_factory=list)
    """Where each node keeps its sockets and the folders of jobs, which another node would replace under a job."""

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return kept | {
            "HOME": str(self.home),
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def ray(
        self, *arguments: object, cwd: Path | None = None, timeout: float = DEADLINE
    ) -> subprocess.CompletedProcess[str]:
        """Call the `ray` program as a person would."""
        return subprocess.run(
            [BIN / "ray", *map(str, arguments)],
            env=self.environment | {"RAY_ADDRESS": f"http://127.0.0.1:{self.dashboard}"},
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def start_head(self, cpus: int) -> None:
        own = [f"--port={self.port}", f"--dashboard-port={self.dashboard}"]
        self._start(["head"], [*own, f"--ray-client-server-port={free_port()}"], cpus)
        self._wait_for(1)

    def start_worker(
        self, cpus: int, labels: Mapping[str, str] | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        marks = [f"--labels={','.join(f'{key}={value}' for key, value in labels.items())}"] if labels else []
        before = self.alive()
        self._start(["worker", f"ADDRESS=127.0.0.1:{self.port}"], marks, cpus, environment)
        self._wait_for(before + 1)

    def alive(self) -> int:
        """How many nodes the job server knows."""
        listed = self.ray("list", "nodes", "--filter", "state=ALIVE", "--format", "json")
        found = re.search(r"^\[.*\]", listed.stdout, re.DOTALL | re.MULTILINE)
        return len(json.loads(found[0])) if found else 0

    def submit(
        self, *entrypoint: object, folder: Path, name: str, environment: Mapping[str, str] | None = None
    ) -> None:
        submitted = self.ray(
            "job", "submit", "--working-dir", folder, "--no-wait", "--submission-id", name,
            "--runtime-env-json", json.dumps({"env_vars": dict(environment or {})}), "--", *entrypoint,
            cwd=folder,
        )  # fmt: skip
        assert submitted.returncode == 0, submitted.stdout + submitted.stderr

    def logs(self, name: str) -> str:
        return self.ray("job", "logs", name).stdout

    def status(self, name: str) -> str:
        said = self.ray("job", "status", name)
        found = re.search(r"\b(PENDING|RUNNING|STOPPED|SUCCEEDED|FAILED)\b", (said.stdout + said.stderr).upper())
        return found[1] if found else "UNKNOWN"

    def wait(self, name: str, timeout: float = DEADLINE) -> str:
        """The status in which the job ends."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            status = self.status(name)
            if status in ("STOPPED", "SUCCEEDED", "FAILED"):
                return status
            time.sleep(1)
        raise TimeoutError(f"job {name} was not over within {timeout:g} s:\n{self.logs(name)}")

    def stop(self) -> None:
        """End the nodes, the head last, each with every process that it started."""
        for node in reversed(self.nodes):
            for how in (signal.SIGTERM, signal.SIGKILL):
                if not _running(node.pid):
                    break
                os.killpg(node.pid, how)
                deadline = time.monotonic() + 30
                while _running(node.pid) and time.monotonic() < deadline:  # `make` ends before what it started
                    time.sleep(0.2)
            node.wait(10)
        self.nodes.clear()
        for folder in self.temporary:
            shutil.rmtree(folder)
        self.temporary.clear()

    def _start(
        self, target: Sequence[str], options: Sequence[str], cpus: int, environment: Mapping[str, str] | None = None
    ) -> None:
        # ports that every node would take by itself, and that nodes of one machine have to share out
        own = [f"--{kind}={free_port()}" for kind in ("dashboard-agent-listen-port", "metrics-export-port")]
        self.temporary.append(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # the path of Ray's sockets must stay short
        own.append(f"--temp-dir={self.temporary[-1]}")
        arguments = " ".join(["--block", f"--num-cpus={cpus}", "--disable-usage-stats", *own, *options])
        # the environment that these tests run in is the one that `make` would set up first
        ready = [f"--assume-old=.venv/.ready-{variant}" for variant in ("cpu", "gpu")]
        self.nodes.append(
            subprocess.Popen(
                ["make", *ready, *target, f"ARGS={arguments}"],
                cwd=ROOT,
                env=self.environment | dict(environment or {}),
                stdout=(self.home / f"node-{len(self.nodes)}.log").open("wb"),
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )

    def _wait_for(self, nodes: int) -> None:
        deadline = time.monotonic() + DEADLINE
        while self.alive() < nodes:
            if time.monotonic() > deadline or self.nodes[-1].poll() is not None:
                log = (self.home / f"node-{len(self.nodes) - 1}.log").read_text(errors="replace")
                raise RuntimeError(f"node {len(self.nodes)} did not come up within {DEADLINE:g} s:\n{log}")
            time.sleep(0.5)
