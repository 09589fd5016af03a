"""One thread that waits on descriptors and timers, and one lock that guards everything it touches.

The thread waits in `select()` outside the lock; user threads that publish do their own sending under it. So a socket is
only ever touched under the lock, and a publisher does not depend on the thread's getting the interpreter in time.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Final

from rapini.threads import Thread, ThreadFailure
from rapini.transport import Registration

__all__ = ["Loop"]

_log = logging.getLogger("rapini.node")

_STALL_S: Final = 0.5
"""If the loop comes back later than planned by more than this, our own process stood still."""

_IDLE_S: Final = 60.0

Timer = Callable[[float], None]


class Loop(Thread):
    """The I/O thread of a node.

    Args:
        name: The node's name.
        turn: One turn of work, called with the time under the lock; returns when it wants to be called again at the
            latest, in monotonic seconds, or `None`.
        stalled: Called under the lock with the seconds that our process stood still.
        on_failed: Called without the lock when an exception has ended the loop: nothing moves any more.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        name: str,
        turn: Callable[[float], float | None],
        stalled: Callable[[float], None],
        on_failed: Callable[[ThreadFailure], None] = lambda failure: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(f"io-{name}")
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        """Notified when peers, dials or subscriptions have changed; for those who wait for that."""
        self.selector = selectors.DefaultSelector()
        self._turn = turn
        self._stalled = stalled
        self._on_failed = on_failed
        self._clock = clock
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        self._waker, self._wakee = socket.socketpair()
        self._waker.setblocking(False)
        self._wakee.setblocking(False)
        self.selector.register(self._wakee, selectors.EVENT_READ)
        self._sleeps_until = 0.0
        self._is_woken = False

    # -- under the lock, any thread ------------------------------------------------------------------------------

    def call_at(self, when: float, timer: Timer) -> None:
        """Call `timer(now)` on the I/O thread under the lock, not before `when` (monotonic seconds)."""
        heapq.heappush(self._timers, (when, next(self._numbers), timer))
        self.wake_before(when)

    def wake(self) -> None:
        """Make the thread take a turn now."""
        if not self._is_woken:
            self._is_woken = True
            with contextlib.suppress(BlockingIOError):
                self._waker.send(b"\0")

    def wake_before(self, when: float, tolerance_s: float = 0.0) -> None:
        """Make the thread take a turn at `when` at the latest (or `tolerance_s` later, if it sleeps until then)."""
        if when + tolerance_s < self._sleeps_until:
            self.wake()

    def signal_stop(self) -> None:
        """End the loop after the present turn."""
        super().signal_stop()
        with self.lock:
            self.wake()

    # -- the thread ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Turn until told to stop."""
        ready: list[tuple[selectors.SelectorKey, int]] = []
        self._sleeps_until = self._clock()
        while not self.stopping:
            self.take_turn(ready)
            # What is ready does not excuse a late return: a process that was stopped finds its peers' heartbeats here,
            # and timers run before they are read.
            ready = self.selector.select(max(0.0, self._sleeps_until - self._clock()))

    def take_turn(self, ready: list[tuple[selectors.SelectorKey, int]]) -> float:
        """Do everything that is due; returns when the next turn is, at the latest (monotonic seconds)."""
        with self.lock:
            self.beat()
            now = self._clock()
            self._is_woken = False
            if now - self._sleeps_until > _STALL_S:
                self._stalled(now - self._sleeps_until)
            self._note(ready)
            self._run_timers(now)
            # A wake-up that came during this turn was for work that the turn may have done already; it costs one more
            # turn at most.
            self._sleeps_until = self._plan(self._turn(now))
            return self._sleeps_until

    def failed(self, failure: ThreadFailure) -> None:
        """Tell the owner that the loop is over."""
        self._on_failed(failure)

    def _note(self, ready: list[tuple[selectors.SelectorKey, int]]) -> None:
        for key, mask in ready:
            if isinstance(key.data, Registration):
                key.data.transport.on_ready(key, mask)
            else:
                with contextlib.suppress(BlockingIOError):
                    self._wakee.recv(4096)

    def _run_timers(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2](now)

    def _plan(self, wanted: float | None) -> float:
        until = self._clock() + _IDLE_S
        if wanted is not None:
            until = min(until, wanted)
        if self._timers:
            until = min(until, self._timers[0][0])
        return until

    def close(self) -> None:
        """Release the descriptors, after the thread has ended."""
        self.selector.close()
        self._waker.close()
        self._wakee.close()
