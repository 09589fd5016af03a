"""Starts threads, watches their heartbeats, and stops them in order within one deadline.

Above `thread`; owned by a node or a log manager. The stop is the point: stages are stopped one after the other (whoever
produces before whoever consumes), each drains, a thread that hangs takes no more than its stage's share of the time,
and the report says what was lost. Zeek's shutdown has no overall timeout (`zeek-interop.md` 6.6); ours always ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from rapini.errors import LocalError
from rapini.threads.thread import Thread, ThreadFailure, ThreadState, ThreadStatistics

__all__ = ["StopReport", "ThreadManager"]

AnyThread = TypeVar("AnyThread", bound=Thread)


@dataclass(frozen=True, slots=True, kw_only=True)
class StopReport:
    """How an ordered stop went."""

    stopped: tuple[str, ...]
    """Threads that ended in time, failed ones among them."""
    hung: tuple[str, ...]
    """Threads that did not, and were given up."""
    failed: tuple[ThreadFailure, ...]
    abandoned: dict[str, int]
    """Items that hung threads left behind, by thread. (What was lost before is in each thread's statistics.)"""
    seconds: float

    @property
    def is_clean(self) -> bool:
        """Whether every thread ended in time and by itself."""
        return not self.hung and not self.failed


class ThreadManager:
    """Owns threads from their start to their end. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads: dict[str, tuple[Thread, int]] = {}
        self._stopping = False

    def adopt(self, thread: AnyThread, *, stage: int = 0, start: bool = True) -> AnyThread:
        """Take charge of `thread` and start it; return it.

        Args:
            thread: A thread that was not started, or (with `start` false) one that is or will be started elsewhere.
            stage: When it is stopped: lower stages first. Give producers a lower one than the consumers they feed.
            start: Whether to start it now.

        Raises:
            LocalError: `duplicate_thread` (the name is taken by a thread that has not ended) or `stopping`.
        """
        with self._lock:
            if self._stopping:
                raise LocalError("stopping", f"thread {thread.name} came after the stop had begun")
            known = self._threads.get(thread.name)
            if known is not None and known[0].state not in (ThreadState.STOPPED, ThreadState.FAILED):
                raise LocalError("duplicate_thread", f"there is a thread {thread.name} already")
            self._threads[thread.name] = (thread, stage)
        if start:
            thread.start()
        return thread

    @property
    def threads(self) -> tuple[Thread, ...]:
        """All threads in charge, in the order of their adoption."""
        with self._lock:
            return tuple(thread for thread, _ in self._threads.values())

    def heartbeats(self) -> dict[str, float]:
        """Seconds since each running thread's loop last came round, by name."""
        return {thread.name: thread.statistics().heartbeat_age_s for thread in self.threads}

    def stalled(self, older_than_s: float) -> tuple[str, ...]:
        """Names of threads whose heartbeat is older than `older_than_s` seconds."""
        return tuple(name for name, age_s in self.heartbeats().items() if age_s > older_than_s)

    def statistics(self) -> tuple[ThreadStatistics, ...]:
        """All threads at this moment."""
        return tuple(thread.statistics() for thread in self.threads)

    def failures(self) -> tuple[ThreadFailure, ...]:
        """Failures of threads so far."""
        return tuple(thread.failure for thread in self.threads if thread.failure is not None)

    def stop(self, deadline_s: float) -> StopReport:
        """Stop all threads, stage by stage, and return at most `deadline_s` seconds later.

        Each stage is told at once and waited for together; it may use its equal share of the time that is left, so a
        hung thread in one stage leaves the next its share. Hung threads are given what remains at the end, then
        abandoned. Further calls find nothing running and report the same threads.
        """
        began = time.monotonic()
        deadline = began + deadline_s
        with self._lock:
            self._stopping = True
            stages = sorted({stage for _, stage in self._threads.values()})
            members = {s: [t for t, stage in self._threads.values() if stage == s] for s in stages}
        for done, stage in enumerate(stages):
            now = time.monotonic()
            share = max(0.0, deadline - now) / (len(stages) - done)
            _signal_and_wait(members[stage], now + share)
        everybody = [thread for stage in stages for thread in members[stage]]
        hung = [thread for thread in everybody if not thread.wait_stop(deadline - time.monotonic())]
        return _report(everybody, {thread.name: thread.abandon() for thread in hung}, began)


def _signal_and_wait(threads: Sequence[Thread], deadline: float) -> None:
    for thread in threads:
        thread.signal_stop()
    for thread in threads:
        thread.wait_stop(deadline - time.monotonic())


def _report(threads: Sequence[Thread], abandoned: dict[str, int], began: float) -> StopReport:
    return StopReport(
        stopped=tuple(t.name for t in threads if t.name not in abandoned),
        hung=tuple(abandoned),
        failed=tuple(t.failure for t in threads if t.failure is not None),
        abandoned=abandoned,
        seconds=time.monotonic() - began,
    )
