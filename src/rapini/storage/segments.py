"""The files that a spool's records lie in, and the index of them: one small object a file, whatever is in it.

On `files` and `records`. A segment is named `<first>-<serial>.segment`: the sequence number it begins with, and a
number that no other file of the spool ever had. It holds the numbers from its own first to the next segment's first;
what lies in it beyond that is no longer true (a segment whose fsync failed is given up, and its tail is written anew to
the next one, under the same numbers). So names alone say which file has what, and a file's loss shows.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from pathlib import Path
from typing import Final
from zlib import crc32

import msgspec

from rapini.storage.files import FileSystem

__all__ = ["SEGMENT_HEADER_BYTES", "Segment", "SegmentHeader", "SegmentIndex", "segment_path"]

_SUFFIX: Final = ".segment"
_HEADER: Final = struct.Struct("<8s16s8sQII")
_MAGIC: Final = b"rapini\x00\x01"  # the last byte is the format's version
SEGMENT_HEADER_BYTES: Final = _HEADER.size


class SegmentHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What a segment begins with: enough to know whose it is if the state is lost. Reading records needs none of it."""

    stream_id: bytes
    marker: bytes
    first: int
    serial: int

    def encode(self) -> bytes:
        """As it is on disk."""
        packed = _HEADER.pack(_MAGIC, self.stream_id, self.marker, self.first, self.serial, 0)[:-4]
        return packed + crc32(packed).to_bytes(4, "little")

    @classmethod
    def decode(cls, data: bytes) -> SegmentHeader | None:
        """From the first bytes of a file; `None` if they are not a good header."""
        if len(data) < SEGMENT_HEADER_BYTES:
            return None
        magic, stream_id, marker, first, serial, check = _HEADER.unpack_from(data)
        if magic != _MAGIC or check != crc32(data[: SEGMENT_HEADER_BYTES - 4]):
            return None
        return cls(stream_id=stream_id, marker=marker, first=first, serial=serial)


class Segment(msgspec.Struct, kw_only=True, eq=False):
    """One file."""

    path: Path
    first: int
    """Sequence number that it begins with."""
    serial: int
    size: int
    """Bytes of it that are known to be written whole; the rest of the file, if there is more, does not count."""


def segment_path(folder: Path, first: int, serial: int) -> Path:
    """Where a segment lies."""
    return folder / f"{first:020d}-{serial:08d}{_SUFFIX}"


def _numbers(name: str) -> tuple[int, int] | None:
    first, dash, serial = name.removesuffix(_SUFFIX).partition("-")
    if not name.endswith(_SUFFIX) or not dash or len(first) != 20 or len(serial) < 8:
        return None
    return (int(first), int(serial)) if (first + serial).isdecimal() and name.isascii() else None


class SegmentIndex:
    """The segments in order. Thread: under its owner's lock."""

    def __init__(self) -> None:
        self._segments: list[Segment] = []
        self._firsts: list[int] = []
        self.size_bytes = 0
        """All segments together."""

    @classmethod
    def of_folder(cls, files: FileSystem, folder: Path) -> SegmentIndex:
        """Find the segments of a folder.

        Raises:
            OSError: A segment cannot be opened.
        """
        index = cls()
        for first, serial in sorted(found for name in files.names(folder) if (found := _numbers(name))):
            path = segment_path(folder, first, serial)
            handle = files.open(path)
            try:
                size = files.size(handle)
            finally:
                files.close(handle)
            index.add(Segment(path=path, first=first, serial=serial, size=size))
        return index

    def __len__(self) -> int:
        return len(self._segments)

    def __bool__(self) -> bool:
        return bool(self._segments)

    @property
    def oldest(self) -> Segment:
        """The first segment; there must be one."""
        return self._segments[0]

    @property
    def newest(self) -> Segment:
        """The last segment; there must be one."""
        return self._segments[-1]

    @property
    def next_serial(self) -> int:
        """A number greater than that of every segment here."""
        return max((segment.serial for segment in self._segments), default=-1) + 1

    def all(self) -> list[Segment]:
        """A copy of the list."""
        return list(self._segments)

    def add(self, segment: Segment) -> None:
        """Append a segment, whose numbers come after all others'."""
        assert not self._firsts or segment.first >= self._firsts[-1], "segments are added in order"
        self._segments.append(segment)
        self._firsts.append(segment.first)
        self.size_bytes += segment.size

    def grow(self, segment: Segment, size: int) -> None:
        """So much more of a segment is written."""
        segment.size += size
        self.size_bytes += size

    def discard(self, segment: Segment) -> None:
        """Forget a segment."""
        at = self._segments.index(segment)
        del self._segments[at], self._firsts[at]
        self.size_bytes -= segment.size

    def find(self, sequence: int) -> tuple[Segment, int | None] | None:
        """The segment that should have an event, and the next one's first number; `None` below the oldest."""
        at = bisect_right(self._firsts, sequence) - 1
        if at < 0:
            return None
        end = self._firsts[at + 1] if at + 1 < len(self._firsts) else None
        return self._segments[at], end

    def end_of(self, segment: Segment) -> int | None:
        """The number after a segment's last one, or `None` for the newest."""
        at = self._segments.index(segment) + 1
        return self._firsts[at] if at < len(self._firsts) else None
