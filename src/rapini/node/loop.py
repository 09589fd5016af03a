"""One thread that waits on descriptors and timers, and one lock that guards everything it touches.

The thread waits in `select()` outside the lock; user threads that publish do their own sending under it. So a socket is
only ever touched under the lock, and a publisher does not depend on the thread's getting the interpreter in time. Nor
does a consumer of few events: it waits and turns in the thread's place (`Loop.lead`; see `baton`).
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

from rapini.node.baton import FEW_EVENTS, STAND_BY_S, Baton
from rapini.node.poller import make_poller
from rapini.node.signals import GUARD, is_main_thread
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
        """Whether a turn is being taken: then it is the present thread that takes it, since that has the lock."""
        self._baton = Baton()
        self._is_offered = False
        """Whether the present turn has woken a consumer that would lead."""
        self._is_busy = False
        """Whether a turn that a consumer took has brought so much that two threads are better."""
        self.has_brought = False
        """Whether the present turn has brought its leader what it waits for. Then the engine may leave the rest of the
        turn to the next one, or say that it has not by making this false."""
        self._is_cut_short = False
        """Whether the last turn was left like that."""
        self._fault: BaseException | None = None
        """What a turn that a consumer took has raised."""
        self.leads = 0
        """How often a consumer has led."""
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
                self._poke()
                if self._baton.is_free:
                    self._baton.recall()

    def _poke(self) -> None:
        """End whoever's `select()`, or the next one. Any thread, also in a signal handler."""
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

    def delivered(self, count: int, *, woke: bool) -> None:
        """The present turn has brought events to a consumer that leads, or would like to.

        Args:
            count: How many.
            woke: Whether the consumer was asleep; else it leads.
        """
        if count >= FEW_EVENTS:
            self._is_busy, self._is_offered = True, False
        elif woke:
            self._is_offered = True
        else:
            self.has_brought = True

    # -- a consumer's thread -------------------------------------------------------------------------------------

    def lead(self, is_empty: Callable[[], bool], deadline: float | None) -> None:
        """Wait and take turns in the I/O thread's place while there is nothing to consume, if it lets us.

        Handlers of signals do not interrupt the turns: see `signals`. An exception that comes of a turn is the end of
        the loop and never the caller's, who hears of it as everybody does.

        Args:
            is_empty: Whether there is nothing to consume. Whoever makes that false outside a turn calls `wake`.
            deadline: When to return at the latest, in monotonic seconds.

        Raises:
            Whatever a handler of the application's raises for a signal that came meanwhile.

        Thread: a consumer's, without the lock.
        """
        if not self._baton.is_free:
            return
        if not is_main_thread():
            self._lead(is_empty, deadline, lambda: False)
            return
        try:
            GUARD.close(self._poke)
            self._lead(is_empty, deadline, lambda: GUARD.is_asked)
        finally:
            GUARD.open()

    def _lead(self, is_empty: Callable[[], bool], deadline: float | None, is_asked: Callable[[], bool]) -> None:
        baton = self._baton
        if not baton.take():
            return
        try:
            self.leads += 1
            self._is_busy = False
            wait_s = self._sleeps_until - self._clock()
            while is_empty() and not is_asked() and not self._stop_signal.is_set():
                if deadline is not None:
                    left_s = deadline - self._clock()
                    if left_s <= 0:
                        break
                    wait_s = min(wait_s, left_s)
                # The rest of a turn that was cut short comes before the wait: 0MQ was not asked for more yet.
                wait_s = self.take_turn([] if self._is_cut_short else self.selector.select(max(0.0, wait_s)))
        except BaseException as error:  # noqa: BLE001 - raised again on the I/O thread, as if it had taken this turn
            self._fault = error
        baton.leave(to_io=self._is_busy or self._fault is not None)
        if self._is_woken or self._stop_signal.is_set():  # by somebody who saw us lead
            baton.recall()

    # -- the thread ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Turn until told to stop."""
        ready: list[tuple[selectors.SelectorKey, int]] = []
        self._sleeps_until = self._clock()
        select, is_stopping = self.selector.select, self._stop_signal.is_set
        while not is_stopping():
            # What is ready does not excuse a late return: a process that was stopped finds its peers' heartbeats here,
            # and timers run before they are read.
            wait_s = self.take_turn(ready)
            if self._is_offered:
                self._is_offered = False
                if wait_s > 0 and self._baton.may_offer():
                    wait_s = 0.0
                    self._baton.stand_by()
                    if self._fault is not None:
                        raise self._fault
            ready = select(wait_s)

    def take_turn(self, ready: list[tuple[selectors.SelectorKey, int]]) -> float:
        """Do everything that is due; returns how long nothing else is, in seconds."""
        with self.lock:
            self.is_in_turn = True
            self.beat()
            now = self._clock()
            self._is_woken = self.has_brought = False
            if now - self._sleeps_until > _STALL_S:
                self._stalled(now - self._sleeps_until)
            self._note(ready)
            self._run_timers(now)
            wanted = self._turn(now)
            self._is_cut_short = self.has_brought
            if self._is_cut_short:
                self._sleeps_until = now + STAND_BY_S  # by then somebody takes a whole turn
                self.is_in_turn = False
                return 0.0
            planned = self._plan(wanted, now)
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
