"""The timing cache: one SQLite file of measured times and machine code, shared safely between processes.

Code is keyed by what it was compiled from (source, flags, compiler); a time also by the machine and the sizes it was
measured at. Nothing is ever looked up by name or date, so a stale entry cannot be hit: a changed template is a new key.
"""

from __future__ import annotations

import hashlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from temper.config import knob
from temper.errors import BuildError

_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Record:
    """A candidate's outcome: median seconds, or the reason it is out (wrong result, compile error). passing: a reason
    that may not hold tomorrow, such as memory that another program uses, and is not kept beyond this build.
    """

    seconds: float | None
    failure: str = ""
    passing: bool = False


def digest(*parts: str) -> str:
    """SHA-256 of strings, unambiguous in their lengths."""
    h = hashlib.sha256()
    for p in parts:
        data = p.encode()
        h.update(f"{len(data)}:".encode() + data)
    return h.hexdigest()


def default_path() -> Path:
    """Where the cache lives unless TEMPER_CACHE says otherwise."""
    chosen = knob("TEMPER_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "temper" / "timing.sqlite"


class TimingCache:
    """Opens (and creates) the cache file; BuildError names a file that cannot be used."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or default_path()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            v = _SCHEMA_VERSION
            self._times, self._code, self._texts = f"times_v{v}", f"code_v{v}", "texts_v1"
            self._db.execute(
                f"CREATE TABLE IF NOT EXISTS {self._times} (key TEXT PRIMARY KEY, seconds REAL, failure TEXT NOT NULL)"
            )
            self._db.execute(f"CREATE TABLE IF NOT EXISTS {self._code} (key TEXT PRIMARY KEY, object BLOB NOT NULL)")
            self._db.execute(f"CREATE TABLE IF NOT EXISTS {self._texts} (key TEXT PRIMARY KEY, text TEXT NOT NULL)")
        except (OSError, sqlite3.Error) as e:
            raise BuildError(
                f"the timing cache {self.path} cannot be used ({e}); set TEMPER_CACHE to another file or delete it"
            ) from e
        self.hits = self.misses = 0
        self._passing: dict[str, Record] = {}
        #: what was read or written: times stay
        self._read: dict[str, Record] = {}

    def time(self, key: str) -> Record | None:
        if key in self._passing:
            return self._passing[key]
        if key in self._read:
            self.hits += 1
            return self._read[key]
        row = self._db.execute(f"SELECT seconds, failure FROM {self._times} WHERE key = ?", (key,)).fetchone()
        self.hits, self.misses = self.hits + (row is not None), self.misses + (row is None)
        if row is None:
            return None
        return self._read.setdefault(key, Record(row[0], row[1]))

    def put_time(self, key: str, record: Record) -> None:
        if record.passing:
            self._passing[key] = record
            return
        self._write(f"INSERT OR REPLACE INTO {self._times} VALUES (?, ?, ?)", (key, record.seconds, record.failure))
        self._read[key] = record

    def code(self, key: str) -> bytes | None:
        row = self._db.execute(f"SELECT object FROM {self._code} WHERE key = ?", (key,)).fetchone()
        return None if row is None else bytes(row[0])

    def put_code(self, key: str, data: bytes) -> None:
        self._write(f"INSERT OR REPLACE INTO {self._code} VALUES (?, ?)", (key, data))

    def text(self, key: str) -> str | None:
        """What an earlier build found out, such as which candidates there are."""
        row = self._db.execute(f"SELECT text FROM {self._texts} WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def put_text(self, key: str, text: str) -> None:
        self._write(f"INSERT OR REPLACE INTO {self._texts} VALUES (?, ?)", (key, text))

    def _write(self, sql: str, row: tuple[object, ...]) -> None:
        try:
            self._db.execute(sql, row)
        except sqlite3.Error as e:
            raise BuildError(
                f"the timing cache {self.path} cannot be written ({e}); set TEMPER_CACHE to a writable file"
            ) from e

    def close(self) -> None:
        self._db.close()
