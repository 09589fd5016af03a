"""The receiving end of one delivery class in one session: what has come, and what the application has taken. Sans-IO.

The sender numbers everything, holes included, so what arrives always continues where the last one ended; anything else
breaks the protocol. Consumers may finish out of order; what is told to the sender moves in order.
"""

from __future__ import annotations

__all__ = ["Intake"]


class Intake:
    """Positions in one flow of a peer's. Thread: the owner's."""

    __slots__ = ("_waiting", "position", "taken", "told")

    def __init__(self, position: int = 0) -> None:
        self.position = position
        """Number after the last event or gap received."""
        self.taken = position
        """Number after the last one taken by the application."""
        self.told = position
        """What we told the peer last."""
        self._waiting: dict[int, int] = {}
        """Numbers after what was taken out of order, by its first number."""

    def receive(self, first: int, count: int) -> bool:
        """Account for a batch or a gap; false if it does not continue what has come so far."""
        if first != self.position or count <= 0:
            return False
        self.position = first + count
        return True

    def take(self, first: int, count: int) -> None:
        """The application took these; each exactly once."""
        if first != self.taken:
            self._waiting[first] = first + count
            return
        after = first + count
        while self._waiting and (beyond := self._waiting.pop(after, None)) is not None:
            after = beyond
        self.taken = after

    def restart(self) -> None:
        """A new session: numbers begin at 0."""
        self.position = self.taken = self.told = 0
        self._waiting.clear()
