"""Routes events to logs: event type → schema → writer, each log on its own thread.

Top of this layer. The manager makes no decision about values; it finds the writer, keeps the account, and ends all
writers within one deadline.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rapini.errors import LocalError, LogError
from rapini.events import Event
from rapini.logs.formats import LogFormat
from rapini.logs.schema import LogSchema
from rapini.logs.writer import QUEUE_BYTES, JsonWriter, LogFailure, LogStatistics, LogWriter, TsvWriter
from rapini.threads import Lock, Overflow, ThreadManager

__all__ = ["LogManager", "LogReport"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogReport:
    """What became of all events, after `LogManager.close`: `offered == written + lost`."""

    logs: tuple[LogStatistics, ...]
    unrouted: Mapping[str, int]
    """Events of types without a log, by type name. They are in `lost`."""
    hung: tuple[str, ...]
    """Threads that did not end in time."""
    seconds: float
    """How long the close took."""

    @property
    def offered(self) -> int:
        """Events given to `log`."""
        return sum(log.offered for log in self.logs) + sum(self.unrouted.values())

    @property
    def written(self) -> int:
        """Events in the logs."""
        return sum(log.written for log in self.logs)

    @property
    def lost(self) -> int:
        """Events not in the logs."""
        return sum(log.lost for log in self.logs) + sum(self.unrouted.values())

    @property
    def failures(self) -> tuple[LogFailure, ...]:
        """Why logs failed, if any did."""
        return tuple(log.failure for log in self.logs if log.failure is not None)

    @property
    def is_complete(self) -> bool:
        """Whether every event is in its log, and every log was closed in order."""
        return not self.lost and not self.hung and not self.failures


class LogManager:
    """Writes events into log files below one folder. Close it, or use it as a context manager.

    Args:
        directory: Where the logs go; made if it does not exist.
        format: How they look.
        force: Whether existing files of the same names may be replaced.
        eager: Whether files are made at once; by default when their first event comes, like Zeek's.
        queue_bytes: Bound of each log's queue, in bytes of memory.
        overflow: What happens when it is full.
        block_timeout_s: Longest that `log` waits for room under `Overflow.BLOCK`; `None` for as long as it takes.
        on_failure: Called on a writer's thread when its log fails. The other logs go on.

    Raises:
        LogError: `unwritable`: the folder cannot be made, or not be written to.
    """

    def __init__(
        self,
        directory: Path,
        *,
        format: LogFormat = LogFormat.TSV,  # noqa: A002 - the word that the command line and the configuration use
        force: bool = False,
        eager: bool = False,
        queue_bytes: int = QUEUE_BYTES,
        overflow: Overflow = Overflow.BLOCK,
        block_timeout_s: float | None = None,
        on_failure: Callable[[LogFailure], None] | None = None,
    ) -> None:
        _make_folder(directory)
        self._directory = directory
        self._format = format
        self._force = force
        self._eager = eager
        self._queue_bytes = queue_bytes
        self._overflow = overflow
        self._block_timeout_s = block_timeout_s
        self._on_failure = on_failure
        self._threads = ThreadManager()
        self._lock = Lock()
        self._writers: dict[type[Event], LogWriter] = {}
        self._unrouted: Counter[str] = Counter()
        self._report: LogReport | None = None

    @property
    def threads(self) -> ThreadManager:
        """The writers' threads, for their heartbeats."""
        return self._threads

    def add_stream(self, event_type: type[Event], schema: LogSchema | None = None) -> LogWriter:
        """Give events of one type a log. Any thread.

        Args:
            event_type: Exactly this type; a derived one needs its own stream.
            schema: The log's name and columns; by default derived, under the type's name in small letters.

        Raises:
            LogError: `exists` (a file of that name, and no `force`) or `bad_schema`.
            LocalError: `duplicate_stream`: the type, or the name, has a log already; `closed`.
        """
        if self._report is not None:
            raise LocalError("closed", "the logs are closed")
        schema = schema or LogSchema.for_event(event_type, path=event_type.__name__.lower())
        file = self._directory / f"{schema.path}.log"
        if file.exists() and not self._force:
            raise LogError("exists", f"{file} exists already", remedy="choose another folder, or allow overwriting")
        writer_type = TsvWriter if self._format is LogFormat.TSV else JsonWriter
        writer = writer_type(
            schema,
            file,
            force=self._force,
            eager=self._eager,
            queue_bytes=self._queue_bytes,
            overflow=self._overflow,
            block_timeout_s=self._block_timeout_s,
            on_failure=self._on_failure,
        )
        return self.add_writer(event_type, writer)

    def add_writer(self, event_type: type[Event], writer: LogWriter) -> LogWriter:
        """Give events of one type a writer of your own, and start it. Any thread.

        Raises:
            LocalError: `duplicate_stream` or `closed`.
        """
        with self._lock:
            if self._report is not None:
                raise LocalError("closed", "the logs are closed")
            if event_type in self._writers:
                raise LocalError("duplicate_stream", f"{event_type.__name__} has a log already")
            if any(known.schema.path == writer.schema.path for known in self._writers.values()):
                raise LocalError("duplicate_stream", f"there is a log {writer.schema.path} already")
            self._threads.adopt(writer)
            self._writers = {**self._writers, event_type: writer}
        return writer

    def log(self, events: Iterable[Event]) -> int:
        """Hand events to their logs; return how many were taken in. What was not is counted as lost.

        Within each log the order is kept, for each calling thread. May wait for room, by the overflow policy. Any
        thread.
        """
        groups: dict[type[Event], list[Event]] = {}
        for event in events:
            try:
                groups[type(event)].append(event)
            except KeyError:
                groups[type(event)] = [event]
        accepted = 0
        for event_type, group in groups.items():
            writer = self._writers.get(event_type)
            if writer is None:
                with self._lock:
                    self._unrouted[event_type.__name__] += len(group)
            else:
                accepted += writer.write(group)
        return accepted

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was logged before is on disk; say whether it is, for every log. Any thread."""
        flushed = [writer.flush(timeout_s) for writer in self._writers.values()]
        return all(flushed)

    def statistics(self) -> dict[str, LogStatistics]:
        """Every log at this moment, by its path. Any thread."""
        return {writer.schema.path: writer.log_statistics() for writer in self._writers.values()}

    @property
    def unrouted(self) -> dict[str, int]:
        """Events of types without a log so far, by type name. Any thread."""
        with self._lock:
            return dict(self._unrouted)

    def close(self, deadline_s: float) -> LogReport:
        """Write what waits, end all logs in order, and report; takes at most `deadline_s` seconds.

        Further calls return the same report. Any thread.
        """
        stop = self._threads.stop(deadline_s)
        with self._lock:
            if self._report is None:
                self._report = LogReport(
                    logs=tuple(writer.log_statistics() for writer in self._writers.values()),
                    unrouted=dict(self._unrouted),
                    hung=stop.hung,
                    seconds=stop.seconds,
                )
            return self._report

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close(deadline_s=10)


def _make_folder(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        detail = os.strerror(error.errno or 0)
        raise LogError("unwritable", f"cannot make the folder {directory}: {detail}") from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise LogError("unwritable", f"may not write to the folder {directory}", remedy="check its permissions")
