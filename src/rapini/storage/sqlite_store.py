"""A store's table in an SQLite file: it survives the end of the process, and need not fit in memory.

What one turn changes is one transaction (group commit), begun by its first change; with `sync="full"` SQLite has the
disk confirm it before `commit` returns. The journal is a WAL, so a snapshot is a second connection whose read
transaction sees the table as it was committed when it began, while the writer goes on
(https://www.sqlite.org/wal.html, section 2.2).

One process has the file at a time (a lock on `<path>.lock`). A table that fails is rolled back, never half-written;
every call raises `StoreError` and nothing else.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

from rapini import limits
from rapini.errors import StoreError
from rapini.storage.ordered_keys import decode_key, encode_key, prefix_range
from rapini.stores import Key
from rapini.stores.backend import WriterId
from rapini.stores.messages import Reply
from rapini.stores.values import key_bytes

__all__ = ["SqliteBackend"]

_APPLICATION_ID: Final = 0x52504E53  # "RPNS"
_FORMAT: Final = 1
_SCHEMA: Final = """
CREATE TABLE entries (key BLOB PRIMARY KEY, value BLOB NOT NULL, expires REAL) STRICT, WITHOUT ROWID;
CREATE INDEX expiring ON entries (expires) WHERE expires IS NOT NULL;
CREATE TABLE state (version INTEGER NOT NULL, size_bytes INTEGER NOT NULL, entries INTEGER NOT NULL) STRICT;
INSERT INTO state VALUES (0, 0, 0);
CREATE TABLE runs (number INTEGER PRIMARY KEY, run BLOB NOT NULL, version INTEGER NOT NULL) STRICT;
CREATE TABLE writers (seen INTEGER PRIMARY KEY, peer TEXT NOT NULL, incarnation BLOB NOT NULL, last INTEGER NOT NULL,
    UNIQUE (peer, incarnation)) STRICT;
CREATE TABLE replies (peer TEXT, incarnation BLOB, number INTEGER, code TEXT NOT NULL, version INTEGER NOT NULL,
    value BLOB NOT NULL, PRIMARY KEY (peer, incarnation, number)) STRICT, WITHOUT ROWID;
"""

_GREET: Final = """
INSERT OR REPLACE INTO writers (seen, peer, incarnation, last)
    VALUES ((SELECT coalesce(max(seen), 0) + 1 FROM writers), ?, ?, ?)
"""


class SqliteBackend:
    """A `rapini.stores.Backend` in a file. Thread: one at a time, under the owner's lock.

    Args:
        path: The file, made if need be, readable by its owner alone.
        sync: `full`: a commit is on the disk when it returns. `normal`: it survives the end of the process, but perhaps
            not that of the machine; clones that saw what was lost get a snapshot afterwards.

    Raises:
        StoreError: `store_in_use`, `not_a_store` or `store_failed`.
    """

    is_durable = True

    def __init__(self, path: str | Path, *, sync: Literal["full", "normal"] = "full") -> None:
        self.path = Path(path)
        self.size_bytes = 0
        self.commits = 0
        """Transactions committed: it counts turns, not changes."""
        self._count = 0
        self._lock = _lock(self.path)
        try:
            self._db = self._open(sync)
            self._read_state()
        except (sqlite3.Error, StoreError) as exc:
            os.close(self._lock)
            raise exc if isinstance(exc, StoreError) else _failed(self.path, exc) from None

    def _open(self, sync: str) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=1.0)
        try:
            # Look before anything is changed: it may be somebody else's.
            found = db.execute("PRAGMA application_id").fetchone()[0], db.execute("PRAGMA user_version").fetchone()[0]
            is_new = found == (0, 0) and db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
            if not is_new and found != (_APPLICATION_ID, _FORMAT):
                raise StoreError(
                    "not_a_store", f"{self.path} is not a store of this version", remedy="give another path"
                )
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA synchronous = {'NORMAL' if sync == 'normal' else 'FULL'}")
            if is_new:
                marks = f"PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {_FORMAT};"
                db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} {marks} COMMIT;")
        except BaseException:
            db.close()
            raise
        return db

    def _read_state(self) -> None:
        row = self._db.execute("SELECT size_bytes, entries FROM state").fetchone()
        self.size_bytes, self._count = row

    def _run(self, sql: str, *args: object) -> sqlite3.Cursor:
        """A change, in this turn's transaction."""
        try:
            if not self._db.in_transaction:
                self._db.execute("BEGIN IMMEDIATE")
            return self._db.execute(sql, args)
        except (sqlite3.Error, OverflowError) as exc:
            raise _failed(self.path, exc) from None

    def _rows(self, sql: str, *args: object) -> list[Any]:
        try:
            return self._db.execute(sql, args).fetchall()
        except sqlite3.Error as exc:
            raise _failed(self.path, exc) from None

    # -- the table -----------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._count

    def get(self, key: Key) -> bytes | None:
        """An entry's value."""
        rows = self._rows("SELECT value FROM entries WHERE key = ?", encode_key(key))
        return rows[0][0] if rows else None

    def set(self, key: Key, blob: bytes) -> None:
        """Put an entry; its expiry stays."""
        data = encode_key(key)
        old = self._rows("SELECT length(value) FROM entries WHERE key = ?", data)
        upsert = "INSERT INTO entries (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
        self._run(upsert, data, blob)
        if old:
            self.size_bytes += len(blob) - old[0][0]
        else:
            self.size_bytes += len(blob) + key_bytes(key)
            self._count += 1

    def delete(self, key: Key) -> None:
        """Take an entry out, with its expiry."""
        cursor = self._run("DELETE FROM entries WHERE key = ? RETURNING length(value)", encode_key(key))
        gone = cursor.fetchall()
        if gone:
            self.size_bytes -= gone[0][0] + key_bytes(key)
            self._count -= 1

    def clear(self) -> None:
        """Take all entries out."""
        self._run("DELETE FROM entries")
        self.size_bytes = self._count = 0

    def set_deadline(self, key: Key, wall: float | None) -> None:
        """When an entry expires."""
        self._run("UPDATE entries SET expires = ? WHERE key = ?", wall, encode_key(key))

    def deadlines(self) -> list[tuple[Key, float]]:
        """All expiries."""
        rows = self._rows("SELECT key, expires FROM entries WHERE expires IS NOT NULL")
        return [(decode_key(key), wall) for key, wall in rows]

    def snapshot(self, prefix: Key | None = None) -> _SqliteSnapshot:
        """The committed table as it is now."""
        return _SqliteSnapshot(self.path, prefix)

    # -- the master's memory -------------------------------------------------------------------------------------

    def load(self) -> tuple[int, list[tuple[bytes, int]]]:
        """The version and the runs."""
        version = self._rows("SELECT version FROM state")[0][0]
        return version, [(run, start) for run, start in self._rows("SELECT run, version FROM runs ORDER BY number")]

    def add_run(self, run: bytes, version: int) -> None:
        """Note that a run begins."""
        self._run("INSERT INTO runs (run, version) VALUES (?, ?)", run, version)
        self._run("DELETE FROM runs WHERE number <= (SELECT max(number) FROM runs) - ?", limits.MAX_STORE_RUNS)

    def writers(self) -> list[tuple[WriterId, int, list[Reply]]]:
        """The writers remembered."""
        found: dict[WriterId, tuple[int, list[Reply]]] = {}
        for peer, incarnation, last in self._rows("SELECT peer, incarnation, last FROM writers ORDER BY seen"):
            found[peer, incarnation] = (last, [])
        for peer, incarnation, *reply in self._rows("SELECT * FROM replies ORDER BY number"):
            if (peer, incarnation) in found:
                found[peer, incarnation][1].append(Reply(*reply))
        return [(writer, last, replies) for writer, (last, replies) in found.items()]

    def remember(self, writer: WriterId, last: int, reply: Reply | None) -> None:
        """Note a writer, and the reply to its last number."""
        if reply is None:
            self._run(_GREET, *writer, last)
            return
        self._run("UPDATE writers SET last = ? WHERE peer = ? AND incarnation = ?", last, *writer)
        sql = "INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?, ?, ?)"
        self._run(sql, *writer, reply.number, reply.code, reply.version, reply.blob)

    def confirm(self, writer: WriterId, below: int) -> None:
        """Forget the replies to smaller numbers."""
        self._run("DELETE FROM replies WHERE peer = ? AND incarnation = ? AND number < ?", *writer, below)

    def forget(self, writer: WriterId) -> None:
        """Forget a writer."""
        self._run("DELETE FROM writers WHERE peer = ? AND incarnation = ?", *writer)
        self._run("DELETE FROM replies WHERE peer = ? AND incarnation = ?", *writer)

    # -- transactions --------------------------------------------------------------------------------------------

    def commit(self, version: int) -> None:
        """Keep this turn's changes."""
        if not self._db.in_transaction:
            return
        self._run("UPDATE state SET version = ?, size_bytes = ?, entries = ?", version, self.size_bytes, self._count)
        try:
            self._db.execute("COMMIT")
        except sqlite3.Error as exc:
            raise _failed(self.path, exc) from None
        self.commits += 1

    def rollback(self) -> None:
        """Undo this turn's changes."""
        with contextlib.suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._read_state()

    def close(self) -> None:
        """Close the file; what was not committed is undone. May be called twice."""
        if self._lock >= 0:
            self.rollback()
            self._db.close()
            os.close(self._lock)
            self._lock = -1


class _SqliteSnapshot:
    """A read transaction on a connection of its own."""

    def __init__(self, path: Path, prefix: Key | None) -> None:
        where, bounds = ("", ()) if prefix is None else (" WHERE key >= ? AND key < ?", prefix_range(prefix))
        self._path = path
        self._next: tuple[Key, bytes] | None = None
        self._db: sqlite3.Connection | None = None
        try:
            uri = f"{path.absolute().as_uri()}?mode=ro"
            self._db = db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
            db.execute("BEGIN")
            counted = db.execute(f"SELECT count(*) FROM entries{where}", bounds)  # noqa: S608 - our own text
            self.count: int = counted.fetchone()[0]
            self._rows = db.execute(f"SELECT key, value FROM entries{where} ORDER BY key", bounds)  # noqa: S608
        except sqlite3.Error as exc:
            self.close()
            raise _failed(path, exc) from None

    def read(self, max_bytes: int, overhead: int) -> list[tuple[Key, bytes]]:
        """The next entries."""
        part: list[tuple[Key, bytes]] = []
        size = 0
        for key, blob in self._entries():
            size += key_bytes(key) + len(blob) + overhead
            if size > max_bytes and part:
                self._next = (key, blob)
                break
            part.append((key, blob))
        return part

    def _entries(self) -> Iterator[tuple[Key, bytes]]:
        if self._next is not None:
            entry, self._next = self._next, None
            yield entry
        while self._db is not None:
            try:
                row = self._rows.fetchone()
            except sqlite3.Error as exc:
                raise _failed(self._path, exc) from None
            if row is None:
                return
            yield decode_key(row[0]), row[1]

    def close(self) -> None:
        """End the read transaction."""
        self._next = None
        if self._db is not None:
            self._db.close()
            self._db = None


def _lock(path: Path) -> int:
    """Take the file for this process; closing the descriptor lets it go."""
    try:
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise StoreError("store_failed", f"{path}: {exc.strerror}", remedy="see that the folder exists") from exc
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as exc:
        os.close(descriptor)
        if isinstance(exc, BlockingIOError):
            raise StoreError("store_in_use", f"{path} is in use", remedy="end the other program") from None
        raise StoreError("store_failed", f"{path}: {exc.strerror}") from exc
    return descriptor


def _failed(path: Path, exc: Exception) -> StoreError:
    if isinstance(exc, sqlite3.DatabaseError) and exc.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
        return StoreError("not_a_store", f"{path}: {exc}", remedy="give another path")
    return StoreError("store_failed", f"{path}: {exc}")
