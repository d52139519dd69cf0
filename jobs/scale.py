"""Adds workers to a live run of jobs.mavic or takes some away: `python -m jobs.scale RUN rollout=6`. Shows its pools.

RUN is the run directory. Without a pool the pools are shown alone. Works from any machine of the run's Ray cluster;
the run directory says which that is, unless RAY_ADDRESS does.
"""

import asyncio
import time
from typing import Any

import ray
import rich.console
import rich.table
from ray.exceptions import RayError

from actors.steering import ADDRESS, NAMESPACE, Command, RunState
from dermo_ray.config.scale import ScaleConfig
from dermo_ray.errors import UserError
from jobs.cluster import ray_session
from jobs.command import main

CONFIG = ScaleConfig

_SILENCE = 30.0
"""Seconds without a word from its driver after which a run counts as stuck."""
_PAGE = 160
"""Columns of the table where it goes to no terminal."""


def run(config: ScaleConfig) -> None:
    """Scale what is asked for, and print the pools."""
    print_pools(scale(config))


def scale(config: ScaleConfig) -> RunState:
    """Scale what is asked for; the run as it is then. Raises `UserError` where no live run answers."""
    address = config.run / ADDRESS
    if not config.run.is_dir():
        raise UserError(f"no such run directory: {config.run}")
    if not address.is_file():
        raise UserError(f"{config.run} has no live run: only runs whose pools are open can be scaled")
    cluster, name = address.read_text().splitlines()  # the driver may know the run directory by another path
    with ray_session(address=cluster):
        return asyncio.run(_scale(config, name))


async def _scale(config: ScaleConfig, name: str) -> RunState:
    try:
        desk = ray.get_actor(name, namespace=NAMESPACE)
    except ValueError as error:
        raise UserError(f"{config.run} has no live run on this cluster: it has ended, or runs on another") from error
    state, _ = await _look(desk, config)
    there = {pool.name: pool for pool in state.pools}
    for pool in config.targets:
        if pool not in there:
            raise UserError(f"{config.run} has no pool {pool}: its mode leaves it out")
        if there[pool].scales_itself:
            raise UserError(f"the pool {pool} scales itself: its bounds are settings of the run")
    number = 0
    for pool, workers in config.targets.items():
        number = await _answer(desk.order.remote(Command(pool, workers, config.now)), config)
    deadline = time.monotonic() + config.timeout
    while True:
        state, done = await _look(desk, config)
        if done >= number:
            return state
        if time.monotonic() > deadline:
            raise UserError(f"{config.run} did not take the command within {config.timeout:g} s")
        await asyncio.sleep(0.2)


async def _look(desk: Any, config: ScaleConfig) -> tuple[RunState, int]:
    """The state of the run, and how many commands it had carried out by then."""
    state, age, done = await _answer(desk.look.remote(), config)
    if state is None:
        raise UserError(f"{config.run} is only just starting: try again in a moment")
    if age > _SILENCE:
        raise UserError(f"{config.run} has not given a sign of life for {age:.0f} s: see its logs")
    return state, done


async def _answer(reference: Any, config: ScaleConfig) -> Any:
    try:
        async with asyncio.timeout(config.timeout):
            return await reference
    except TimeoutError:
        raise UserError(f"the desk of {config.run} did not answer within {config.timeout:g} s") from None
    except RayError as error:
        raise UserError(
            f"the desk of {config.run} is gone: the run has ended, or sets it up again in a moment"
        ) from error


def print_pools(state: RunState) -> None:
    """Print every worker of every pool."""
    table = rich.table.Table("pool", "worker", "state", "node", "version", "under way", "done", "per second")
    for pool in state.pools:
        table.add_section()
        queue = f", {pool.queue} wait" if pool.queue else ""
        table.add_row(f"{pool.name} ({pool.target}{queue})")
        for worker in pool.workers:
            version = "" if worker.version is None else str(worker.version)
            rate = f"{worker.rate:,.0f} {pool.unit}" if worker.done else ""
            table.add_row(
                "", worker.name, worker.state, worker.node, version, str(worker.running), str(worker.done), rate
            )
    console = rich.console.Console()
    if not console.is_terminal:  # a log or a pipe, in which names must not be broken over lines
        console = rich.console.Console(width=_PAGE)
    console.print(table)
    print(f"{state.version} of {state.steps} updates made")


if __name__ == "__main__":
    main(CONFIG, run, __doc__)
