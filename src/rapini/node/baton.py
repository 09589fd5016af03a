"""Whose turn it is to turn: a node's I/O thread, or the consumer that waits for what the turn will bring.

An event that comes alone wakes the I/O thread, and that wakes the consumer: two sleeps and two wake-ups for one event.
So a consumer that finds nothing queued takes the loop's turns itself (`Loop.lead`), and the I/O thread stands by. That
is the pattern *leader/followers* with two threads. The baton is what the leader holds; whoever holds it waits in
`select()`, and nobody else does.

It changes hands where that costs no wake-up. The I/O thread gives it up when it has just woken a consumer with a few
events, and waits for a moment; a consumer that is back by then takes it. One that is not, and one that leaves to act on
what has come and stays away, loses it to the I/O thread after `STAND_BY_S`: so sockets and timers wait no longer than
that for a slow application. While a consumer leads through a longer silence the I/O thread sleeps without a timeout,
and is told by the consumer when that leaves.

Source: Schmidt, O'Ryan, Kircher, Pyarali, Buschmann, "Leader/Followers" (PLoP 2000).
"""

from __future__ import annotations

import queue
import threading
from typing import Final

__all__ = ["FEW_EVENTS", "STAND_BY_S", "Baton"]

STAND_BY_S: Final = 0.005
"""How long nobody may hold the baton."""

FEW_EVENTS: Final = 8
"""From a batch of this many on there is load: then two threads do more than one."""

_SKIPS: Final = 16
"""How many chances are not given after one that was not taken, so that a slow application delays little."""


class Baton:
    """One for each loop. At first, and at last, the I/O thread has it."""

    def __init__(self) -> None:
        self._held = threading.Lock()
        self._held.acquire()
        self._recalls: queue.SimpleQueue[bool] = queue.SimpleQueue()
        """Wakes the I/O thread while it stands by; true: to take over if it can."""
        self._changes = 0
        """How often consumers took it or left it."""
        self._is_parked = False
        self._is_handed_back = False
        self._skips = 0

    @property
    def is_free(self) -> bool:
        """Whether nobody has it. Any thread."""
        return not self._held.locked()

    def recall(self) -> None:
        """Have the I/O thread take over at once, if nobody else has it. Any thread."""
        self._recalls.put(True)

    # -- the consumer --------------------------------------------------------------------------------------------

    def take(self) -> bool:
        """Take it if nobody has it; says whether it did. Thread: a consumer's."""
        if not self._held.acquire(blocking=False):
            return False
        self._changes += 1
        return True

    def leave(self, *, to_io: bool) -> None:
        """Leave it, or with `to_io` hand it to the I/O thread. Thread: the consumer's that has it."""
        self._changes += 1
        if to_io:
            self._is_handed_back = True
            self._recalls.put(True)
            return
        self._held.release()
        if self._is_parked:
            self._recalls.put(False)

    # -- the I/O thread ------------------------------------------------------------------------------------------

    def may_offer(self) -> bool:
        """Whether it is worth while to stand by: not soon after a consumer had the chance and did not come."""
        if self._skips:
            self._skips -= 1
            return False
        return True

    def stand_by(self) -> None:
        """Leave the turns to a consumer; returns when they are the I/O thread's again. Thread: the I/O thread."""
        recalls, held = self._recalls, self._held
        while not recalls.empty():  # from before
            recalls.get_nowait()
        held.release()
        while True:
            changes = self._changes
            try:
                is_recalled = recalls.get(timeout=STAND_BY_S)
            except queue.Empty:
                if changes != self._changes:
                    continue
                if held.acquire(blocking=False):  # nobody came all that time
                    self._skips = _SKIPS
                    return
                is_recalled = self._park()
            if self._is_handed_back:
                self._is_handed_back = False
                return
            if is_recalled and held.acquire(blocking=False):
                return

    def _park(self) -> bool:
        """A consumer has led all that time: sleep until it leaves."""
        self._is_parked = True  # before looking: `leave` does it the other way round
        try:
            return self._recalls.get() if self._held.locked() else False
        finally:
            self._is_parked = False
