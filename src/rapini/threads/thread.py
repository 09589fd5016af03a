"""A thread with a name, a start, a signalled stop, a heartbeat and statistics; its failure is data.

The base of everything that runs beside the caller. Zeek's `BasicThread` (`src/threading/BasicThread.h`) is the model:
*signal* and *wait* are two steps, so that many threads can be told at once and then waited for together.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from enum import Enum

from rapini.errors import LocalError, RapiniError

__all__ = ["Thread", "ThreadFailure", "ThreadState", "ThreadStatistics"]

_diagnostics = logging.getLogger("rapini.threads")


class ThreadState(Enum):
    """Where a thread is in its life."""

    NEW = "new"
    RUNNING = "running"
    STOPPING = "stopping"
    """Told to stop, and working off what it has."""
    STOPPED = "stopped"
    FAILED = "failed"
    """Ended by an exception: see `Thread.failure`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadFailure:
    """Why a thread ended before it was told to."""

    thread: str
    code: str
    """The error's `code` if it is one of ours, else `internal`."""
    detail: str
    error: BaseException
    """What was raised, for a debugger; operators get `detail`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadStatistics:
    """A thread at one moment."""

    name: str
    state: ThreadState
    heartbeat_age_s: float
    """Seconds since the thread's loop last came round; 0 when it is not running."""
    failure: ThreadFailure | None


class Thread:
    """A thread of ours. Subclasses implement `run`, call `beat` in every turn of their loop and end on `stopping`.

    A daemon: it never keeps the process from exiting. Nothing stops in `__del__`; a `ThreadManager` or the owner does.

    Args:
        name: Unique within a manager; also the name that debuggers show.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._stop_signal = threading.Event()
        self._abandoned = False
        self._done = False
        self._failure: ThreadFailure | None = None
        self._beat_at = time.monotonic()
        self._thread = threading.Thread(target=self._main, name=f"rapini:{name}", daemon=True)

    @property
    def name(self) -> str:
        """The thread's name."""
        return self._name

    @property
    def failure(self) -> ThreadFailure | None:
        """Why it ended early, or `None`. Any thread."""
        return self._failure

    @property
    def heartbeat(self) -> float:
        """`time.monotonic()` of the last turn of its loop. Any thread."""
        return self._beat_at

    @property
    def state(self) -> ThreadState:
        """Where it is in its life. Any thread."""
        if self._failure is not None:
            return ThreadState.FAILED
        if self._done:
            return ThreadState.STOPPED
        if self._thread.ident is None:
            return ThreadState.NEW
        return ThreadState.STOPPING if self._stop_signal.is_set() else ThreadState.RUNNING

    def start(self) -> None:
        """Start the thread, once.

        Raises:
            LocalError: `already_started`.

        Thread: the owner's.
        """
        if self._thread.ident is not None:
            raise LocalError("already_started", f"thread {self._name} was already started")
        self._beat_at = time.monotonic()
        self._thread.start()

    def signal_stop(self) -> None:
        """Ask the thread to finish what it has and end; returns at once. May be called again. Any thread."""
        self._stop_signal.set()

    def wait_stop(self, timeout_s: float) -> bool:
        """Wait until the thread has ended, at most `timeout_s` seconds; say whether it has.

        True for one that was never started; false at once on the thread itself, which cannot wait for its own end.
        """
        if self._thread is threading.current_thread():
            return False
        if self._thread.ident is not None:
            self._thread.join(max(0.0, timeout_s))
        return not self._thread.is_alive()

    def abandon(self) -> int:
        """Give up on a thread that did not stop in time; return how many items it had not finished.

        It is left to hang (Python cannot kill a thread), and must do nothing more should it come back: `abandoned`.
        Any thread.
        """
        self._abandoned = True
        self._stop_signal.set()
        return 0

    def statistics(self) -> ThreadStatistics:
        """The thread at this moment. Any thread."""
        return ThreadStatistics(
            name=self._name,
            state=self.state,
            heartbeat_age_s=self._heartbeat_age(),
            failure=self._failure,
        )

    # --- For subclasses ------------------------------------------------------------------------------------------

    def run(self) -> None:
        """The thread's work; an exception that leaves it becomes `failure`. Thread: its own."""
        raise NotImplementedError

    def failed(self, failure: ThreadFailure) -> None:
        """Called on the thread after `run` raised; for subclasses that have something to settle. Must not raise."""

    def beat(self) -> None:
        """Show that the loop comes round. Thread: its own."""
        self._beat_at = time.monotonic()

    @property
    def stopping(self) -> bool:
        """Whether somebody asked the thread to stop."""
        return self._stop_signal.is_set()

    @property
    def abandoned(self) -> bool:
        """Whether everybody has given up on the thread: it should touch nothing more."""
        return self._abandoned

    def wait_for_stop_signal(self, timeout_s: float) -> bool:
        """Sleep at most `timeout_s` seconds, less if told to stop; say whether it was. Thread: its own."""
        return self._stop_signal.wait(timeout_s)

    def _heartbeat_age(self) -> float:
        return time.monotonic() - self._beat_at if self._thread.is_alive() else 0.0

    def _main(self) -> None:
        try:
            self.run()
        except BaseException as error:  # noqa: BLE001 - whatever ends a thread is data for its owner
            self._fail(error)
        finally:
            self._done = True

    def _fail(self, error: BaseException) -> None:
        ours = isinstance(error, RapiniError)
        failure = ThreadFailure(
            thread=self._name,
            code=error.code if isinstance(error, RapiniError) else "internal",
            detail=str(error) if ours else f"{type(error).__name__}: {error}",
            error=error,
        )
        self._failure = failure
        # Our own errors are expected and complete; of others a developer wants the traceback.
        _diagnostics.error(
            "thread_failed",
            extra={"rapini_thread": self._name, "code": failure.code, "detail": failure.detail},
            exc_info=None if ours else error,
        )
        self.failed(failure)
