"""The sending half of a datagram channel: the stream until it is acknowledged, messages until they were sent.

Below `retransmit`, above `packets`. Fills packets in the order of sending: bytes that were lost first, then what is
new, where a message has its place at the stream's offset at which it was given. Sans-IO.

Of the stream, the bytes from the first unacknowledged one on are kept, once; a retransmission is cut out of them, so a
lost packet costs no memory, and its bytes may be cut in another way the next time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

import msgspec

from rapini import limits
from rapini.secure.channel import Buffer
from rapini.session import packets
from rapini.session.ranges import RangeSet
from rapini.session.recovery import SentPacket

__all__ = ["Filled", "Outgoing"]

_MIN_ROOM_BYTES: Final = 64
"""A chunk is not begun in less than this at the end of a packet; the head of a fragment alone takes 27."""


class Filled(msgspec.Struct, frozen=True):
    """What a packet was given, beside an acknowledgement."""

    stream: tuple[tuple[int, int], ...]
    messages: int
    has_end: bool


@dataclass(slots=True)
class _Unsent:
    """An unreliable message on its way out."""

    number: int
    after: int
    data: bytes
    sent: int = 0


class Outgoing:
    """What is to be sent, and of the stream what may have to be sent again. Thread: the owner's."""

    def __init__(self) -> None:
        self.retransmitted_bytes = 0
        self.messages_dropped = 0
        """Messages that were not sent, because too much waited."""
        self._buffer = bytearray()  # the stream from `_acked_to` on
        self._acked_to = 0
        self._sent_to = 0
        self._limit = limits.STREAM_WINDOW_BYTES
        self._acked = RangeSet()
        self._lost = RangeSet()
        self._unsent: deque[_Unsent] = deque()
        self._unsent_bytes = 0
        self._next_message = 0
        self._is_ended = False
        self._end_wanted = False
        self._end_acked = False

    @property
    def stream_bytes(self) -> int:
        """Bytes of the stream that are not acknowledged."""
        return len(self._buffer)

    @property
    def message_bytes(self) -> int:
        """Bytes of messages that were not sent."""
        return self._unsent_bytes

    @property
    def lost_bytes(self) -> int:
        """Bytes of the stream that wait to be sent again."""
        return sum(end - start for start, end in self._lost)

    @property
    def is_finished(self) -> bool:
        """Whether everything was acknowledged, the end included."""
        return self._end_acked and not self._buffer

    def add(self, data: Buffer) -> None:
        """Continue the stream."""
        self._buffer += data

    def add_message(self, data: bytes) -> None:
        """Take a message; if too much waits, the oldest that was not begun is dropped."""
        self._unsent.append(_Unsent(self._next_message, self._acked_to + len(self._buffer), data))
        self._next_message += 1
        self._unsent_bytes += len(data)
        while self._unsent_bytes > limits.HELD_MESSAGE_BYTES:
            at = 1 if self._unsent[0].sent else 0
            self._unsent_bytes -= len(self._unsent[at].data)
            del self._unsent[at]
            self.messages_dropped += 1

    def end(self) -> None:
        """The stream ends with what it holds."""
        self._is_ended = self._end_wanted = True

    def clear(self) -> None:
        """Nothing matters any more."""
        self._buffer.clear()
        self._acked_to = self._sent_to
        self._unsent.clear()
        self._unsent_bytes = 0
        self._lost = RangeSet()
        self._end_wanted = False

    # -- what the peer tells -----------------------------------------------------------------------------------------

    def raise_limit(self, limit: int) -> None:
        """The peer takes the stream up to here."""
        self._limit = max(self._limit, limit)

    def on_acked(self, packet: SentPacket) -> None:
        """A packet arrived."""
        for start, end in packet.stream:
            self._acked.add(start, end)
            self._lost.discard(start, end)
        self._end_acked = self._end_acked or packet.has_end
        if len(self._acked) and self._acked.first()[0] <= self._acked_to < self._acked.first()[1]:
            done = self._acked.first()[1]
            del self._buffer[: done - self._acked_to]
            self._acked_to = done
            self._acked.discard(0, done)

    def on_lost(self, packet: SentPacket) -> None:
        """A packet is lost, or has to be probed for: its part of the stream is sent again."""
        for start, end in packet.stream:
            for low, high in self._acked.missing(max(start, self._acked_to), end):
                self._lost.add(low, high)
        if packet.has_end and self._is_ended and not self._end_acked:
            self._end_wanted = True

    # -- packets -----------------------------------------------------------------------------------------------------

    def has_something(self) -> bool:
        """Whether `fill` would put anything into a packet."""
        if len(self._lost) or self._sent_to < self._new_end():
            return True
        if self._unsent:
            return self._unsent[0].after <= self._sent_to
        return self._end_wanted and self._has_sent_all()

    def fill(self, parts: list[bytes], room: int) -> Filled:
        """Add chunks to a packet's parts, as many as fit into `room` bytes."""
        streams: list[tuple[int, int]] = []
        messages = 0
        while len(parts) < limits.MAX_PACKET_CHUNKS and room >= _MIN_ROOM_BYTES:
            if not len(self._lost) and self._unsent and self._unsent[0].after <= self._sent_to:
                messages += self._put_fragment(parts, room)
            else:
                start, end = self._cut(room - packets.STREAM_HEAD_BYTES)
                if start >= end:
                    break
                streams.append((start, end))
                data = bytes(self._buffer[start - self._acked_to : end - self._acked_to])
                parts.append(packets.encode_stream(start, data))
            room -= len(parts[-1])
        has_end = self._end_wanted and self._has_sent_all() and room >= packets.END_BYTES
        if has_end:
            self._end_wanted = False
            parts.append(packets.encode_end(self._sent_to))
        return Filled(tuple(streams), messages, has_end)

    def _cut(self, size: int) -> tuple[int, int]:
        """What of the stream goes next: lost, then new."""
        if len(self._lost):
            start, end = self._lost.first()
            end = min(end, start + size)
            self._lost.discard(start, end)
            self.retransmitted_bytes += end - start
            return start, end
        start = self._sent_to
        self._sent_to = max(start, min(self._new_end(), start + size))
        return start, self._sent_to

    def _put_fragment(self, parts: list[bytes], room: int) -> int:
        """Add a fragment of the oldest unsent message; returns 1 if it was the last one."""
        message = self._unsent[0]
        data = message.data[message.sent : message.sent + room - packets.FRAGMENT_HEAD_BYTES]
        parts.append(
            packets.encode_fragment(
                number=message.number, after=message.after, total=len(message.data), offset=message.sent, data=data
            )
        )
        message.sent += len(data)
        if message.sent < len(message.data):
            return 0
        self._unsent.popleft()
        self._unsent_bytes -= len(message.data)
        return 1

    def _new_end(self) -> int:
        """Up to where new bytes of the stream may be sent now: the peer's limit, or the next message's place."""
        end = min(self._acked_to + len(self._buffer), self._limit)
        return min(end, self._unsent[0].after) if self._unsent else end

    def _has_sent_all(self) -> bool:
        return not self._unsent and not len(self._lost) and self._sent_to == self._acked_to + len(self._buffer)
