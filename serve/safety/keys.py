"""API keys: a file of hashes, and who a request comes from.

A key is 256 random bits, so its plain SHA-256 can't be searched through and needs no salt or slow hash.

Invariants: no key is written to a file or a log; comparing takes the same time whichever key is sent. A key added to
or taken out of the file counts from then on, without a restart; a file that can't be read lets nobody new in and keeps
those that were known.
"""

import hashlib
import hmac
import logging
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from dermo_ray.errors import UserError
from dermo_ray.staging import staged_file
from serve.safety.errors import Refused

_LOGGER = logging.getLogger("ray.serve")

Role = Literal["client", "admin"]

_PREFIX = "dermo-"
_RANDOM_BYTES = 32
_CHECK_INTERVAL = 1.0
"""Seconds between two looks at whether the file has changed."""


class KeyEntry(BaseModel):
    """One key of the file, by its hash."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    role: Role = "client"
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    created: str = ""


_ENTRIES = TypeAdapter(list[KeyEntry])


@dataclass(frozen=True)
class Caller:
    """Who a request comes from."""

    name: str
    admin: bool


ANONYMOUS = Caller("anonymous", admin=True)
"""Whoever asks a service without keys, which only this machine reaches."""


class Keys:
    """The keys of a file; without a file everybody is `ANONYMOUS`."""

    def __init__(self, path: Path | None, entries: list[KeyEntry], clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._entries = entries
        self._clock = clock
        self._checked = clock()
        self._stamp = _stamp(path)

    @classmethod
    def load(cls, path: Path | None) -> "Keys":
        """The keys in `path`. Raises `UserError` where the file is missing, malformed or holds no key."""
        return cls(path, [] if path is None else read(path))

    def caller(self, authorization: str | None) -> Caller:
        """Who sends this `Authorization` header. Raises `Refused` (401) unless it is `Bearer` and a key of the file."""
        if self.path is None:
            return ANONYMOUS
        self._refresh(self.path)
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            message = "This service asks for a key: send the header `Authorization: Bearer KEY`."
            raise _unauthorized(message, "no_api_key")
        sent = _digest(key.strip())
        # no early end: all are compared
        found = [entry for entry in self._entries if hmac.compare_digest(entry.sha256, sent)]
        if not found:
            raise _unauthorized("The key is not known here.", "invalid_api_key")
        return Caller(found[0].name, found[0].role == "admin")

    def admin(self, authorization: str | None) -> Caller:
        """The same, for what administrators alone may do: raises `Refused` (403) for the key of a client."""
        caller = self.caller(authorization)
        if not caller.admin:
            raise Refused(403, f"The key {caller.name!r} is no admin key.", code="not_admin")
        return caller

    def _refresh(self, path: Path) -> None:
        if self._clock() - self._checked < _CHECK_INTERVAL:
            return
        self._checked = self._clock()
        stamp = _stamp(path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._entries = read(path)
        except UserError as error:  # the service goes on for those whose keys it knows
            _LOGGER.error("the keys stay as they were: %s", error)


def read(path: Path) -> list[KeyEntry]:
    """The entries of a key file. Raises `UserError` where it is missing, malformed or empty."""
    try:
        entries = _ENTRIES.validate_python(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        command = f"python -m jobs.keys file={path} name=NAME"
        raise UserError(f"there is no key file {path}: make one with `{command}`") from None
    except OSError as error:
        raise UserError(f"can't read the key file {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValidationError):  # their messages repeat what stands there
        raise UserError(f"{path} is no key file: it holds a list of `name`, `role` and `sha256`") from None
    names = [entry.name for entry in entries]
    if not entries or len(set(names)) < len(names):
        raise UserError(f"{path} must hold at least one key, and each name once")
    return entries


def add(path: Path, name: str, role: Role) -> str:
    """Make a key, write its hash to `path`, and return the key, which can't be had again.

    Raises `UserError` where `name` has a key there already, can't be a name, or the file can't be read or written.
    """
    entries = read(path) if path.exists() else []
    if any(entry.name == name for entry in entries):
        raise UserError(f"{path} has a key named {name!r}: take its entry out first, or choose another name")
    key = _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    entries.append(KeyEntry(name=name, role=role, sha256=_digest(key), created=created))
    text = yaml.safe_dump([entry.model_dump() for entry in entries], sort_keys=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with staged_file(path) as aside:
            aside.touch(mode=0o600)
            aside.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"can't write the key file {path}: {error.strerror}") from error
    return key


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    """Changes whenever the file does; None where there is none."""
    if path is None:
        return None
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _unauthorized(message: str, code: str) -> Refused:
    return Refused(401, message, code=code, headers={"WWW-Authenticate": "Bearer"})
