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

from rapini.node.poller import make_poller
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
        hand_over: The last thing of a turn, under the lock, when the next is planned: hands what is left to those who
            consume it. Returns whether there is more to do at once.
    """

    def __init__(
        self,
        name: str,
        turn: Callable[[float], float | None],
        stalled: Callable[[float], None],
        on_failed: Callable[[ThreadFailure], None] = lambda failure: None,
        clock: Callable[[], float] = time.monotonic,
        hand_over: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(f"io-{name}")
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        """Notified when peers, dials or subscriptions have changed; for those who wait for that."""
        self.selector: selectors.BaseSelector
        self._turn = turn
        self._stalled = stalled
        self._on_failed = on_failed
        self._clock = clock
        self._hand_over = hand_over
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        self._sleeps_until = 0.0
        self._is_woken = False
        self.is_in_turn = False
        """Whether the thread is in a turn: then the present thread is the I/O thread, since it has the lock."""
        self._open()

    def _open(self) -> None:
        """Get what the thread waits on; a simulated loop waits on nothing."""
        self.selector = make_poller()
        self._waker, self._wakee = socket.socketpair()
        self._waker.setblocking(False)
        self._wakee.setblocking(False)
        self.selector.register(self._wakee, selectors.EVENT_READ)

    # -- under the lock, any thread ------------------------------------------------------------------------------

    def call_at(self, when: float, timer: Timer) -> None:
        """Call `timer(now)` on the I/O thread under the lock, not before `when` (monotonic seconds)."""
        heapq.heappush(self._timers, (when, next(self._numbers), timer))
        self.wake_before(when)

    def wake(self) -> None:
        """Make the thread take a turn now."""
        if not self._is_woken:
            self._is_woken = True
            if not self.is_in_turn:  # else the thread itself asks, and sees it at the end of its turn
                with contextlib.suppress(BlockingIOError):
                    self._waker.send(b"\0")

    def wake_before(self, when: float, tolerance_s: float = 0.0) -> None:
        """Make the thread take a turn at `when` at the latest (or `tolerance_s` later, if it sleeps until then)."""
        if when + tolerance_s < self._sleeps_until and not self.is_in_turn:  # a turn ends with a new plan
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
        select, is_stopping = self.selector.select, self._stop_signal.is_set
        while not is_stopping():
            # What is ready does not excuse a late return: a process that was stopped finds its peers' heartbeats here,
            # and timers run before they are read.
            ready = select(self.take_turn(ready))

    def take_turn(self, ready: list[tuple[selectors.SelectorKey, int]]) -> float:
        """Do everything that is due; returns how long nothing else is, in seconds."""
        with self.lock:
            self.is_in_turn = True
            self.beat()
            now = self._clock()
            self._is_woken = False
            if now - self._sleeps_until > _STALL_S:
                self._stalled(now - self._sleeps_until)
            self._note(ready)
            self._run_timers(now)
            planned = self._plan(self._turn(now), now)
            wait_s = max(0.0, planned - self._clock())
            if self._hand_over() or self._is_woken:
                # What woke us during the turn it may have done already; that costs one more turn at most.
                planned, wait_s = now, 0.0
            self._sleeps_until = planned
            self.is_in_turn = False
            return wait_s

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

    def _plan(self, wanted: float | None, now: float) -> float:
        until = now + _IDLE_S if wanted is None else wanted
        if self._timers and self._timers[0][0] < until:
            until = self._timers[0][0]
        return until

    def close(self) -> None:
        """Release the descriptors, after the thread has ended."""
        self.selector.close()
        self._waker.close()
        self._wakee.close()
