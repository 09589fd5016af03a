"""One direction of a simulated connection: bytes in order, late, stalled, cut or swallowed.

What TCP promises and no more. What is taken arrives in order, some time later, unless the connection is cut; a full
pipe (the two kernels' buffers) takes nothing; a partition makes bytes wait for its end, as retransmissions do; and a
pipe that *swallows* (a NAT that forgot the connection, a switch that died) takes bytes and says nothing to anybody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Protocol

from rapini.testing.simulation.world import World

__all__ = ["Path", "Pipe", "Sink"]


class Path:
    """What lies between two hosts, in one direction.

    Args:
        delay_s: The shortest time that bytes take.
        jitter_s: What may come on top.
    """

    __slots__ = ("blocks", "delay_s", "draw", "ended_at", "jitter_s", "stalled")

    def __init__(self, delay_s: float, jitter_s: float, random: Random) -> None:
        self.delay_s = delay_s
        self.jitter_s = jitter_s
        self.draw = random.random
        self.blocks = 0
        """Partitions that are in force here."""
        self.ended_at = -1e9
        """When something last went wrong in this direction, and was mended; see `Observer`."""
        self.stalled: list[Pipe] = []

    @property
    def is_blocked(self) -> bool:
        """Whether nothing gets through."""
        return self.blocks > 0

    def latency(self) -> float:
        """How long the next piece takes, in seconds."""
        return self.delay_s + self.jitter_s * self.draw()


class Sink(Protocol):
    """The receiving end of a pipe."""

    def arrived(self, data: bytes) -> None:
        """Bytes are here."""

    def ended(self, code: str) -> None:
        """The stream ends here: `closed` or `reset`."""


class Pipe:
    """One direction of one connection.

    Args:
        world: Whose time counts.
        path: Where it runs.
        sink: Who receives.
        writable: Called when a full pipe has room again, at the sender's.
        capacity: Bytes under way and unread, together, from which on it takes no more.
    """

    __slots__ = (
        "_armed",
        "_last",
        "_queue",
        "capacity",
        "delivered_at",
        "is_broken",
        "is_squeezed",
        "is_swallowing",
        "is_waited_for",
        "path",
        "sink",
        "used",
        "world",
        "writable",
    )

    def __init__(
        self, world: World, path: Path, sink: Sink, writable: Callable[[], None], *, capacity: int, opened_at: float
    ) -> None:
        self.world = world
        self.path = path
        self.sink = sink
        self.writable = writable
        self.capacity = capacity
        self.used = 0
        """Bytes under way, unread, or swallowed."""
        self.delivered_at = opened_at
        """When something last arrived, in the world's seconds."""
        self.is_swallowing = False
        self.is_squeezed = False
        """Takes nothing for now: back-pressure."""
        self.is_broken = False
        """Nothing more will arrive."""
        self.is_waited_for = False
        """The sender found it full, and wants to know."""
        self._queue: deque[tuple[float, bytes | str]] = deque()
        self._last = opened_at
        self._armed = False

    @property
    def is_full(self) -> bool:
        """Whether a send would be parked."""
        return self.is_squeezed or self.used >= self.capacity

    def send(self, pieces: list[bytes]) -> bool:
        """Take pieces of the stream, which may arrive apart; false if it is full."""
        if self.is_full:
            self.is_waited_for = True
            return False
        for piece in pieces:
            self.used += len(piece)
            if not self.is_swallowing and not self.is_broken:
                self._put(piece, self.world.now + self.path.latency())
        return True

    def end(self, code: str) -> None:
        """End the stream behind what was sent."""
        if not self.is_swallowing and not self.is_broken:
            self._put(code, self.world.now + self.path.latency())

    def reset(self, delay_s: float) -> None:
        """End the stream in so many seconds, with a reset; what has not arrived by then is lost."""
        if not self.is_broken:
            self.world.after(delay_s, self._reset)

    def swallow(self) -> None:
        """From now on bytes vanish, those under way too, and nobody is told."""
        self.is_swallowing = True
        self._queue.clear()

    def read(self, size: int) -> None:
        """The receiver took so many bytes out of its kernel."""
        self.used -= size
        if self.is_waited_for and self.used * 2 < self.capacity and not self.is_squeezed:
            self.is_waited_for = False
            self.world.after(self.path.latency(), self.writable)

    def release(self) -> None:
        """Back-pressure is over."""
        self.is_squeezed = False
        self.read(0)

    def healed(self) -> None:
        """The path is open again."""
        if self._queue and not self._armed:
            self._arm(self.world.now + self.path.latency())

    def _put(self, item: bytes | str, arrives: float) -> None:
        self._last = max(self._last, arrives)  # nothing overtakes in a stream
        self._queue.append((self._last, item))
        if not self._armed:
            self._arm(self._last)

    def _arm(self, when: float) -> None:
        self._armed = True
        self.world.at(when, self._deliver)

    def _reset(self) -> None:
        if self.is_broken or self.is_swallowing:
            return
        self._queue.clear()
        if self.path.is_blocked:
            self._put("reset", self.world.now)  # it stands behind the partition like everything else
        else:
            self.is_broken = True
            self.sink.ended("reset")

    def _deliver(self) -> None:
        self._armed = False
        if self.is_broken:
            self._queue.clear()
            return
        if self.path.is_blocked:
            self.path.stalled.append(self)
            return
        queue, now = self._queue, self.world.now
        while queue and queue[0][0] <= now and not self.is_broken:
            item = queue.popleft()[1]
            if isinstance(item, str):
                self.is_broken = True
                queue.clear()
                self.sink.ended(item)
            else:
                self.delivered_at = now
                self.sink.arrived(item)
        if queue:
            self._arm(queue[0][0])
