"""How a program is told to stop: SIGINT and SIGTERM ask for an orderly end, a second one ends it at once.

Where it sits: `sensor`, `logger`, `manager`, and the parents of processes, `run` and `demo`.

Theory: a handler that took a lock could meet itself holding it, for handlers run between any two instructions of the
main thread; `threading.Event.set` does take one. So the handler stores a number and writes a byte into a pipe, and
whoever waits, waits for the pipe.
"""

from __future__ import annotations

import os
import select
import signal
from types import FrameType, TracebackType
from typing import Self

__all__ = ["Stop"]


class Stop:
    """The wish to stop. A context manager: inside, the signals are ours. Thread: the main thread."""

    def __init__(self) -> None:
        self.signal = 0
        """The signal's number; 0 while nobody asked."""
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type] # what signal() gave, it takes
        os.close(self._read)
        os.close(self._write)

    @property
    def is_set(self) -> bool:
        """Whether somebody asked."""
        return self.signal != 0

    @property
    def exit_status(self) -> int:
        """130 after Ctrl-C; 0 otherwise, SIGTERM being how a daemon's life normally ends."""
        return 128 + signal.SIGINT if self.signal == signal.SIGINT else 0

    def fileno(self) -> int:
        """Readable once somebody asked, for `select`."""
        return self._read

    def wait(self, timeout_s: float) -> bool:
        """Sleep, but no longer than until somebody asks; say whether somebody did."""
        if not self.signal and timeout_s > 0:
            select.select([self._read], [], [], timeout_s)
        return self.signal != 0

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.signal:
            os._exit(128 + number)
        self.signal = number
        os.write(self._write, b"\0")
