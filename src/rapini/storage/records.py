"""How records lie in a segment, and how the next good one is found after a damaged one.

On nothing; sans-IO. A record is a header of 32 bytes, the topic and the data, one after the other without padding, so
that every byte belongs to something that is checked (integers little-endian):

    offset  bytes  field
    0       8      marker: random, the same in all records of one spool, known to nobody else
    8       4      CRC-32 of everything after it: the rest of the header, the topic, the data
    12      4      length of the data
    16      8      sequence number of the first event
    24      4      number of events
    28      1      kind: 1, events
    29      1      length of the topic
    30      2      0
    32             topic (UTF-8), data

**Resynchronizing.** A length that fails its checksum cannot be trusted, so the next record is looked for by its marker,
byte by byte. The marker is random so that nobody can put a record into an event's data that would be taken for ours
when the record around it is damaged. Avro's and Hadoop's files have such markers for the same purpose.

**Checksum.** `zlib.crc32`, the CRC-32 of Ethernet and gzip: it finds every error burst of up to 32 bits, which a
flipped bit and a torn byte are, and others but for one in 2^32. It runs at 4 GB/s here and needs nothing beside the
standard library; CRC-32C, which iSCSI and ext4 prefer, is not in it. It is no protection against an attacker who can
write to the folder; nothing here is.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Final
from zlib import crc32

import msgspec

from rapini.limits import MAX_FRAME_BYTES

__all__ = ["HEADER_BYTES", "MARKER_BYTES", "MAX_DATA_BYTES", "Junk", "Stored", "encode_header", "scan"]

_HEADER: Final = struct.Struct("<8sIIQIBBH")
_CHECKED: Final = struct.Struct("<IQIBBH")  # what the checksum covers of the header
_EVENTS: Final = 1

HEADER_BYTES: Final = _HEADER.size
MARKER_BYTES: Final = 8
_CHECK_AT: Final = MARKER_BYTES
_CHECKED_AT: Final = MARKER_BYTES + 4

MAX_DATA_BYTES: Final = MAX_FRAME_BYTES
"""Largest data of one record: one batch."""

_CHUNK_BYTES: Final = 256 * 1024
"""Bytes read at a time."""


class Stored(msgspec.Struct, frozen=True):
    """A good record, where it lies."""

    offset: int
    end: int
    """Offset after its last byte."""
    sequence: int
    count: int
    topic: str
    data: bytes


class Junk(msgspec.Struct, frozen=True):
    """Bytes that are no record, up to the next good one or the end."""

    offset: int
    end: int


def encode_header(marker: bytes, sequence: int, count: int, topic: bytes, data: bytes) -> bytes:
    """The header of a record, which `topic` and `data` follow."""
    checked = _CHECKED.pack(len(data), sequence, count, _EVENTS, len(topic), 0)
    check = crc32(data, crc32(topic, crc32(checked)))
    return b"%b%b%b" % (marker, check.to_bytes(4, "little"), checked)


class _Window:
    """A part of a file in memory, which moves forward."""

    def __init__(self, read: Callable[[int, int], bytes], limit: int) -> None:
        self._read = read
        self._limit = limit
        self._base = 0
        self._data = b""

    def get(self, offset: int, length: int) -> memoryview:
        """`length` bytes, or fewer where the file is shorter."""
        start = offset - self._base
        if start < 0 or start + length > len(self._data):
            self._load(offset, length)
            start = 0
        return memoryview(self._data)[start : start + length]

    def find(self, marker: bytes, offset: int) -> int:
        """Where the marker is next, or -1."""
        while True:
            available = len(self.get(offset, min(_CHUNK_BYTES, self._limit - offset)))
            start = offset - self._base
            found = self._data.find(marker, start)
            if found >= 0:
                return self._base + found
            if available <= len(marker) or offset + available >= self._limit:
                return -1
            offset = self._base + len(self._data) - len(marker) + 1

    def _load(self, offset: int, length: int) -> None:
        wanted = min(max(length, _CHUNK_BYTES), max(self._limit - offset, 0))
        self._base = offset
        parts = []
        while wanted > 0:
            part = self._read(offset, wanted)
            if not part:
                break
            parts.append(part)
            offset += len(part)
            wanted -= len(part)
        self._data = parts[0] if len(parts) == 1 else b"".join(parts)


def _parse(window: _Window, marker: bytes, offset: int, limit: int) -> Stored | None:
    head = window.get(offset, HEADER_BYTES)
    if len(head) < HEADER_BYTES:
        return None
    its_marker, check, length, sequence, count, kind, topic_length, zero = _HEADER.unpack(head)
    end = offset + HEADER_BYTES + topic_length + length
    if its_marker != marker or length > MAX_DATA_BYTES or end > limit:
        return None
    record = window.get(offset, end - offset)
    if len(record) < end - offset or crc32(record[_CHECKED_AT:]) != check:
        return None
    if kind != _EVENTS or zero or not count:  # ours is written so; anything else is a chance in 2^32
        return None
    data_at = HEADER_BYTES + topic_length
    try:
        topic = str(record[HEADER_BYTES:data_at], "utf-8")
    except UnicodeDecodeError:
        return None
    return Stored(offset, end, sequence, count, topic, bytes(record[data_at:]))


def scan(read: Callable[[int, int], bytes], marker: bytes, offset: int, limit: int) -> Iterator[Stored | Junk]:
    """Read the records of a segment in order, and what lies between them.

    Args:
        read: Bytes at (offset, length); fewer at the end of the file.
        marker: The spool's.
        offset: Where a record begins.
        limit: Where the last one ended. Bytes missing before it are junk, too.
    """
    window = _Window(read, limit)
    while offset < limit:
        record = _parse(window, marker, offset, limit)
        if record is not None:
            yield record
            offset = record.end
            continue
        good = offset
        while True:
            good = window.find(marker, good + 1)
            if good < 0 or _parse(window, marker, good, limit) is not None:
                break
        yield Junk(offset, limit if good < 0 else good)
        offset = limit if good < 0 else good
