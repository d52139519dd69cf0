"""Commands that take turns: while one runs, all processes of the others are stopped.

A small machine may be half as fast a minute later. Turns of a few seconds meet the same machine.
"""

import psutil


def pause(pid: int) -> None:
    """Stop process `pid` and all below it."""
    stopped: set[psutil.Process] = set()
    while new := _family(pid) - stopped:  # those that were started while others were being stopped
        for process in new:
            process.suspend()
        stopped |= new


def resume(pid: int) -> None:
    """Let process `pid` and all below it go on."""
    for process in _family(pid):
        process.resume()


def kill(pid: int) -> None:
    """End process `pid` and all below it, stopped or not."""
    for process in _family(pid):
        process.kill()


def _family(pid: int) -> set[psutil.Process]:
    main = psutil.Process(pid)
    return {main, *main.children(recursive=True)}
