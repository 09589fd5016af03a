"""The thread that writes one log: a bounded queue in front, a file behind, and every event accounted for.

On `formats` and `threads`, below `manager`. `LogWriter` has a front (any thread: `write`, `flush`, `statistics`) and
hooks that run on its own thread; a backend implements the hooks. `TsvWriter` and `JsonWriter` write files as Zeek's
ASCII writer does, with three differences: one `write()` for a batch, never over an existing file unless told to, and
after a failure the file ends with a whole record, and the count of what it lacks is exact.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Final, TypedDict, Unpack

from rapini.errors import LogError
from rapini.events import Event
from rapini.logs.formats import JsonFormatter, RowFormatter, TsvFormatter
from rapini.logs.rows import compile_cost
from rapini.logs.schema import LogSchema
from rapini.threads import LockedQueue, MessageThread, Overflow, Queue, ThreadFailure, ThreadState

__all__ = ["FileWriter", "JsonWriter", "LogFailure", "LogStatistics", "LogWriter", "LossCause", "TsvWriter"]

_diagnostics = logging.getLogger("rapini.logs")

MAX_BATCH_EVENTS: Final = 2048
"""Events rendered and written at a time: some 300 KB of text, and what a hung or failed write has in hand."""

QUEUE_BYTES: Final = 32 * 1024 * 1024
"""Default bound of a writer's queue: about 30,000 connections."""


class LossCause(Enum):
    """Why an event did not get into its log."""

    OVERFLOW = "overflow"
    """The queue was full."""
    UNRENDERABLE = "unrenderable"
    """A value was not of its field's type."""
    FAILED = "failed"
    """The writer had failed, or did with this event in hand."""
    HUNG = "hung"
    """The writer did not end in time. (What it hung over may still reach the disk.)"""
    CLOSED = "closed"
    """It came after the log was closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFailure:
    """Why a log is no longer written. Its `code` is one of `LogError`'s, or `internal`."""

    path: str
    file: Path | None
    code: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogStatistics:
    """A log at one moment. At rest, `offered == written + lost + queued`."""

    path: str
    file: Path | None
    """The file, if it was made."""
    state: ThreadState
    offered: int
    """Events brought to the log."""
    written: int
    """Whole records given to the operating system."""
    written_bytes: int
    """Bytes in the file, header included."""
    queued: int
    """Events waiting for the writer."""
    dropped: dict[LossCause, int]
    """What was lost, by cause; causes without a loss are absent."""
    waits: int
    """How often a producer had to wait for room."""
    high_water_bytes: int
    """Most bytes that ever waited."""
    failure: LogFailure | None

    @property
    def lost(self) -> int:
        """All events that will not be in the log."""
        return sum(self.dropped.values())


class LogWriter(MessageThread[Event]):
    """Writes the events of one log on a thread of its own; the base of all backends.

    A backend implements `on_batch` (and `on_start`, `on_flush`, `on_heartbeat`, `on_finish` where it needs them) and
    tells `count_written` what it wrote. It raises `LogError` when it cannot go on.

    Args:
        schema: What the log consists of.
        name: The thread's name; `log:<path>` by default.
        queue: What stands between the front and the thread; by default a `LockedQueue` of `queue_bytes`.
        queue_bytes: Bound of the default queue, in bytes of memory.
        overflow: What happens when it is full.
        block_timeout_s: Longest that `write` waits for room under `Overflow.BLOCK`; `None` for as long as it takes.
        on_failure: Called once, on the writer's thread, when it fails.
    """

    def __init__(
        self,
        schema: LogSchema,
        *,
        name: str | None = None,
        queue: Queue[Event] | None = None,
        queue_bytes: int = QUEUE_BYTES,
        overflow: Overflow = Overflow.BLOCK,
        block_timeout_s: float | None = None,
        on_failure: Callable[[LogFailure], None] | None = None,
    ) -> None:
        if queue is None:
            queue = LockedQueue(max_items=queue_bytes, max_bytes=queue_bytes, overflow=overflow)
        super().__init__(name or f"log:{schema.path}", queue, max_batch_items=MAX_BATCH_EVENTS)
        self.schema = schema
        self._cost = compile_cost(schema)
        self._block_timeout_s = block_timeout_s
        self._on_failure = on_failure
        self._log_failure: LogFailure | None = None
        self._written = 0
        self._written_bytes = 0
        self._unrenderable = 0

    # --- The front: any thread -----------------------------------------------------------------------------------

    def write(self, events: Sequence[Event]) -> int:
        """Give the writer events of its schema; return how many were taken in, the rest is counted as lost.

        Returns at once for a closed, failed or hung writer. Any thread; order is kept for each calling thread.
        """
        if not events:
            return 0
        try:
            cost = self._cost(events)
        except Exception:  # noqa: BLE001 - a wrongly typed value: the renderer will count it as what it is
            cost = 1000 * len(events)
        return self.put_batch(events, -(-cost // len(events)), timeout_s=self._block_timeout_s)

    @property
    def file(self) -> Path | None:
        """The file, if there is one."""
        return None

    @property
    def log_failure(self) -> LogFailure | None:
        """Why the log is no longer written, or `None`. Any thread."""
        return self._log_failure

    def log_statistics(self) -> LogStatistics:
        """The log at this moment. Any thread."""
        thread = self.statistics()
        queue = thread.queue
        dropped = {LossCause.OVERFLOW: queue.dropped, LossCause.UNRENDERABLE: self._unrenderable}
        late = queue.refused + queue.discarded + thread.lost_in_hand
        if self.failure is not None:
            dropped[LossCause.FAILED] = late
        else:
            dropped[LossCause.HUNG if self.abandoned else LossCause.CLOSED] = late
        return LogStatistics(
            path=self.schema.path,
            file=self.file,
            state=thread.state,
            offered=queue.offered,
            written=self._written,
            written_bytes=self._written_bytes,
            queued=queue.items,
            dropped={cause: count for cause, count in dropped.items() if count},
            waits=queue.waits,
            high_water_bytes=queue.high_water_bytes,
            failure=self._log_failure,
        )

    # --- For backends: the writer's thread -----------------------------------------------------------------------

    def count_written(self, records: int, *, unrenderable: int = 0) -> None:
        """Say that so many of the events in hand are in the log, and so many never can be."""
        # Whoever gave us up has counted all in hand as lost; then it stays lost, whatever we still managed.
        self._unrenderable += self.settle(unrenderable)
        self._written += self.settle(records)

    def failed(self, failure: ThreadFailure) -> None:
        """Count what is lost, and tell."""
        super().failed(failure)
        told = LogFailure(path=self.schema.path, file=self.file, code=failure.code, detail=failure.detail)
        self._log_failure = told
        if self._on_failure is None:
            return
        try:
            self._on_failure(told)
        except Exception:  # noqa: BLE001 - the callback is the caller's; its fault must not hide the log's
            _diagnostics.exception("log_failure_callback_raised", extra={"log": self.schema.path})


class FileWriter(LogWriter):
    """Writes a log file by way of a `RowFormatter`. Takes `LogWriter`'s arguments besides its own.

    Args:
        formatter: Makes bytes of events.
        file: Where to write. Made when the first event comes, like Zeek's.
        force: Whether an existing file may be replaced.
        eager: Whether to make the file at once.
    """

    def __init__(
        self,
        formatter: RowFormatter,
        file: Path,
        *,
        force: bool = False,
        eager: bool = False,
        queue: Queue[Event] | None = None,
        queue_bytes: int = QUEUE_BYTES,
        overflow: Overflow = Overflow.BLOCK,
        block_timeout_s: float | None = None,
        on_failure: Callable[[LogFailure], None] | None = None,
    ) -> None:
        super().__init__(
            formatter.schema,
            queue=queue,
            queue_bytes=queue_bytes,
            overflow=overflow,
            block_timeout_s=block_timeout_s,
            on_failure=on_failure,
        )
        self._formatter = formatter
        self._target = file
        self._force = force
        self._eager = eager
        self._descriptor: int | None = None
        self._was_opened = False

    @property
    def file(self) -> Path | None:
        """The file, if it was made."""
        return self._target if self._was_opened else None

    def on_start(self) -> None:
        """Make the file, if that is not left to the first event."""
        if self._eager:
            self._open()

    def on_batch(self, batch: list[Event]) -> None:
        """Render and write one batch."""
        rendered = self._formatter.render(batch)
        descriptor = self._open()
        if self.abandoned:  # the open may have taken that long
            return
        self.count_written(0, unrenderable=rendered.failed)
        kept, error = self._append(descriptor, rendered.data)
        self.count_written(rendered.rows if error is None else rendered.data.count(b"\n", 0, kept))
        if error is not None:
            raise self._error(error) from error

    def on_flush(self) -> None:
        """Have the operating system put on disk what it has."""
        self._sync()

    def on_finish(self) -> None:
        """Write the last line, and close."""
        self.close_file()

    def on_abandoned(self) -> None:
        """Close the file as it is: its events are counted as lost."""
        self._let_go()

    def close_file(self) -> None:
        """End the file in order; the next event would begin a new one. (What a rotation does first.)"""
        if self._descriptor is None:
            return
        self._append_all(self._descriptor, self._formatter.footer(_local_time()))
        self._sync()
        descriptor, self._descriptor = self._descriptor, None
        self._checked(os.close, descriptor)

    def failed(self, failure: ThreadFailure) -> None:
        """Let go of the file, too."""
        self._let_go()
        super().failed(failure)

    def _sync(self) -> None:
        if self._descriptor is not None:
            self._checked(os.fsync, self._descriptor)

    def _let_go(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            try:
                os.close(descriptor)
            except OSError:
                pass  # what led here is being reported already

    def _open(self) -> int:
        if self._descriptor is not None:
            return self._descriptor
        how = os.O_TRUNC if self._force else os.O_EXCL
        try:
            descriptor = os.open(self._target, os.O_WRONLY | os.O_CREAT | how, 0o666)
        except OSError as error:
            raise self._error(error) from error
        self._descriptor = descriptor
        self._was_opened = True
        self._written_bytes = 0
        if not self.abandoned:
            self._append_all(descriptor, self._formatter.header(_local_time()))
        return descriptor

    def _append_all(self, descriptor: int, data: bytes) -> None:
        _, error = self._append(descriptor, data)
        if error is not None:
            raise self._error(error) from error

    def _append(self, descriptor: int, data: bytes) -> tuple[int, OSError | None]:
        """Write `data`; return how many bytes of it are in the file: whole lines only, after an error."""
        done = 0
        view = memoryview(data)
        try:
            while done < len(data):
                done += os.write(descriptor, view[done:])
        except OSError as error:
            kept = data.rfind(b"\n", 0, done) + 1
            self._written_bytes += kept
            if kept < done:
                try:
                    os.ftruncate(descriptor, self._written_bytes)
                except OSError:
                    pass  # the file then ends in part of a record, as after a crash
            return kept, error
        self._written_bytes += done
        return done, None

    def _checked(self, call: Callable[[int], None], descriptor: int) -> None:
        try:
            call(descriptor)
        except OSError as error:
            if call is os.fsync and error.errno in (errno.EINVAL, errno.ENOTSUP):
                return  # a pipe or a device: there is no disk to wait for
            raise self._error(error) from error

    def _error(self, error: OSError) -> LogError:
        code, remedy = _CODES.get(error.errno or 0, ("io_error", ""))
        return LogError(code, f"cannot write {self._target}: {os.strerror(error.errno or 0)}", remedy=remedy)


_CODES: Final[dict[int, tuple[str, str]]] = {
    errno.ENOSPC: ("disk_full", "free some space"),
    errno.EDQUOT: ("disk_full", "raise the quota or free some space"),
    errno.EFBIG: ("disk_full", "raise the file size limit"),
    errno.EEXIST: ("exists", "choose another folder, or allow overwriting"),
    errno.EACCES: ("unwritable", "check the folder's permissions"),
    errno.EPERM: ("unwritable", "check the folder's permissions"),
    errno.EROFS: ("unwritable", "choose a folder on a writable file system"),
    errno.ENOENT: ("unwritable", "make the folder"),
    errno.ENOTDIR: ("unwritable", "choose a folder"),
    errno.EISDIR: ("unwritable", "a folder is in the file's place"),
}


class WriterOptions(TypedDict, total=False):
    """Keyword arguments that `FileWriter` takes besides formatter and file; see there."""

    force: bool
    eager: bool
    queue: Queue[Event] | None
    queue_bytes: int
    overflow: Overflow
    block_timeout_s: float | None
    on_failure: Callable[[LogFailure], None] | None


class TsvWriter(FileWriter):
    """Writes a log as Zeek's default format has it. Arguments as for `FileWriter` and `LogWriter`."""

    def __init__(self, schema: LogSchema, file: Path, **options: Unpack[WriterOptions]) -> None:
        super().__init__(TsvFormatter(schema), file, **options)


class JsonWriter(FileWriter):
    """Writes a log as Zeek's JSON lines. Arguments as for `FileWriter` and `LogWriter`."""

    def __init__(self, schema: LogSchema, file: Path, **options: Unpack[WriterOptions]) -> None:
        super().__init__(JsonFormatter(schema), file, **options)


def _local_time() -> datetime:
    """Zeek's `#open` and `#close` are in local time."""
    return datetime.fromtimestamp(time.time()).astimezone()
