"""Lists, promotes, rolls back and pins the checkpoints of a running service: `action=promote checkpoint=step_000040`.

The key of an administrator is read from the environment variable DERMO_RAY_ADMIN_KEY, where the service asks for keys.
Prints what the service holds afterwards. What the service refuses is an error, with its reason.
"""

import os
from typing import Any

import httpx
import rich
import rich.table

from dermo_ray.config.release import ReleaseConfig
from dermo_ray.errors import UserError
from jobs.command import main

CONFIG = ReleaseConfig

KEY_VARIABLE = "DERMO_RAY_ADMIN_KEY"


def run(config: ReleaseConfig) -> dict[str, Any]:
    """Carry out the action, print and return what the service holds then."""
    listing = _ask(config)
    table = rich.table.Table("checkpoint", "version", "state", "answers", "failures", "p50 s", "confidence")
    for release in listing["releases"]:
        state = release["state"]
        if release["pinned"] and state != "pinned":
            state = f"{state}, pinned"
        if release["checkpoint"] == listing["candidate"] and listing["canary_share"]:
            state = f"{state} ({listing['canary_share']:.0%} of the requests)"
        record = release["record"]
        shown = [_number(record[name]) for name in ("answers", "failures", "seconds_p50", "mean_confidence")]
        table.add_row(release["checkpoint"], str(release["version"]), state, *shown)
    rich.print(table)
    if listing["on_hold"]:
        print("on hold after a rollback: new checkpoints wait for promote")
    for label, reason in listing["refused"].items():
        print(f"refused {label}: {reason}")
    return listing


def _ask(config: ReleaseConfig) -> dict[str, Any]:
    key = os.environ.get(KEY_VARIABLE)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    given = {"checkpoint": config.checkpoint, "folder": config.folder and str(config.folder), "share": config.share}
    body = {name: value for name, value in given.items() if value is not None}
    url = config.url.rstrip("/")
    try:
        if config.action == "list":
            answer = httpx.get(f"{url}/admin/checkpoints", headers=headers, timeout=config.timeout)
        else:
            answer = httpx.post(f"{url}/admin/{config.action}", headers=headers, json=body, timeout=config.timeout)
    except httpx.ReadTimeout as error:
        raise UserError(
            f"the service did not answer within {config.timeout:g} s (timeout=); what it was asked goes on: "
            "look with action=list"
        ) from error
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise UserError(f"no service answers at {url} ({type(error).__name__}): start it, or correct url=") from error
    if answer.status_code in (401, 403):
        raise UserError(f"{_message(answer)} Put the key of an administrator into {KEY_VARIABLE}.")
    if not answer.is_success:
        raise UserError(f"the service refused to {config.action}: {_message(answer)}")
    try:
        listing: dict[str, Any] = answer.json()
    except ValueError as error:
        raise UserError(f"what answers at {url} is no service of this kind: correct url=") from error
    return listing


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):  # something else listens there
        return f"status {answer.status_code}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main(CONFIG, run, __doc__)
