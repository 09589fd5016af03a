"""The receiving half of a datagram channel: the reliable stream without its holes, unreliable messages in their place.

Below `retransmit`, above `packets`. Both classes hold what cannot be delivered yet, within `limits`: what would exceed
a bound is refused like a lost packet (stream) or pushes out the oldest (unreliable messages, counted). An honest peer
never overlaps fragments nor exceeds the window; who does breaks the protocol.

What is delivered is delivered in the order of sending; of the unreliable messages some may be missing. So an unreliable
message waits for the reliable bytes that were sent before it, and is dropped when reliable bytes that were sent after
it, or a later unreliable message, were delivered first.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field

from rapini import limits
from rapini.errors import DecodeError
from rapini.session.packets import FragmentChunk, StreamChunk
from rapini.session.ranges import RangeSet

__all__ = ["MessageReceiver", "StreamReceiver"]


class StreamReceiver:
    """Puts the reliable stream together. Thread: the owner's."""

    def __init__(self) -> None:
        self.delivered = 0
        """So many bytes have been taken, in order."""
        self._pieces: dict[int, bytes] = {}
        self._held = RangeSet()
        self.held_bytes = 0
        """Bytes behind holes."""

    @property
    def limit(self) -> int:
        """Up to where the peer may send."""
        return self.delivered + limits.STREAM_WINDOW_BYTES

    @property
    def held_segments(self) -> int:
        """Pieces behind holes."""
        return len(self._pieces)

    def has_room_untrusted(self, chunk: StreamChunk) -> bool:
        """Whether a chunk can be kept; if not, its packet must count as lost. What fills the first hole always can.

        Raises:
            DecodeError: `window_exceeded`.
        """
        if chunk.offset + len(chunk.data) > self.limit:
            raise DecodeError("window_exceeded", f"stream bytes beyond {self.limit}")
        return chunk.offset <= self.delivered or len(self._pieces) < limits.MAX_STREAM_SEGMENTS

    def add(self, chunk: StreamChunk) -> None:
        """Keep what is new of a chunk; `has_room_untrusted` said yes."""
        start, end = max(chunk.offset, self.delivered), chunk.offset + len(chunk.data)
        for low, high in self._held.missing(start, end):
            self._pieces[low] = chunk.data[low - chunk.offset : high - chunk.offset]
            self.held_bytes += high - low
        self._held.add(start, end)

    def take(self, stop: int | None = None) -> bytes:
        """Take what is in order now, up to the offset `stop`."""
        parts = []
        while (piece := self._pieces.pop(self.delivered, None)) is not None:
            if stop is not None and self.delivered + len(piece) > stop:
                room = stop - self.delivered
                if room < len(piece):
                    self._pieces[stop] = piece[room:]
                piece = piece[:room]
            if not piece:
                break
            parts.append(piece)
            self.delivered += len(piece)
            self.held_bytes -= len(piece)
        if parts:
            self._held.discard(0, self.delivered)
        return parts[0] if len(parts) == 1 else b"".join(parts)


@dataclass(slots=True)
class _Message:
    """An unreliable message that waits."""

    after: int
    total: int
    arrived: int = 0
    starts: list[int] = field(default_factory=list)
    pieces: dict[int, bytes] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        return self.arrived == self.total

    @property
    def cost(self) -> int:
        return self.arrived + len(self.starts) * limits.FRAGMENT_COST_BYTES

    def data(self) -> bytes:
        return b"".join(self.pieces[start] for start in self.starts)


class MessageReceiver:
    """Puts unreliable messages together, and gives each out in its place or not at all. Thread: the owner's."""

    def __init__(self) -> None:
        self.late = 0
        """Messages (of several fragments: fragments) that came after what was sent after them, and were dropped."""
        self.evicted = 0
        """Messages dropped because too much waited."""
        self.held_bytes = 0
        """What waits, with `limits.FRAGMENT_COST_BYTES` a fragment."""
        self._next = 0  # the lowest number that may still be delivered
        self._waiting: dict[int, _Message] = {}

    @property
    def held_messages(self) -> int:
        """Messages that wait, complete or not."""
        return len(self._waiting)

    def add_untrusted(self, chunk: FragmentChunk, delivered: int) -> None:
        """Keep a fragment, unless it is late.

        Args:
            chunk: The fragment.
            delivered: The stream's offset.

        Raises:
            DecodeError: `bad_fragment` (it contradicts another one) or `overlapping_fragments`.
        """
        if chunk.number < self._next or chunk.after < delivered:
            self.late += 1
            return
        message = self._waiting.get(chunk.number)
        if message is None:
            message = self._waiting[chunk.number] = _Message(after=chunk.after, total=chunk.total)
        elif (message.after, message.total) != (chunk.after, chunk.total):
            raise DecodeError("bad_fragment", f"the fragments of message {chunk.number} contradict each other")
        at = bisect_left(message.starts, chunk.offset)
        if at and message.starts[at - 1] + len(message.pieces[message.starts[at - 1]]) > chunk.offset:
            raise DecodeError("overlapping_fragments", f"fragments of message {chunk.number} overlap")
        if at < len(message.starts) and chunk.offset + len(chunk.data) > message.starts[at]:
            raise DecodeError("overlapping_fragments", f"fragments of message {chunk.number} overlap")
        self.held_bytes -= message.cost
        insort(message.starts, chunk.offset)
        message.pieces[chunk.offset] = chunk.data
        message.arrived += len(chunk.data)
        self.held_bytes += message.cost
        while self.held_bytes > limits.HELD_MESSAGE_BYTES or len(self._waiting) > limits.MAX_HELD_MESSAGES:
            self._drop(min(self._waiting))
            self.evicted += 1

    def next_stop(self, delivered: int) -> int | None:
        """Up to where the stream may be delivered before one of these messages has its turn."""
        if not self._waiting:
            return None
        return min(
            (each.after for each in self._waiting.values() if each.is_complete and each.after > delivered), default=None
        )

    def take(self, delivered: int) -> list[bytes]:
        """Take the messages whose turn it is at this offset of the stream, and drop those whose turn is over."""
        if not self._waiting:
            return []
        turn = []
        for number in sorted(self._waiting):
            message = self._waiting[number]
            if message.after < delivered:
                self._drop(number)
                self.late += 1
            elif message.after == delivered and message.is_complete:
                turn.append(message.data())
                self._next = number + 1
                self._drop(number)
        if turn:
            for number in [each for each in self._waiting if each < self._next]:
                self._drop(number)
                self.late += 1
        return turn

    def _drop(self, number: int) -> None:
        self.held_bytes -= self._waiting.pop(number).cost
