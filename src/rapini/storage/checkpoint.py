"""A receiver's positions in SQLite, committed with what it made of the events: exactly once.

On nothing. A durable event is delivered at least once. A receiver that writes its output and how far it came in one
transaction either has both or neither, so what is delivered again is recognised and dropped.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from rapini.errors import LocalError, StoreError

__all__ = ["SqliteCheckpoint"]

_CREATE: Final = "CREATE TABLE IF NOT EXISTS rapini_positions(stream BLOB PRIMARY KEY, position INTEGER NOT NULL)"
_SET: Final = (
    "INSERT INTO rapini_positions VALUES(?, ?)"
    " ON CONFLICT(stream) DO UPDATE SET position = max(position, excluded.position)"
)


class SqliteCheckpoint:
    """Positions in the table `rapini_positions` of the database that has the output. Thread: the connection's.

    Args:
        database: A connection, or the path of a database to open. With a connection, `commit` only takes part in the
            transaction, which the caller commits. With a path the caller writes by `connection`, and `commit` commits
            both.

    Raises:
        StoreError: `unreadable`, chained from SQLite's error.
    """

    def __init__(self, database: sqlite3.Connection | str | Path) -> None:
        self._owns = not isinstance(database, sqlite3.Connection)
        try:
            self.connection = database if isinstance(database, sqlite3.Connection) else _open(database)
            """Where the output goes, too."""
            self.connection.execute(_CREATE)
            if self._owns:
                self.connection.commit()
        except sqlite3.Error as error:
            raise StoreError("unreadable", f"the positions cannot be kept: {error}", path=str(database)) from error

    def positions(self) -> dict[bytes, int]:
        """Stream id → the first sequence number that is still to come."""
        return dict(self.connection.execute("SELECT stream, position FROM rapini_positions"))

    def commit(self, positions: Mapping[bytes, int]) -> None:
        """Set positions, with the output of the transaction that is under way. None goes back.

        Raises:
            LocalError: `no_transaction`: the caller's connection is in autocommit mode and no transaction was begun, so
                output and positions would not be one.
            sqlite3.Error: As the caller's own statements; the transaction is the caller's to roll back.
        """
        if not self._owns and not self.connection.in_transaction and self.connection.isolation_level is None:
            raise LocalError("no_transaction", "positions go with their output: begin a transaction first")
        self.connection.executemany(_SET, list(positions.items()))
        if self._owns:
            self.connection.commit()

    def close(self) -> None:
        """Close the database, if it was opened here; what was not committed is rolled back."""
        if self._owns:
            self.connection.close()


def _open(path: str | Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # a commit is on the disk when it returns
    return connection
