"""Keeps Python's signal handlers out of the turns that the main thread takes for a node.

Python runs signal handlers in the main thread, between any two bytecodes, and they may raise: `KeyboardInterrupt`, or
what the application's own handler for SIGTERM does. In the middle of a turn that would leave a TLS record half sent, or
a batch on neither side of a queue. So while the main thread leads (see `baton`), each handler is replaced by one that
puts it off and wakes the leader, which leaves at once and then runs the handler where nothing can break: in
`next(events)`, before it waits again. Between two events, in the application's own code, handlers run at once.

What was replaced is put back when the last iterator over a node's events in the main thread has ended. A handler that
the application sets meanwhile is found before the main thread leads again; one that calls the handler it found there
calls ours, which calls the one before it.

Signals without a handler in Python (the kernel's defaults, `faulthandler`) are left alone: they run no Python code.
"""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Callable
from importlib import import_module
from types import FrameType
from typing import Any, Final, TypeAlias

__all__ = ["GUARD", "SignalGuard", "is_main_thread"]

Handler: TypeAlias = Callable[[int, FrameType | None], Any]

_NUMBERS: Final = sorted(int(n) for n in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
# Without the wrapper that makes an enum of what was found: all are asked each time before the main thread leads.
_getsignal: Final[Callable[[int], Any]] = import_module("_signal").getsignal
_get_ident: Final = threading.get_ident


def is_main_thread() -> bool:
    """Whether this is the thread in which Python runs signal handlers."""
    return _get_ident() == threading.main_thread().ident


class _Deferred:
    """Stands in for one handler."""

    __slots__ = ("_guard", "original")

    def __init__(self, guard: SignalGuard, original: Handler) -> None:
        self._guard = guard
        self.original = original

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._guard.on_signal(self.original, number, frame)


class SignalGuard:
    """One for the process, as are its signal handlers: `GUARD`. Handlers are put off between `close` and `open`.

    Thread: the main thread, but for `retain` and `release`.
    """

    def __init__(self) -> None:
        self._handlers: list[Any] = []
        """All signals' handlers as we left them."""
        self._pending: deque[tuple[Handler, int, FrameType | None]] = deque()
        self._is_closed = False
        self._wake: Callable[[], None] = lambda: None
        self._users = 0
        self._lock = threading.Lock()

    # -- around each time the main thread leads --------------------------------------------------------------------

    def close(self, wake: Callable[[], None]) -> None:
        """Put handlers off from now on, and call `wake` when there is one. An earlier one may raise here, before."""
        if list(map(_getsignal, _NUMBERS)) != self._handlers:
            self._replace()
        self._wake = wake
        self._is_closed = True

    def open(self) -> None:
        """Run the handlers that were put off, which may raise, and let others run at once."""
        self._is_closed = False
        if self._pending:
            self._run_pending()

    @property
    def is_asked(self) -> bool:
        """Whether a handler waits to be run."""
        return bool(self._pending)

    def on_signal(self, original: Handler, number: int, frame: FrameType | None) -> None:
        """A signal has come."""
        self._pending.append((original, number, frame))
        if self._is_closed:
            self._wake()
        else:
            self._run_pending()

    def _run_pending(self) -> None:
        """All of them in order, though one raises."""
        while self._pending:
            original, number, frame = self._pending.popleft()
            try:
                original(number, frame)
            except BaseException:
                self._run_pending()
                raise

    def _replace(self) -> None:
        for number in _NUMBERS:
            handler = _getsignal(number)
            if callable(handler) and not isinstance(handler, _Deferred):
                signal.signal(number, _Deferred(self, handler))
        self._handlers = list(map(_getsignal, _NUMBERS))

    # -- around the life of an iterator ----------------------------------------------------------------------------

    def retain(self) -> None:
        """Somebody will lead in the main thread, again and again."""
        with self._lock:
            self._users += 1

    def release(self) -> None:
        """Nobody will for now, as far as this user is concerned; the last one has the handlers put back.

        Any thread: an iterator may be collected on another one. Then this is left to the next one.
        """
        with self._lock:
            self._users -= 1
            if self._users or not is_main_thread():
                return
        self._restore()

    def _restore(self) -> None:
        self._handlers = []
        for number in _NUMBERS:
            handler = _getsignal(number)
            if isinstance(handler, _Deferred):
                signal.signal(number, handler.original)


GUARD: Final = SignalGuard()
"""This process's."""
