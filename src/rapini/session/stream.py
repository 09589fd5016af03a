"""Durable streams between two nodes: one subscriber's place in a publisher's stream, at both ends. Sans-IO.

A durable stream belongs to a publisher's spool and outlives its processes; its id and its sequence numbers are for
ever. A subscriber takes part of it, by topic, so what it is sent jumps: each `DURABLE` frame says the position it
continues from (*after*: everything before it was sent, or is not wanted) and the number of its first event. So the
receiver knows that nothing is missing without knowing what it did not subscribe to:

    after 100 ── events 100..163 ── after 164 ── (164..299 were on other topics) ── events 300..310 ── after 311

A frame without events moves the position alone, so that what nobody wants can be acknowledged, and removed. The
position that both start from is the subscriber's word (what it has, or what it committed with its output), else what it
acknowledged last, which the spool keeps.
"""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["StreamIntake", "StreamSender"]

_MAX_UNSETTLED: Final = 256
"""Pieces of what was not settled that are known apart."""


class StreamSender:
    """How far one subscriber has been sent our stream. Thread: the owner's.

    Args:
        position: Where it starts.
        is_kept: Whether the spool keeps its position: it is owed what it misses.
        settled: What it had settled before; by default, everything up to where it starts.
    """

    def __init__(self, position: int, *, is_kept: bool, settled: int | None = None) -> None:
        self.is_kept = is_kept
        self.position = position
        """Everything before it was sent, or is not wanted."""
        self.settled = position if settled is None else settled
        """Everything before it is the subscriber's for good."""
        self.acknowledged = 0
        """Events that the subscriber has taken."""
        self.in_flight_bytes = 0
        self._in_flight: deque[tuple[int, int, int]] = deque()

    @property
    def is_idle(self) -> bool:
        """Whether everything that was sent was acknowledged."""
        return not self._in_flight

    def sent(self, after: int, size: int, count: int) -> None:
        """Everything before `after` is under way, the last of it `count` events that took `size` bytes of credit."""
        self.position = after
        self.in_flight_bytes += size
        self._in_flight.append((after, size, count))

    def acknowledge(self, taken: int, settled: int) -> bool:
        """The subscriber took everything before one position, and settled what is before another.

        Returns:
            False if that was not sent.
        """
        if taken > self.position or settled > self.position:
            return False
        self.settled = max(self.settled, settled)
        while self._in_flight and self._in_flight[0][0] <= taken:
            _, size, count = self._in_flight.popleft()
            self.in_flight_bytes -= size
            self.acknowledged += count
        return True


class StreamIntake:
    """How far we have got in somebody's stream. It outlives sessions: streams do. Thread: the owner's.

    Args:
        stream_id: The stream's.
        position: Where we are.
    """

    def __init__(self, stream_id: bytes, position: int) -> None:
        self.stream_id = stream_id
        self.position = position
        """Everything before it was received, or is not wanted."""
        self.taken = position
        """Everything before it was taken by the application: gives its publisher credit."""
        self.settled = position
        """Everything before it is ours for good, and will not be asked for again: what was taken, or, where the
        application commits positions with its output, what it committed."""
        self.told = (position, position)
        """What the publisher was told last, `taken` and `settled`."""
        self._spans: deque[tuple[int, int]] = deque()
        self._done: set[int] = set()
        self._unsettled: deque[tuple[int, int]] = deque()
        """Events, or gaps in their place, that have come and are not settled: first numbers and those after the last.
        """

    def receive(self, after: int, first: int, count: int) -> int | None:
        """Account for what came; returns how many of its events we had already, or `None` if it does not continue.

        A subscriber may have committed a position inside a record: the publisher sends the whole record again.
        """
        end = first + count
        if after > self.position or end < after or end < self.position:
            return None
        known = min(count, max(0, self.position - first))
        start, self.position = self.position, end
        if end > start:
            self._spans.append((start, end))
        if count > known:
            last = self._unsettled[-1] if self._unsettled else None
            if last is not None and (last[1] == first or len(self._unsettled) >= _MAX_UNSETTLED):
                self._unsettled[-1] = (last[0], end)
            else:
                self._unsettled.append((first, end))
        return known

    def take(self, start: int, end: int) -> None:
        """The application took what lies between two positions; each exactly once, in any order."""
        if end <= start:
            return
        self._done.add(end)
        while self._spans and self._spans[0][1] in self._done:
            _, self.taken = self._spans.popleft()
            self._done.discard(self.taken)

    def settle(self, position: int | None = None) -> None:
        """All before a position is ours for good: the application committed it, or by default, took it.

        So is what was taken and brought nothing, where nothing unsettled stands before it: a subscriber that commits
        positions with its output has none to commit there, and must not hold up the publisher's spool.
        """
        settled = self.taken if position is None else min(position, self.position)
        self.settled = max(self.settled, settled)
        unsettled = self._unsettled
        while unsettled and unsettled[0][1] <= self.settled:
            unsettled.popleft()
        self.settled = max(self.settled, min(self.taken, unsettled[0][0] if unsettled else self.taken))
