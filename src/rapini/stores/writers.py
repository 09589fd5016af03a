"""What a master remembers of those who write to it, so that a write that is sent again is not done again. Sans-IO.

A clone numbers its writes from 1 within its incarnation and sends them in order; after a lost link it sends again, in
order, what it has no reply to. So per writer the last number and the replies that the clone has not confirmed are
enough, and both are bounded: replies by `limits.MAX_PENDING_WRITES`, writers by `MAX_WRITERS_PER_PEER` and
`MAX_WRITERS`, the least recently seen first. They are kept with the data, in the same transaction.
"""

from __future__ import annotations

from rapini import limits
from rapini.stores.backend import Backend, WriterId
from rapini.stores.messages import Reply

__all__ = ["Writer", "Writers"]


class Writer:
    """One incarnation of a clone."""

    __slots__ = ("id", "last", "replies")

    def __init__(self, writer_id: WriterId, last: int = 0) -> None:
        self.id = writer_id
        self.last = last
        """The largest number dealt with."""
        self.replies: dict[int, Reply] = {}


class Writers:
    """All that are remembered, least recently used first; loaded from the backend."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._writers: dict[WriterId, Writer] = {}
        self.load()

    def __len__(self) -> int:
        return len(self._writers)

    def load(self) -> None:
        """Read what was committed."""
        self._writers.clear()
        for writer_id, last, replies in self._backend.writers():
            writer = self._writers[writer_id] = Writer(writer_id, last)
            writer.replies = {reply.number: reply for reply in replies}

    def greet(self, writer_id: WriterId) -> tuple[Writer, bool]:
        """The writer, the most recent from now on, and whether it was known."""
        writer = self._writers.pop(writer_id, None)
        is_known = writer is not None
        if writer is None:
            self._make_room(writer_id[0])
            writer = Writer(writer_id)
        self._writers[writer_id] = writer
        self._backend.remember(writer_id, writer.last, None)
        return writer, is_known

    def find(self, writer_id: WriterId) -> Writer | None:
        """The writer if it is known."""
        return self._writers.get(writer_id)

    def answered(self, writer: Writer, reply: Reply) -> None:
        """Note the reply to the writer's next number."""
        writer.last = reply.number
        writer.replies[reply.number] = reply
        self._backend.remember(writer.id, writer.last, reply)

    def confirm(self, writer: Writer, below: int) -> None:
        """Drop the replies that the clone does not need any more."""
        replies = writer.replies  # in the order of their numbers
        before = len(replies)
        while replies and (oldest := next(iter(replies))) < below:
            del replies[oldest]
        if len(replies) < before:
            self._backend.confirm(writer.id, below)

    def _make_room(self, peer: str) -> None:
        same = [writer_id for writer_id in self._writers if writer_id[0] == peer]
        while len(same) >= limits.MAX_WRITERS_PER_PEER:
            self._forget(same.pop(0))
        if len(self._writers) >= limits.MAX_WRITERS:
            self._forget(next(iter(self._writers)))

    def _forget(self, writer_id: WriterId) -> None:
        del self._writers[writer_id]
        self._backend.forget(writer_id)
