"""Virtual time: one heap of things to happen, one seed for all chance, one trace of what did.

At the bottom of the simulation. Nothing here waits: `run` goes from one due action to the next. Time moves in ticks of
2^-20 s, so that adding and subtracting a node's own clock offset (a whole number of seconds) is exact and a timer that
is due is never a rounding error away from being so.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable
from typing import Final

__all__ = ["Action", "Trace", "World"]

_TICKS_PER_S: Final = float(2**20)
_MAX_ACTIONS: Final = 200_000
"""A run that does more has gone mad: two parties wake each other for ever."""

Action = Callable[[], None]


class Trace:
    """What happened, newest last; lines are made only when somebody reads them.

    Args:
        keep: Entries to keep; `None` keeps all.
    """

    def __init__(self, keep: int | None = 400) -> None:
        self._entries: deque[tuple[float, str, tuple[object, ...]]] = deque(maxlen=keep)

    def add(self, now: float, text: str, *arguments: object) -> None:
        """Note something; `text` is a format in the manner of `%`."""
        self._entries.append((now, text, arguments))

    def lines(self) -> list[str]:
        """Everything kept, for people; equal for equal runs."""
        return [f"{now:11.6f}  {text % arguments if arguments else text}" for now, text, arguments in self._entries]


class World:
    """The clock of a simulation and what is due by it. One thread.

    Args:
        seed: All chance of the run follows from it.
        trace: Where things are noted.
    """

    def __init__(self, seed: int, trace: Trace | None = None) -> None:
        self.seed = seed
        self.now = 0.0
        """Virtual seconds since the run began."""
        self.trace = trace or Trace()
        self.actions = 0
        """How many things have happened."""
        self._heap: list[tuple[float, int, Action]] = []
        self._numbers = itertools.count()

    def random(self, *purpose: object) -> random.Random:
        """A generator for one purpose: what one party draws does not change what another will."""
        return random.Random("/".join(map(str, (self.seed, *purpose))))

    def note(self, text: str, *arguments: object) -> None:
        """Add to the trace."""
        self.trace.add(self.now, text, *arguments)

    def at(self, when: float, action: Action) -> float:
        """Do something at a time, or now if that is past; returns the time, rounded up to a tick."""
        when = max(self.now, math.ceil(when * _TICKS_PER_S) / _TICKS_PER_S)
        heapq.heappush(self._heap, (when, next(self._numbers), action))
        return when

    def after(self, delay_s: float, action: Action) -> float:
        """Do something in so many seconds; returns when."""
        return self.at(self.now + delay_s, action)

    def run(self, until: float) -> None:
        """Let virtual time pass until then.

        Raises:
            RuntimeError: The run has gone mad.
        """
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, action = heapq.heappop(heap)
            self.actions += 1
            action()
            if self.actions > _MAX_ACTIONS:
                raise RuntimeError(f"{_MAX_ACTIONS} actions within {self.now:.3f} virtual seconds")
        self.now = max(self.now, until)
