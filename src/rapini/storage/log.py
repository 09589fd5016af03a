"""The writing end of a spool: records gather in memory, and whoever syncs first writes them for all who wait.

On `segments` and `records`. **Group commit**: while one caller is in fsync(2), which releases the interpreter, others
append; whoever wants those on the disk waits, and then one of them writes all that gathered. So the cost of an fsync is
shared by as many as come in its time, without a delay of our own.

A segment's file is written by `sync` alone, always whole records and an fsync after them: what lies in a file is what
was synced, but for one run in the making. Until that is on the disk it stays in memory too.

**After a failed fsync** nothing is known of the file's pages: the kernel may have dropped them and call the next fsync
a success (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020; PostgreSQL's "fsyncgate").
So the segment is given up: it is cut back to what was synced before, nothing is written to it any more, and the next
`sync` writes the run to a new segment. Its caller was told that it failed; nothing counts as durable until a sync
succeeds.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from rapini.errors import LocalError, StoreError
from rapini.limits import MAX_TOPIC_BYTES
from rapini.storage.files import FileSystem, store_error, write_all
from rapini.storage.reading import Place
from rapini.storage.records import HEADER_BYTES, MAX_DATA_BYTES, encode_header
from rapini.storage.segments import SEGMENT_HEADER_BYTES, Segment, SegmentHeader, SegmentIndex, segment_path

__all__ = ["MAX_SKIP", "MAX_UNSYNCED_BYTES", "FsyncPolicy", "SegmentLog"]

FsyncPolicy = Literal["group", "always", "never"]

MAX_UNSYNCED_BYTES: Final = 8 * 1024 * 1024
"""What may gather in memory; an `append` beyond it syncs first."""

MAX_SKIP: Final = 2**40
"""How many numbers `skip_to` passes over at most: it acts on a peer's word, and they must not be used up by it."""

_MAX_SEQUENCE: Final = 2**63 - 1
"""What SQLite can keep as a position."""


class SegmentLog:
    """Appends and syncs. Thread: any.

    Args:
        files: The file system.
        folder: Where the segments are.
        index: Those that are there already.
        stream_id: For the segments' headers.
        marker: For the records.
        next_sequence: The number of the first event to come.
        max_bytes: Bound on all segments and what gathered.
        segment_bytes: A segment that has so many is not written to any more.
        fsync: `group`: sync writes and fsyncs. `always`: so does every append. `never`: sync only writes.
    """

    def __init__(
        self,
        *,
        files: FileSystem,
        folder: Path,
        index: SegmentIndex,
        stream_id: bytes,
        marker: bytes,
        next_sequence: int,
        max_bytes: int,
        segment_bytes: int,
        fsync: FsyncPolicy,
    ) -> None:
        self.changed = threading.Condition(threading.Lock())
        """Guards the index and every field here; notified when the disk is free again."""
        self.index = index
        self.next_sequence = next_sequence
        self.synced_sequence = next_sequence
        self.syncs = 0
        """Runs written."""
        self.segment_bytes = segment_bytes
        self._files = files
        self._folder = folder
        self._stream_id = stream_id
        self._marker = marker
        self._max_bytes = max_bytes
        self._fsync = fsync
        self._next_serial = index.next_serial
        self._pending: list[bytes] = []  # header, topic and data of each record in turn
        self._pending_bytes = 0
        self._run_bytes = 0  # of the run that is being written
        self._busy = False  # somebody has the disk
        self._failures = 0
        self._failure: StoreError | None = None
        self._active: tuple[Segment, int] | None = None  # the segment written to, and its handle
        self._one_by_one = threading.Lock()  # appends under `always`
        self._is_open = True

    # --- Any thread ----------------------------------------------------------------------------------------------

    @property
    def size_bytes(self) -> int:
        """Bytes of all segments and of what gathered."""
        return self.index.size_bytes + self._pending_bytes + self._run_bytes

    def append(self, count: int, topic: str, data: bytes) -> int:
        """See `Spool.append`."""
        name = topic.encode()
        if not 0 < count < 2**32 or len(name) > MAX_TOPIC_BYTES or len(data) > MAX_DATA_BYTES:
            raise LocalError(
                "not_storable", f"a record of {count} events, {len(data)} bytes, topic of {len(name)} bytes"
            )
        if self._fsync == "always":
            with self._one_by_one:
                sequence = self._put(count, name, data)
                try:
                    self.sync()
                except StoreError:
                    if self._withdraw(sequence, count, data):
                        raise
                return sequence
        return self._put(count, name, data)

    def sync(self) -> int:
        """See `Spool.sync`."""
        with self.changed:
            self._check_open()
            return self._sync_to(self.next_sequence)

    def skip_to(self, sequence: int) -> bool:
        """Go on with a later number; false if the next one is as high. The numbers between are in no record."""
        with self.changed:
            self._check_open()
            if sequence - self.next_sequence > MAX_SKIP:
                raise LocalError("not_storable", f"from {self.next_sequence} to {sequence}: that is no loss")
            if sequence <= self.next_sequence:
                return False
            self.next_sequence = sequence
            return True

    def place_of(self, sequence: int) -> Place | int | None:
        """Where an event is; the oldest number that is there, if it was trimmed; `None` if it is not synced."""
        with self.changed:
            self._check_open()
            if sequence >= self.synced_sequence:
                return None
            found = self.index.find(sequence)
            if found is None:
                return self.index.oldest.first if self.index else self.synced_sequence
            segment, end = found
            end = self.synced_sequence if end is None else end
            try:
                handle = self._files.open(segment.path)
            except FileNotFoundError:
                return Place(segment, 0, None, end)
            except OSError as error:
                raise store_error(error, "unreadable", "opening a segment", segment.path) from error
            return Place(segment, segment.size, handle, end)

    # --- For the spool: with the disk to oneself -----------------------------------------------------------------

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep others from writing to the disk, and wait until none does. They may append meanwhile."""
        with self.changed:
            self._check_open()
            self._take_disk()
        try:
            yield
        finally:
            with self.changed:
                self._free_disk()

    def seal(self) -> None:
        """Write to the newest segment no more. While `alone`."""
        if self._active is not None:
            _, handle = self._active
            self._active = None
            self._files.close(handle)

    def remove(self, segment: Segment) -> None:
        """Remove a segment's file, and forget it. While `alone`; raises `StoreError`."""
        try:
            self._files.remove(segment.path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise store_error(error, "write_failed", "removing a segment", segment.path) from error
        with self.changed:
            self.index.discard(segment)

    def sync_folder(self) -> None:
        """Make removals durable; raises `StoreError`."""
        try:
            self._files.sync_folder(self._folder)
        except OSError as error:
            raise store_error(error, "sync_failed", "syncing the folder", self._folder) from error

    def close(self) -> None:
        """Refuse everything from now on."""
        with self.changed:
            while self._busy:
                self.changed.wait()
            self._is_open = False
            self.seal()

    # --- Inside --------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if not self._is_open:
            raise LocalError("closed", "the spool is closed")

    def _take_disk(self) -> None:
        while self._busy:
            self.changed.wait()
        self._check_open()
        self._busy = True

    def _free_disk(self) -> None:
        self._busy = False
        self.changed.notify_all()

    def _put(self, count: int, topic: bytes, data: bytes) -> int:
        size = HEADER_BYTES + len(topic) + len(data)
        with self.changed:
            self._check_open()
            if self.size_bytes + size + SEGMENT_HEADER_BYTES > self._max_bytes:
                text = f"the spool has its {self._max_bytes} bytes"
                raise StoreError(
                    "spool_full", text, path=str(self._folder), remedy="let consumers acknowledge, or trim"
                )
            if self._pending and self._pending_bytes + size > MAX_UNSYNCED_BYTES:
                self._sync_to(self.next_sequence)
                self._check_open()
            sequence = self.next_sequence
            if sequence + count > _MAX_SEQUENCE:
                raise StoreError("spool_full", "the sequence numbers are used up", path=str(self._folder))
            self._pending += (encode_header(self._marker, sequence, count, topic, data), topic, data)
            self._pending_bytes += size
            self.next_sequence = sequence + count
            return sequence

    def _withdraw(self, sequence: int, count: int, data: bytes) -> bool:
        """Take back the last record, whose sync failed; false if somebody else's has made it durable meanwhile."""
        with self.changed:
            while self._busy:
                self.changed.wait()
            if self.synced_sequence > sequence:
                return False
            header, topic, _ = self._pending[-3:]
            del self._pending[-3:]
            self._pending_bytes -= len(header) + len(topic) + len(data)
            if self.next_sequence == sequence + count:  # unless numbers were skipped meanwhile
                self.next_sequence = sequence
            return True

    def _sync_to(self, target: int) -> int:
        """Under the lock, which is let go while waiting and writing."""
        failures = self._failures
        while self.synced_sequence < min(target, self.next_sequence):  # less, if `always` took something back
            if self._busy:
                self.changed.wait()
                self._check_open()
                if self._failures != failures and self.synced_sequence < target:
                    assert self._failure is not None
                    failure = self._failure
                    raise StoreError(failure.code, failure.detail, path=failure.path, remedy=failure.remedy)
            else:
                self._write_run()
        return self.synced_sequence

    def _write_run(self) -> None:
        """Write all that gathered, as one run. Under the lock, which is let go meanwhile."""
        if not self._pending:  # numbers were skipped, that is all
            self.synced_sequence = self.next_sequence
            return
        self._busy = True
        pieces, self._pending = self._pending, []
        first, end = self.synced_sequence, self.next_sequence
        size, self._pending_bytes = self._pending_bytes, 0
        self._run_bytes = size
        written: tuple[Segment, int] | None = None
        self.changed.release()
        try:
            written = self._write(first, b"".join(pieces))
        except BaseException as error:
            interrupted = StoreError("sync_failed", "the sync was interrupted", path=str(self._folder))
            self._failure = error if isinstance(error, StoreError) else interrupted
            raise
        finally:
            self.changed.acquire()
            self._run_bytes = 0
            if written is None:
                self._failures += 1
                self._pending[:0] = pieces
                self._pending_bytes += size
            else:
                self._account(*written)
                self.synced_sequence = end
                self.syncs += 1
            self._free_disk()

    def _account(self, segment: Segment, size: int) -> None:
        if segment.size:
            self.index.grow(segment, size)
        else:
            segment.size = size
            self.index.add(segment)

    def _write(self, first: int, data: bytes) -> tuple[Segment, int]:
        """Write and fsync a run; the segment that has it now, and how much longer that is. Without the lock."""
        if self._active is not None and self._active[0].size >= self.segment_bytes:
            self.seal()
        if self._active is None:
            return self._begin(first, data)
        segment, handle = self._active
        try:
            write_all(self._files, handle, segment.size, data)
        except OSError as error:
            failure = store_error(error, "write_failed", "writing to the spool", segment.path)
            if not self._cut(handle, segment.size) or failure.code != "disk_full":
                self.seal()
            raise failure from error
        try:
            if self._fsync != "never":
                self._files.sync(handle)
        except OSError as error:
            self._cut(handle, segment.size)
            self.seal()
            raise store_error(error, "sync_failed", "syncing the spool", segment.path) from error
        return segment, len(data)

    def _begin(self, first: int, data: bytes) -> tuple[Segment, int]:
        """Begin a segment with a run."""
        serial, self._next_serial = self._next_serial, self._next_serial + 1
        header = SegmentHeader(stream_id=self._stream_id, marker=self._marker, first=first, serial=serial)
        data = header.encode() + data
        path = segment_path(self._folder, first, serial)
        doing = "writing to the spool"
        handle: int | None = None
        try:
            handle = self._files.create(path)
            write_all(self._files, handle, 0, data)
            if self._fsync != "never":
                doing = "syncing the spool"
                self._files.sync(handle)
                self._files.sync_folder(self._folder)
        except OSError as error:
            if handle is not None:
                self._abandon(path, handle)
            raise store_error(error, "sync_failed" if "sync" in doing else "write_failed", doing, path) from error
        segment = Segment(path=path, first=first, serial=serial, size=0)
        self._active = (segment, handle)
        return segment, len(data)

    def _abandon(self, path: Path, handle: int) -> None:
        """Give up a segment that has nothing synced, so that it does not look as if it had."""
        self._cut(handle, 0)
        self._files.close(handle)
        try:
            self._files.remove(path)
        except OSError:
            pass

    def _cut(self, handle: int, size: int) -> bool:
        """Cut a file back to what was synced; a crash before the next sync must not find the rest and trust it."""
        try:
            self._files.truncate(handle, size)
        except OSError:
            return False
        return True
