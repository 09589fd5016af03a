"""Named counters in a small file that outlives its process, even one killed with SIGKILL.

Where it sits: each program that `rapini run` and `rapini demo` start keeps one; the parent reads it while the program
lives and after it died. That is how `published = logged + all of lost` can be said of a killed sensor too.

Theory: a shared mapping of a file is the page cache itself. What a process stored there with one machine store is
there for every reader at once, and stays when the process is gone (only the machine's own end can lose it). A slot is a
name, written once before its first value, and an aligned 64-bit number, stored whole. Counting costs some 50 ns.
"""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path
from typing import Final, Self

from rapini.errors import ConfigError

__all__ = ["MAX_SLOTS", "OVERFLOWED", "Ledger", "read_ledger"]

MAX_SLOTS: Final = 1024
SLOT_BYTES: Final = 128
NAME_BYTES: Final = SLOT_BYTES - 8

OVERFLOWED: Final = "overflowed"
"""The counter of what found no slot."""

_FILE_BYTES: Final = MAX_SLOTS * SLOT_BYTES  # sparse: pages never touched take no space


class Ledger:
    """The writer's side: one process, any thread (a slot belongs to the thread that counts in it).

    Args:
        path: The file, made anew; without one the counters live in this process alone.

    Raises:
        ConfigError: `ledger`: the file cannot be made.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        try:
            self._map = mmap.mmap(-1, _FILE_BYTES) if path is None else _map_file(path)
        except OSError as error:
            raise ConfigError("ledger", f"cannot be made: {error.strerror}", where=str(path)) from error
        self.values = memoryview(self._map).cast("B").cast("Q")
        """All slots as numbers; index it with what `slot` returned. For hot loops."""
        self._slots: dict[str, int] = {}

    def slot(self, name: str) -> int:
        """The index in `values` of a counter, which begins at 0.

        Never fails: when all slots are taken, or the name is longer than 119 bytes, counts go to `overflowed`.
        """
        known = self._slots.get(name)
        if known is not None:
            return known
        number = len(self._slots)
        encoded = name.encode()
        if number >= MAX_SLOTS - 1 or not 0 < len(encoded) < NAME_BYTES:
            return self.slot(OVERFLOWED) if name != OVERFLOWED else self._make(MAX_SLOTS - 1, name)
        return self._make(number, name)

    def _make(self, number: int, name: str) -> int:
        start = number * SLOT_BYTES
        encoded = name.encode()
        self._map[start : start + len(encoded)] = encoded
        index = self._slots[name] = (start + NAME_BYTES) // 8
        return index

    def set(self, name: str, value: int) -> None:
        """Store a counter's value."""
        self.values[self.slot(name)] = value

    def add(self, name: str, count: int = 1) -> None:
        """Add to a counter."""
        self.values[self.slot(name)] += count

    def snapshot(self) -> dict[str, int]:
        """All counters."""
        return {name: self.values[index] for name, index in list(self._slots.items())}

    def close(self) -> None:
        """Unmap the file, which stays. Further counting raises `ValueError`."""
        self.values.release()
        self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _map_file(path: str | Path) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, _FILE_BYTES)
        return mmap.mmap(descriptor, _FILE_BYTES)
    finally:
        os.close(descriptor)


def read_ledger(path: str | Path) -> dict[str, int]:
    """The counters of a ledger, whose process may be alive, killed, or not begun (then there are none)."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        return {}
    counters: dict[str, int] = {}
    for start in range(0, len(data) - SLOT_BYTES + 1, SLOT_BYTES):
        name = data[start : start + NAME_BYTES].rstrip(b"\0")
        if not name:
            continue
        counters[name.decode("utf-8", "replace")] = int.from_bytes(
            data[start + NAME_BYTES : start + SLOT_BYTES], sys.byteorder
        )
    return counters
