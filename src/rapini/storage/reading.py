"""Reading a spool's records by sequence number, with what is missing told as holes and damages.

On `records` and `segments`. Every sequence number below the synced one is either in a record or in a hole; the walk
through a segment counts them, so nothing can be missing in silence. Memory: one chunk of a file, and for up to 256
readers where they stopped.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec

from rapini.storage.files import FileSystem
from rapini.storage.records import Junk, Stored, scan
from rapini.storage.segments import SEGMENT_HEADER_BYTES, Segment

__all__ = ["Damage", "Damages", "Hole", "HoleReason", "Missing", "Record", "RecordReader", "reading", "walk"]

_MAX_CURSORS: Final = 256
_MAX_DAMAGES: Final = 1000
_MAX_SKIPPED_BYTES: Final = 4 * 1024 * 1024
"""Bytes of records that do not match which one call of `read` looks at."""
_PAGE_BYTES: Final = 4096

HoleReason = Literal["damaged", "trimmed"]


class Record(msgspec.Struct, frozen=True):
    """A run of encoded events of one topic."""

    first_sequence: int
    count: int
    topic: str
    data: bytes


class Hole(msgspec.Struct, frozen=True):
    """Events that are no longer there, whatever their topics were."""

    first_sequence: int
    count: int
    reason: HoleReason
    """`damaged`, or `trimmed`: removed because nobody was owed them, or to make room (`drop_oldest`)."""


class Damage(msgspec.Struct, frozen=True):
    """Something on the disk is not as it was written."""

    file: Path
    offset: int
    """Where the bad bytes begin."""
    size: int
    """How many there are; 0 when the file ends, or goes on, where something is missing."""
    first_sequence: int
    count: int
    """Events lost; 0 where the bytes held none, or are kept twice."""


class Missing(msgspec.Struct, frozen=True):
    """A place in a segment where records should be."""

    sequence: int
    count: int
    offset: int
    size: int


class Damages:
    """The damages met so far, each once; the first thousand. Thread: under its owner's lock."""

    def __init__(self) -> None:
        self._met: dict[tuple[Path, int, int, int], Damage] = {}

    def add(self, damage: Damage) -> None:
        """Note a damage."""
        if len(self._met) < _MAX_DAMAGES:
            self._met.setdefault((damage.file, damage.offset, damage.first_sequence, damage.count), damage)

    def all(self) -> list[Damage]:
        """In the order in which they were met."""
        return list(self._met.values())


def reading(files: FileSystem, handle: int) -> Callable[[int, int], bytes]:
    """The function that `scan` reads with. What the disk cannot read are zeros: the pages around it are still good."""

    def read(offset: int, length: int) -> bytes:
        try:
            return files.read(handle, offset, length)
        except OSError:
            pass
        pages = []
        for at in range(offset, offset + length, _PAGE_BYTES):
            size = min(_PAGE_BYTES, offset + length - at)
            try:
                page = files.read(handle, at, size)
            except OSError:
                page = bytes(size)
            pages.append(page)
            if len(page) < size:
                break
        return b"".join(pages)

    return read


def walk(
    read: Callable[[int, int], bytes], marker: bytes, segment: Segment, *, offset: int, expected: int, end: int | None
) -> Iterator[Stored | Missing]:
    """The records of a segment from `offset` on, in order, each number once, and what is missing between them.

    Args:
        read: Reads the segment's file.
        marker: The spool's.
        segment: The segment.
        offset: Where to begin; a record that begins there begins with the number `expected`.
        expected: The first number.
        end: The number after the last one; `None` when that is to be found out.
    """
    bad_at: int | None = None
    for item in scan(read, marker, offset, segment.size):
        begins = item.offset if bad_at is None else bad_at
        # Numbers out of the segment's range: the tail of one that was given up, written anew to the next.
        if isinstance(item, Junk) or item.sequence < expected or (end is not None and item.sequence + item.count > end):
            bad_at = begins
            continue
        if item.sequence > expected:
            yield Missing(expected, item.sequence - expected, begins, item.offset - begins)
        bad_at = None
        expected = item.sequence + item.count
        yield item
        if expected == end:
            return
    if end is not None and expected < end:
        begins = segment.size if bad_at is None else bad_at
        yield Missing(expected, end - expected, begins, max(segment.size - begins, 0))


class Place(msgspec.Struct, frozen=True):
    """Where to look for a number: an open handle on its segment, and the number after the segment's last synced one."""

    segment: Segment
    size: int
    handle: int | None
    """`None` if the file is gone; `size` is 0 then."""
    end: int


class RecordReader:
    """Reads for any number of consumers. Thread: any.

    Args:
        files: The file system.
        marker: The spool's.
        locate: Answers where a number lies: a place, or the first number that is there (for one that was trimmed), or
            `None` for one that is not synced.
        damaged: Told of every damage.
    """

    def __init__(
        self,
        files: FileSystem,
        marker: bytes,
        locate: Callable[[int], Place | int | None],
        damaged: Callable[[Damage], None],
    ) -> None:
        self._files = files
        self._marker = marker
        self._locate = locate
        self._damaged = damaged
        self._lock = threading.Lock()  # for the cursors
        self._cursors: OrderedDict[int, tuple[int, int]] = OrderedDict()  # number -> (segment's serial, offset)

    def read(self, position: int, prefixes: tuple[str, ...], max_bytes: int) -> tuple[list[Record | Hole], int]:
        """See `Spool.read`."""
        taking = _Taking(prefixes, max_bytes, position)
        while not taking.is_full:
            place = self._locate(taking.position)
            if place is None:
                break
            if isinstance(place, int):
                taking.hole(taking.position, place - taking.position, "trimmed")
                continue
            try:
                self._read_segment(place, taking)
            finally:
                self._close(place)
        return taking.items, taking.position

    def check(self, position: int) -> int | None:
        """Read all of the segment that has `position`, noting damages; the number after it, `None` beyond the last."""
        place = self._locate(position)
        if place is None or isinstance(place, int):
            return place
        try:
            for item in self._walk(place, SEGMENT_HEADER_BYTES, place.segment.first):
                if isinstance(item, Missing):
                    self._note(place.segment, item)
        finally:
            self._close(place)
        return place.end

    def _close(self, place: Place) -> None:
        if place.handle is not None:
            self._files.close(place.handle)

    def _walk(self, place: Place, offset: int, expected: int) -> Iterator[Stored | Missing]:
        segment = msgspec.structs.replace(place.segment, size=place.size)  # the writer may be at work on the other one
        read = reading(self._files, -1 if place.handle is None else place.handle)
        return walk(read, self._marker, segment, offset=offset, expected=expected, end=place.end)

    def _note(self, segment: Segment, missing: Missing) -> None:
        self._damaged(
            Damage(
                file=segment.path,
                offset=missing.offset,
                size=missing.size,
                first_sequence=missing.sequence,
                count=missing.count,
            )
        )

    def _read_segment(self, place: Place, taking: _Taking) -> None:
        with self._lock:
            serial, offset = self._cursors.get(taking.position, (-1, 0))
        expected = taking.position
        if serial != place.segment.serial:
            offset, expected = SEGMENT_HEADER_BYTES, place.segment.first
        for item in self._walk(place, offset, expected):
            if isinstance(item, Missing):
                self._note(place.segment, item)
                taking.hole(item.sequence, item.count, "damaged")
            elif not taking.record(item):
                self._remember(taking.position, place.segment.serial, item.offset)
                return
            else:
                offset = item.end
        self._remember(taking.position, place.segment.serial, offset)

    def _remember(self, position: int, serial: int, offset: int) -> None:
        with self._lock:
            self._cursors[position] = (serial, offset)
            self._cursors.move_to_end(position)
            while len(self._cursors) > _MAX_CURSORS:
                self._cursors.popitem(last=False)


class _Taking:
    """What one call of `read` has gathered."""

    def __init__(self, prefixes: tuple[str, ...], max_bytes: int, position: int) -> None:
        self.items: list[Record | Hole] = []
        self.position = position
        self.is_full = False
        self._prefixes = prefixes
        self._left = max_bytes
        self._has_record = False
        self._to_skip = _MAX_SKIPPED_BYTES

    def hole(self, first: int, count: int, reason: HoleReason) -> None:
        """Events are missing; only what is not before the position matters."""
        end = first + count
        first = max(first, self.position)
        if first >= end:
            return
        last = self.items[-1] if self.items else None
        if isinstance(last, Hole) and last.reason == reason and last.first_sequence + last.count == first:
            self.items[-1] = Hole(last.first_sequence, end - last.first_sequence, reason)
        else:
            self.items.append(Hole(first, end - first, reason))
        self.position = end

    def record(self, stored: Stored) -> bool:
        """Take or skip a record; false if it has to wait for the next call."""
        end = stored.sequence + stored.count
        if end <= self.position:
            return True
        if not stored.topic.startswith(self._prefixes):
            if self._to_skip <= 0:
                self.is_full = True
                return False
            self._to_skip -= stored.end - stored.offset
        else:
            size = len(stored.data)
            if self.is_full or (self._left < size and self._has_record):
                self.is_full = True
                return False
            self.items.append(Record(stored.sequence, stored.count, stored.topic, stored.data))
            self._has_record = True
            self._left -= size
            self.is_full = self._left <= 0
        self.position = end
        return True
