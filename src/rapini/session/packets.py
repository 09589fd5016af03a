"""Packets of a datagram channel, byte by byte (`docs/wire.md`, section 11): numbers, acknowledgements, data.

Below `retransmit`. A packet is what a mechanism protects and carries whole, or not at all: a head with the packet's
number, which is never used twice, then chunks (SCTP's word, RFC 9260; *frame* is the session's). Numbers grow by one
with each packet that is sent, retransmissions included, so an acknowledgement says which transmission arrived and an
RTT sample is never ambiguous (RFC 9000 section 12.3, RFC 9002 section 3).

The decoder reads bytes of an authenticated peer, which may be hostile all the same: it checks each number's range, and
bounds chunks, ranges and steps before anything is kept.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from rapini import limits
from rapini.errors import DecodeError

__all__ = [
    "ACK_BYTES",
    "ACK_RANGE_BYTES",
    "END_BYTES",
    "FRAGMENT_HEAD_BYTES",
    "MAX_NUMBER",
    "PACKET_HEAD_BYTES",
    "PACKET_VERSION",
    "STREAM_HEAD_BYTES",
    "AckChunk",
    "Chunk",
    "EndChunk",
    "FragmentChunk",
    "Packet",
    "PingChunk",
    "StreamChunk",
    "decode_packet_untrusted",
    "encode_ack",
    "encode_end",
    "encode_fragment",
    "encode_head",
    "encode_ping",
    "encode_stream",
]

PACKET_VERSION: Final = 1
MAX_NUMBER: Final = 2**62
"""Numbers and offsets stay below this: no sum of two of them leaves 64 bits."""

_HEAD: Final = struct.Struct(">BQ")
_ACK: Final = struct.Struct(">BQQIBI")
_ACK_BODY: Final = struct.Struct(">QQIBI")
_RANGE: Final = struct.Struct(">II")
_STREAM: Final = struct.Struct(">BQH")
_STREAM_BODY: Final = struct.Struct(">QH")
_FRAGMENT: Final = struct.Struct(">BQQIIH")
_FRAGMENT_BODY: Final = struct.Struct(">QQIIH")
_END: Final = struct.Struct(">BQ")
_END_BODY: Final = struct.Struct(">Q")

_KIND_ACK: Final = 1
_KIND_STREAM: Final = 2
_KIND_FRAGMENT: Final = 3
_KIND_END: Final = 4
_KIND_PING: Final = 5

PACKET_HEAD_BYTES: Final = _HEAD.size
ACK_BYTES: Final = _ACK.size
"""An acknowledgement of one range."""
ACK_RANGE_BYTES: Final = _RANGE.size
"""Each further range."""
STREAM_HEAD_BYTES: Final = _STREAM.size
FRAGMENT_HEAD_BYTES: Final = _FRAGMENT.size
END_BYTES: Final = _END.size

_MAX_UINT32: Final = 2**32 - 1


class AckChunk(msgspec.Struct, frozen=True):
    """Which packets arrived, and how much of the stream is accepted."""

    ranges: tuple[tuple[int, int], ...]
    """Half-open and from the highest down: ``((first, end), ...)``; at least one."""
    delay_us: int
    """How long the highest had been here when this was written."""
    limit: int
    """The stream may be sent up to this offset."""


class StreamChunk(msgspec.Struct, frozen=True, gc=False):
    """Bytes of the reliable stream."""

    offset: int
    data: bytes


class FragmentChunk(msgspec.Struct, frozen=True, gc=False):
    """A piece of an unreliable message, or all of it."""

    number: int
    """Of the message, from 0."""
    after: int
    """How many bytes of the stream were sent before the message."""
    total: int
    """Length of the whole message."""
    offset: int
    data: bytes


class EndChunk(msgspec.Struct, frozen=True, gc=False):
    """The stream ends at this offset, and with it the channel."""

    offset: int


class PingChunk(msgspec.Struct, frozen=True, gc=False):
    """Nothing but a reason to acknowledge the packet."""


Chunk = AckChunk | StreamChunk | FragmentChunk | EndChunk | PingChunk


class Packet(msgspec.Struct, frozen=True):
    """One packet."""

    number: int
    chunks: list[Chunk]

    @property
    def is_eliciting(self) -> bool:
        """Whether it wants to be acknowledged: it holds something else than an acknowledgement."""
        return any(not isinstance(chunk, AckChunk) for chunk in self.chunks)


def encode_head(number: int) -> bytes:
    """What a packet begins with."""
    return _HEAD.pack(PACKET_VERSION, number)


def encode_ack(ranges: Iterable[tuple[int, int]], *, delay_us: int, limit: int) -> bytes:
    """An acknowledgement of half-open ranges, from the highest down."""
    (first, end), *more = ranges
    more = more[: limits.MAX_ACK_RANGES - 1]
    # What does not fit four bytes is told in part: the highest of it.
    first = max(first, end - _MAX_UINT32)
    parts = []
    below = first
    for low, high in more:
        gap = below - high
        if gap > _MAX_UINT32:
            break
        below = max(low, high - _MAX_UINT32)
        parts.append(_RANGE.pack(gap, high - below))
    head = _ACK.pack(_KIND_ACK, end - 1, limit, min(delay_us, _MAX_UINT32), len(parts), end - first)
    return head + b"".join(parts)


def encode_stream(offset: int, data: bytes) -> bytes:
    """Bytes of the stream."""
    return _STREAM.pack(_KIND_STREAM, offset, len(data)) + data


def encode_fragment(*, number: int, after: int, total: int, offset: int, data: bytes) -> bytes:
    """A piece of an unreliable message."""
    return _FRAGMENT.pack(_KIND_FRAGMENT, number, after, total, offset, len(data)) + data


def encode_end(offset: int) -> bytes:
    """Where the stream ends."""
    return _END.pack(_KIND_END, offset)


def encode_ping() -> bytes:
    """Something to acknowledge."""
    return bytes([_KIND_PING])


def decode_packet_untrusted(data: bytes) -> Packet:
    """Decode one packet.

    Raises:
        DecodeError: `bad_packet`, or `packet_too_large`.
    """
    if len(data) > limits.MAX_PACKET_BYTES:
        raise DecodeError("packet_too_large", f"a packet of {len(data)} bytes; at most {limits.MAX_PACKET_BYTES}")
    if len(data) <= _HEAD.size:
        raise DecodeError("bad_packet", f"a packet of {len(data)} bytes")
    version, number = _HEAD.unpack_from(data)
    if version != PACKET_VERSION:
        raise DecodeError("bad_packet", f"packet version {version}, not {PACKET_VERSION}")
    _check_number(number)
    chunks: list[Chunk] = []
    has_ack = False
    at, end = _HEAD.size, len(data)
    while at < end:
        if len(chunks) == limits.MAX_PACKET_CHUNKS:
            raise DecodeError("bad_packet", f"more than {limits.MAX_PACKET_CHUNKS} chunks")
        reader = _READERS.get(data[at])
        if reader is None:
            raise DecodeError("bad_packet", f"unknown chunk kind {data[at]}")
        try:
            chunk, at = reader(data, at + 1)
        except struct.error:
            raise DecodeError("bad_packet", "a chunk is cut short") from None
        if isinstance(chunk, AckChunk):
            if has_ack:  # each costs as many steps as there are packets in flight
                raise DecodeError("bad_packet", "two acknowledgements in one packet")
            has_ack = True
        chunks.append(chunk)
    return Packet(number, chunks)


def _check_number(number: int) -> None:
    if number >= MAX_NUMBER:
        raise DecodeError("bad_packet", f"the number {number} is out of range")


def _read_ack(data: bytes, at: int) -> tuple[AckChunk, int]:
    largest, limit, delay_us, count, length = _ACK_BODY.unpack_from(data, at)
    at += _ACK_BODY.size
    _check_number(largest)
    _check_number(limit)
    if count >= limits.MAX_ACK_RANGES:
        raise DecodeError("bad_packet", f"{count + 1} ranges acknowledged at once")
    first = largest + 1 - length
    ranges = [(first, largest + 1)]
    if length == 0:
        raise DecodeError("bad_packet", "an empty range is acknowledged")
    for _ in range(count):
        gap, length = _RANGE.unpack_from(data, at)
        at += _RANGE.size
        if gap == 0 or length == 0:
            raise DecodeError("bad_packet", "an empty range is acknowledged")
        ranges.append((first - gap - length, first - gap))
        first -= gap + length
    if first < 0:
        raise DecodeError("bad_packet", "packets below number 0 are acknowledged")
    return AckChunk(tuple(ranges), delay_us, limit), at


def _read_stream(data: bytes, at: int) -> tuple[StreamChunk, int]:
    offset, length = _STREAM_BODY.unpack_from(data, at)
    _check_number(offset + length)
    piece, at = _take(data, at + _STREAM_BODY.size, length)
    return StreamChunk(offset, piece), at


def _read_fragment(data: bytes, at: int) -> tuple[FragmentChunk, int]:
    number, after, total, offset, length = _FRAGMENT_BODY.unpack_from(data, at)
    _check_number(number)
    _check_number(after)
    if not 0 < total <= limits.MAX_UNRELIABLE_BYTES:
        raise DecodeError("bad_packet", f"an unreliable message of {total} bytes")
    if offset + length > total:
        raise DecodeError("bad_packet", "a fragment reaches beyond its message")
    piece, at = _take(data, at + _FRAGMENT_BODY.size, length)
    return FragmentChunk(number, after, total, offset, piece), at


def _read_end(data: bytes, at: int) -> tuple[EndChunk, int]:
    (offset,) = _END_BODY.unpack_from(data, at)
    _check_number(offset)
    return EndChunk(offset), at + _END_BODY.size


def _read_ping(data: bytes, at: int) -> tuple[PingChunk, int]:
    del data
    return PingChunk(), at


def _take(data: bytes, at: int, length: int) -> tuple[bytes, int]:
    if length == 0:
        raise DecodeError("bad_packet", "a chunk without data")
    piece = data[at : at + length]
    if len(piece) != length:
        raise DecodeError("bad_packet", "a chunk is cut short")
    return piece, at + length


_READERS: Final[dict[int, Callable[[bytes, int], tuple[Chunk, int]]]] = {
    _KIND_ACK: _read_ack,
    _KIND_STREAM: _read_stream,
    _KIND_FRAGMENT: _read_fragment,
    _KIND_END: _read_end,
    _KIND_PING: _read_ping,
}
