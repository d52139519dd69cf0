"""Every answer, kept in one SQLite file.

Invariants: an answer is on the disk before it is used, so that a killed run loses none; the first answer under a key
stays the answer; one run at a time has the file.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from dermo_ray.asking.answers import Answer
from dermo_ray.config.asking import Backend
from dermo_ray.errors import UserError


@dataclass(frozen=True)
class Provenance:
    """Where an answer comes from."""

    model: str
    prompt: str
    """Version of the template it was asked with."""
    date: str
    """When it was given, in UTC, as ISO 8601 with seconds."""
    backend: Backend


@dataclass(frozen=True)
class Record:
    """An answer and its provenance."""

    answer: Answer
    provenance: Provenance


class Cache:
    """Answers by key, in an open file; made by `opened`."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        # Write-ahead logging survives kills; with the exclusive lock it needs no memory shared between processes,
        # which network file systems lack.
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT")

    def get(self, key: str) -> Record | None:
        """The answer under `key`, None where there is none."""
        row = self._database.execute("SELECT record FROM answers WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        stored = json.loads(row[0])
        return Record(Answer(**stored["answer"]), Provenance(**stored["provenance"]))

    def put(self, key: str, record: Record) -> Record:
        """Keep an answer; returns the one that is kept, an earlier one where two questions with one key were asked."""
        text = json.dumps(asdict(record))  # in ASCII: half a surrogate pair would not go into a TEXT column
        self._database.execute("INSERT OR IGNORE INTO answers VALUES (?, ?)", (key, text))
        kept = self.get(key)
        assert kept is not None
        return kept


@contextmanager
def opened(path: Path) -> Iterator[Cache]:
    """Open the file, made where it is not there. Raises `UserError` where another run has it or it is no cache."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as database:
        try:
            cache = Cache(database)
        except sqlite3.OperationalError as error:
            raise UserError(f"the cache {path} can't be opened ({error}): another run may be using it") from error
        except sqlite3.DatabaseError as error:
            raise UserError(f"{path} is no cache of answers ({error}): name another file as cache") from error
        yield cache
