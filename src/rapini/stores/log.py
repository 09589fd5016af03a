"""The deltas that a master keeps for clones that lag or return: encoded once, bounded in bytes and in number. Sans-IO.

A follower holds no queue of its own, only the version up to which it was served; it is served from here while what
comes next is still here, and gets a snapshot when it is not. So a slow clone costs the master nothing but a number.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

from rapini import limits
from rapini.stores.messages import Change, Deltas, encode, encode_changes

__all__ = ["DeltaLog"]

_HEAD_BYTES: Final = 64
"""More than the head of a `Deltas` takes."""
MAX_PAYLOAD_BYTES: Final = limits.MAX_STORE_MESSAGE_BYTES - _HEAD_BYTES


class _Batch(msgspec.Struct, frozen=True, gc=False):
    first: int
    count: int
    data: bytes


class DeltaLog:
    """Recent changes, in batches that were encoded together.

    Args:
        version: The version before the first change to come.
        max_bytes: Encoded bytes kept.
        max_changes: Changes kept.
    """

    def __init__(self, version: int, *, max_bytes: int, max_changes: int) -> None:
        self.version = version
        """The last version in the log, or the one it began with."""
        self.encodings = 0
        """Changes encoded so far: it does not depend on the number of clones."""
        self._max_bytes = max_bytes
        self._max_changes = max_changes
        self._batches: deque[_Batch] = deque()
        self._at: dict[int, int] = {}
        self._dropped = 0
        self._bytes = 0
        self._changes = 0
        self._joined: tuple[int, int, bytes] = (-1, -1, b"")

    @property
    def oldest(self) -> int:
        """The version after which everything is here."""
        return self._batches[0].first - 1 if self._batches else self.version

    @property
    def kept_bytes(self) -> int:
        """Encoded bytes held."""
        return self._bytes

    def append(self, changes: list[Change]) -> None:
        """Encode changes, the first of which is `version` + 1."""
        self.encodings += len(changes)
        data = encode_changes(changes)
        if len(data) <= MAX_PAYLOAD_BYTES:
            self._add(len(changes), data)
            return
        # Rare, so it may cost an encoding more: part them where a message is full.
        run: list[bytes] = []
        size = 0
        for change in changes:
            one = encode_changes([change])
            if run and size + len(one) > MAX_PAYLOAD_BYTES:
                self._add(len(run), b"".join(run))
                run, size = [], 0
            run.append(one)
            size += len(one)
        self._add(len(run), b"".join(run))

    def _add(self, count: int, data: bytes) -> None:
        first = self.version + 1
        self._at[first] = self._dropped + len(self._batches)
        self._batches.append(_Batch(first, count, data))
        self.version += count
        self._bytes += len(data)
        self._changes += count
        while self._bytes > self._max_bytes or self._changes > self._max_changes:
            old = self._batches.popleft()
            del self._at[old.first]
            self._dropped += 1
            self._bytes -= len(old.data)
            self._changes -= old.count

    def reaches(self, version: int) -> bool:
        """Whether a follower at this version can go on by deltas."""
        return version == self.version or version + 1 in self._at

    def message_after(self, version: int) -> tuple[bytes, int] | None:
        """A `Deltas` message that goes on from this version, as large as may be, and the version that it leads to.

        Returns:
            `None` when there is nothing newer. Call `reaches` first.
        """
        if version >= self.version:
            return None
        if self._joined[0] == version and self._joined[1] == self.version:
            return self._joined[2], self.version  # the other followers get the very same bytes
        parts: list[bytes] = []
        size = count = 0
        index = self._at[version + 1] - self._dropped
        while index < len(self._batches):
            batch = self._batches[index]
            if parts and size + len(batch.data) > MAX_PAYLOAD_BYTES:
                break
            parts.append(batch.data)
            size += len(batch.data)
            count += batch.count
            index += 1
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        message = encode(Deltas(version + 1, count, memoryview(data)))
        self._joined = (version, version + count, message)
        return message, version + count
