"""What a master knows of one link to a clone: how far it was served, and what comes next. Sans-IO."""

from __future__ import annotations

from collections import deque
from typing import Final

from rapini import limits
from rapini.errors import DecodeError
from rapini.stores.backend import Snapshot
from rapini.stores.log import DeltaLog
from rapini.stores.messages import Chunk, Entry, FromMaster, Replies, Reply, encode
from rapini.stores.writers import Writer

__all__ = ["Follower"]

_CHUNK_BYTES: Final = limits.MAX_STORE_MESSAGE_BYTES - 64
_ENTRY_OVERHEAD: Final = 12
"""More than the heads of an entry, its key and its value take."""
_MAX_REPLIES: Final = 1024
_REPLY_OVERHEAD: Final = 72


class Follower:
    """One peer on its present link."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.writer: Writer | None = None
        """Set while it follows."""
        self.is_broken = False
        """It violated the protocol: nothing more is read from it or sent to it."""
        self.version = 0
        """Everything up to here was sent."""
        self.replies: deque[Reply] = deque()
        self._first: deque[bytes] = deque()
        self._may_follow = float(limits.MAX_STORE_FOLLOWS)
        self._asked_at = float("-inf")
        self._snapshot: Snapshot | None = None
        self._sent = 0

    def say(self, message: FromMaster) -> None:
        """Send this before anything else."""
        self._first.append(encode(message))

    def count_follow(self, now: float) -> None:
        """It asks to follow.

        Raises:
            DecodeError: `flood`: it does so too often.
        """
        regained = max(0.0, now - self._asked_at)
        self._may_follow = min(self._may_follow + regained, float(limits.MAX_STORE_FOLLOWS)) - 1
        self._asked_at = now
        if self._may_follow < 0 or len(self._first) > limits.MAX_STORE_ANSWERS:
            raise DecodeError("flood", "it begins to follow too often")

    def check_reading(self) -> None:
        """It writes again.

        Raises:
            DecodeError: `not_reading`: more replies wait for it than it can have asked for.
        """
        if len(self.replies) > limits.MAX_PENDING_WRITES:
            raise DecodeError("not_reading", f"{len(self.replies)} replies wait for it")

    def begin(self, writer: Writer, version: int, snapshot: Snapshot | None) -> None:
        """Go on from this version, after the snapshot if there is one."""
        self.writer = writer
        self.restart(version, snapshot)

    def restart(self, version: int, snapshot: Snapshot | None) -> None:
        """The same writer, from another version."""
        self._drop_snapshot()
        self.version = version
        self._snapshot = snapshot
        self._sent = 0

    def end(self) -> None:
        """It does not follow any more."""
        self.writer = None
        self.replies.clear()
        self._drop_snapshot()

    def end_link(self) -> None:
        """Nothing is sent on this link any more."""
        self.end()
        self._first.clear()

    def needs_snapshot(self, log: DeltaLog) -> bool:
        """It lags so far behind that the log does not reach it."""
        return self.writer is not None and not self._first and self._snapshot is None and not log.reaches(self.version)

    def next_message(self, log: DeltaLog) -> bytes | None:
        """What to send next.

        Raises:
            StoreError: The snapshot cannot be read.
        """
        if self._first:
            return self._first.popleft()
        if self.writer is None:
            return None
        if self.replies:
            return encode(Replies(self._next_replies()))
        if self._snapshot is not None:
            return self._next_chunk(self._snapshot)
        found = log.message_after(self.version)
        if found is None:
            return None
        message, self.version = found
        return message

    def _next_replies(self) -> list[Reply]:
        part: list[Reply] = []
        size = 0
        while self.replies and len(part) < _MAX_REPLIES:
            size += len(self.replies[0].blob) + _REPLY_OVERHEAD
            if part and size > _CHUNK_BYTES:
                break
            part.append(self.replies.popleft())
        return part

    def _next_chunk(self, snapshot: Snapshot) -> bytes:
        part = snapshot.read(_CHUNK_BYTES, _ENTRY_OVERHEAD)
        self._sent += len(part)
        is_last = self._sent >= snapshot.count or not part
        if is_last:
            self._drop_snapshot()
        return encode(Chunk(self.version, [Entry(key, blob) for key, blob in part], is_last))

    def _drop_snapshot(self) -> None:
        if self._snapshot is not None:
            self._snapshot.close()
            self._snapshot = None
