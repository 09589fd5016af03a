"""The node's loop without its thread: turns are taken when virtual time says so.

`rapini.node.loop.Loop.take_turn` is the real one; only the waiting is replaced. Waiting in `select()` becomes an entry
in the world's heap, being woken becomes an earlier entry, and a process that stands still (SIGSTOP) misses its entries
and takes the turn when it goes on, late, which the real code notices by itself.
"""

from __future__ import annotations

import selectors
from collections.abc import Callable
from typing import Any, Final

from rapini.node.loop import Loop
from rapini.testing.simulation.world import World

__all__ = ["VirtualLoop"]

_NEVER: Final = float("inf")
_LATENCY_S: Final = 0.0004
"""Longest time that a waking thread takes to run."""

_TURN_S: Final = 0.00001
"""What a turn takes at least: somebody who wakes itself in every turn still lets time pass."""


class VirtualLoop(Loop):
    """A loop that the world turns. Made like `Loop`, with three arguments more.

    Args:
        arguments: As `Loop`.
        world: Whose time counts.
        draw: Chance, for how quickly the thread runs.
        turned: Called after each turn.
        guard: Runs a turn; catches what ends the process in the middle of it.
    """

    def __init__(
        self,
        *arguments: Any,
        world: World,
        draw: Callable[[], float],
        turned: Callable[[], None],
        guard: Callable[[Callable[[], None]], None],
    ) -> None:
        self._world = world
        self._draw = draw
        self._turned = turned
        self._guard = guard
        self._due = _NEVER
        self._in_turn = False
        self._is_standing = False
        self._has_missed = False
        self._is_over = False
        super().__init__(*arguments)

    def _open(self) -> None:
        self.selector = selectors.SelectSelector()  # owns no descriptor, and is never asked

    def begin(self) -> None:
        """Take the first turn soon: what `start` does for a thread."""
        self._sleeps_until = self._clock()
        self._arm(self._world.now)

    def stand_still(self) -> None:
        """The process is stopped: no turn until `go_on`."""
        self._is_standing = True

    def go_on(self) -> None:
        """The process goes on; a turn that was missed is taken now."""
        self._is_standing = False
        if self._has_missed:
            self._has_missed = False
            self._arm(self._world.now + self._draw() * _LATENCY_S)

    def vanish(self) -> None:
        """The process is gone."""
        self._is_over = True

    def wake(self) -> None:
        """See `Loop.wake`."""
        if not self._is_woken:
            self._is_woken = True
            if not self._in_turn:
                self._arm(self._world.now + self._draw() * _LATENCY_S)

    def close(self) -> None:
        """Nothing to release."""
        self.selector.close()
        self._is_over = True

    def _arm(self, when: float) -> None:
        if when < self._due and not self._is_over:
            self._due = _NEVER
            due = self._world.at(when, lambda: self._fire(due))
            self._due = due

    def _fire(self, due: float) -> None:
        if due != self._due or self._is_over:
            return  # an earlier turn has made this one needless
        self._due = _NEVER
        if self._is_standing:
            self._has_missed = True
            return
        self._guard(self._take_turn)

    def _take_turn(self) -> None:
        self._in_turn = True
        try:
            wait_s = self.take_turn([])
        finally:
            self._in_turn = False
        self._arm(self._world.now + (_TURN_S if self._is_woken else wait_s))
        self._turned()
