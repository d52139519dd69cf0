"""A replica that is killed under load: `python -m benchmarks.faults`.

Two replicas answer a load that one could carry, and then all that they can take, which leaves a starting replica no
core of its own. Under each a replica is killed, and later the engine's process of one alone. Counts the requests that
failed for good, those that a client had to send again (503), and the seconds until both replicas answer. Writes
`benchmarks/results/faults.json`.
"""

import asyncio
import json
import math
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.load import Server, dermo_ray_server, make_run, put_on, requests
from benchmarks.machine import describe

RESULT = Path("benchmarks/results/faults.json")
CONCURRENCY = 8
TOKENS = 32
REPLICAS = 2
_LOADS = {"half": (250, 2.0), "full": (700, math.inf)}
"""How many requests, and how many a second: what one replica could carry alone, and all that two take."""
_RECOVERY = 120.0


def replicas(server: Server) -> list[psutil.Process]:
    """The replicas' processes, by the title that Ray gives them."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    return [process for process in children if "ServeReplica:dermo-ray:policy" in " ".join(_command(process))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):  # it has just ended
        return []


def engines(replica: psutil.Process) -> list[psutil.Process]:
    """The process of a replica's engine, by the title that vLLM gives it."""
    return [process for process in replica.children(recursive=True) if "EngineCore" in " ".join(_command(process))]


def answers(replica: psutil.Process) -> bool:
    """Whether a replica has an engine and is past its start, of which its title tells, that Ray sets."""
    return bool(engines(replica)) and "initialize" not in " ".join(_command(replica))


async def kill_one(server: Server, name: str, *, engine_alone: bool) -> dict[str, Any]:
    """Kill a replica, or its engine, in the middle of the load `name`, and wait until all are there again."""
    count, rate = _LOADS[name]
    bodies = requests(count, TOKENS, images=32)
    load = asyncio.create_task(put_on(server, bodies, CONCURRENCY, rate=rate, retries=20))
    await asyncio.sleep(5)
    victim = replicas(server)[0]
    before = {process.pid for process in replicas(server)}
    below = victim.children(recursive=True)
    for process in engines(victim) if engine_alone else [victim]:
        os.kill(process.pid, signal.SIGKILL)
    began = time.monotonic()
    whole = None
    while time.monotonic() - began < _RECOVERY:
        await asyncio.sleep(0.25)
        now = [process for process in replicas(server) if answers(process)]
        if len(now) == REPLICAS and victim.pid not in {process.pid for process in now} and await _all_answer(server):
            whole = time.monotonic() - began
            break
    outcome = await load
    orphans = [process for process in below if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    return {
        "killed": "engine" if engine_alone else "replica",
        "load": name,
        "replicas_before": len(before),
        "requests": len(bodies),
        "failed": len(outcome.failures),
        "sent_again_after_503": outcome.retried,
        "whole_again_s": None if whole is None else round(whole, 1),
        "orphaned_processes": len(orphans),
        "latency": outcome.figures(TOKENS),
    }


async def _all_answer(server: Server) -> bool:
    """Whether a request is answered."""
    return not (await put_on(server, requests(1, 1), 1)).failures


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = make_run(folder)
        overrides = [f"pool.workers={REPLICAS}", "live.follow=false"]
        with dermo_ray_server(run, folder / "server.log", overrides) as server:
            asyncio.run(put_on(server, requests(64, TOKENS), CONCURRENCY))
            found = [
                asyncio.run(kill_one(server, name, engine_alone=alone)) for name in _LOADS for alone in (False, True)
            ]
    result = {"command": "python -m benchmarks.faults", "machine": describe(), "replicas": REPLICAS, "faults": found}
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
