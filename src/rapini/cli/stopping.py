"""SIGINT and SIGTERM: the first asks for an orderly end (drain, goodbye), the second ends the process at once.

A handler runs between two instructions of the main thread, which may be inside the node with its lock in hand. So the
handler only puts the signal into a queue whose `put` is safe there (`SimpleQueue`); a thread of ours takes it out and
calls what the command registered::

    with Stopping() as stopping, Node(**node_arguments(options)) as node:
        stopping.call(node.stop)            # `node.events()` then ends when what has come was consumed
        for event, origin in node.events():
            ...
    return stopping.status(is_daemon=True)
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Final, Self, TypeVar

from rapini.cli.failures import Status, warn

__all__ = ["Stopping"]

_log = logging.getLogger("rapini.cli")

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

WaitedT = TypeVar("WaitedT")


class _Interrupted(Exception):  # noqa: N818 - leaves a block, is no error
    """Leaves a block of `Stopping.interruptible`."""


class Stopping:
    """Waits for signals while its `with` block lasts. Make it on the main thread, around the node."""

    def __init__(self) -> None:
        self._received: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._first = 0
        """The first signal's number."""
        self._is_interruptible = False
        self._requested = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], object]] = []
        self._previous: dict[int, Any] = {}
        self._thread = threading.Thread(target=self._run, name="rapini-stopping", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        for number in _SIGNALS:
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._received.put(None)

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self._first != 0

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for a signal; false when none has come in `timeout_s` seconds. Any thread."""
        return self._requested.wait(timeout_s)

    def call(self, callback: Callable[[], object]) -> None:
        """Call this, on a thread of ours, when the first signal comes (at once if it has)."""
        with self._lock:
            if not self._requested.is_set():
                self._callbacks.append(callback)
                return
        _guarded(callback)

    def interruptible(self, wait: Callable[[], WaitedT]) -> WaitedT | None:
        """Do something that a signal ends at once, such as reading stdin; `None` when a signal came.

        Main thread only; never for calls of a node, which must not be left half done.
        """
        try:
            try:
                self._is_interruptible = True
                return wait() if not self._first else None
            finally:
                self._is_interruptible = False
        except _Interrupted:  # caught out here, since it may also come while the line above runs
            return None

    def status(self, *, is_daemon: bool) -> Status:
        """The exit status: 0 without a signal and for a daemon's SIGTERM, else 130 or 143."""
        if self._first == signal.SIGINT:
            return Status.INTERRUPTED
        if self._first == signal.SIGTERM and not is_daemon:
            return Status.TERMINATED
        return Status.OK

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._first:
            os._exit(128 + number)
        self._first = number
        self._received.put(number)
        if self._is_interruptible:
            self._is_interruptible = False
            raise _Interrupted

    def _run(self) -> None:
        if self._received.get() is None:
            return
        warn("stopping (once more to stop at once)")
        with self._lock:
            self._requested.set()
            callbacks = self._callbacks
        for callback in callbacks:
            _guarded(callback)


def _guarded(callback: Callable[[], object]) -> None:
    try:
        callback()
    except Exception:  # noqa: BLE001 - the next callback still has to run
        _log.exception("stopping")
