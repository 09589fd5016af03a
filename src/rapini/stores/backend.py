"""Where a master keeps its table: the seam, and the implementation in memory. Sans-IO.

The machine decides *what* changes; a backend holds it. What is changed between two calls of `commit` belongs together:
table, version, expiries and the answers given to writers are all kept or all undone. A backend that keeps them on a
disk lives in `rapini.storage`; its calls raise `StoreError` and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from rapini.stores.messages import Reply
from rapini.stores.values import Key, key_bytes

__all__ = ["Backend", "MemoryBackend", "Snapshot", "TableSnapshot", "WriterId", "key_starts_with"]

WriterId = tuple[str, bytes]
"""A peer's name and its incarnation."""


class Snapshot(Protocol):
    """The table as it was at one moment, read in parts while it changes."""

    count: int

    def read(self, max_bytes: int, overhead: int) -> list[tuple[Key, bytes]]:
        """The next entries: at most `max_bytes` of keys, values and `overhead` each, but one at least; at the end none.

        Raises:
            StoreError: The backend cannot be read.
        """

    def close(self) -> None:
        """Release it. May be called twice."""


class Backend(Protocol):
    """A master's table. Every call but `rollback` and `close` may raise `StoreError`. Thread: the machine's owner."""

    is_durable: bool
    """What was committed survives the end of the process."""
    size_bytes: int
    """Keys and values, as they count."""

    def load(self) -> tuple[int, list[tuple[bytes, int]]]:
        """The version, and the runs with the version that each began at, oldest first; nothing at first: 0 and none."""

    def add_run(self, run: bytes, version: int) -> None:
        """Note that a run begins at this version; remember the last `limits.MAX_STORE_RUNS`."""

    def __len__(self) -> int:
        """Entries."""

    def get(self, key: Key) -> bytes | None:
        """An entry's value."""

    def set(self, key: Key, blob: bytes) -> None:
        """Put an entry."""

    def delete(self, key: Key) -> None:
        """Take an entry out, with its expiry; it may be absent."""

    def clear(self) -> None:
        """Take all entries out."""

    def set_deadline(self, key: Key, wall: float | None) -> None:
        """When an entry that is there expires (seconds since 1970), or that it does not."""

    def deadlines(self) -> list[tuple[Key, float]]:
        """All expiries."""

    def snapshot(self, prefix: Key | None = None) -> Snapshot:
        """The committed table as it is now, or its entries whose key begins with `prefix`, in no promised order.

        Nothing is loaded but what is read.
        """

    def writers(self) -> list[tuple[WriterId, int, list[Reply]]]:
        """The writers remembered, least recently used first: their last number, their unconfirmed replies."""

    def remember(self, writer: WriterId, last: int, reply: Reply | None) -> None:
        """Note a writer, its last number and the reply to it."""

    def confirm(self, writer: WriterId, below: int) -> None:
        """Forget the replies to smaller numbers."""

    def forget(self, writer: WriterId) -> None:
        """Forget a writer."""

    def commit(self, version: int) -> None:
        """Keep everything since the commit before, as this version."""

    def rollback(self) -> None:
        """Undo everything since the commit before."""

    def close(self) -> None:
        """Release what it holds."""


def key_starts_with(key: Key, prefix: Key) -> bool:
    """Whether a key begins with a prefix: of text, of bytes, or the first parts of a tuple; a number only itself."""
    match prefix:
        case str():
            return isinstance(key, str) and key.startswith(prefix)
        case bytes():
            return isinstance(key, bytes) and key.startswith(prefix)
        case tuple():
            return isinstance(key, tuple) and key[: len(prefix)] == prefix
        case _:
            return key == prefix


class TableSnapshot:
    """Of a dict: references to keys and values, 16 bytes an entry, beside values that are replaced in the meantime."""

    def __init__(self, table: dict[Key, bytes], prefix: Key | None = None) -> None:
        keys, blobs = list(table), list(table.values())
        if prefix is not None:
            chosen = [index for index, key in enumerate(keys) if key_starts_with(key, prefix)]
            keys, blobs = [keys[index] for index in chosen], [blobs[index] for index in chosen]
        self.count = len(keys)
        self._entries: Iterator[tuple[Key, bytes]] = zip(keys, blobs, strict=True)
        self._next: tuple[Key, bytes] | None = None

    def read(self, max_bytes: int, overhead: int) -> list[tuple[Key, bytes]]:
        """The next entries."""
        part = [] if self._next is None else [self._next]
        size = 0 if self._next is None else _size(self._next, overhead)
        self._next = None
        for entry in self._entries:
            size += _size(entry, overhead)
            if size > max_bytes and part:
                self._next = entry
                break
            part.append(entry)
        return part

    def close(self) -> None:
        """Let go of the references."""
        self._entries = iter(())
        self._next = None


def _size(entry: tuple[Key, bytes], overhead: int) -> int:
    key, blob = entry
    return (len(key) if type(key) is str and key.isascii() else key_bytes(key)) + len(blob) + overhead


class MemoryBackend:
    """A table that lives as long as the process."""

    is_durable = False

    def __init__(self) -> None:
        self.size_bytes = 0
        self._table: dict[Key, bytes] = {}
        self._runs: list[tuple[bytes, int]] = []

    def load(self) -> tuple[int, list[tuple[bytes, int]]]:
        """Nothing survives."""
        return 0, []

    def add_run(self, run: bytes, version: int) -> None:
        """Nothing to keep: the machine knows its own run."""

    def __len__(self) -> int:
        return len(self._table)

    def get(self, key: Key) -> bytes | None:
        """An entry's value."""
        return self._table.get(key)

    def set(self, key: Key, blob: bytes) -> None:
        """Put an entry."""
        old = self._table.get(key)
        if old is None:
            self.size_bytes += len(blob) + (len(key) if type(key) is str and key.isascii() else key_bytes(key))
        else:
            self.size_bytes += len(blob) - len(old)
        self._table[key] = blob

    def delete(self, key: Key) -> None:
        """Take an entry out."""
        old = self._table.pop(key, None)
        if old is not None:
            self.size_bytes -= len(old) + key_bytes(key)

    def clear(self) -> None:
        """Take all entries out."""
        self._table.clear()
        self.size_bytes = 0

    def set_deadline(self, key: Key, wall: float | None) -> None:
        """The machine's own memory of it is enough."""

    def deadlines(self) -> list[tuple[Key, float]]:
        """None survives."""
        return []

    def snapshot(self, prefix: Key | None = None) -> Snapshot:
        """The table as it is now, in the order in which its keys came."""
        return TableSnapshot(self._table, prefix)

    def writers(self) -> list[tuple[WriterId, int, list[Reply]]]:
        """None survives."""
        return []

    def remember(self, writer: WriterId, last: int, reply: Reply | None) -> None:
        """The machine's own memory of it is enough."""

    def confirm(self, writer: WriterId, below: int) -> None:
        """As above."""

    def forget(self, writer: WriterId) -> None:
        """As above."""

    def commit(self, version: int) -> None:
        """Nothing to do."""

    def rollback(self) -> None:
        """Never needed: nothing here fails."""

    def close(self) -> None:
        """Nothing to release."""
