"""The table of names and topics that a publisher's runs refer to by number.

A run's type and topic take as many bytes as a small event. A publisher numbers each pair when it first uses it; the
numbers hold for its incarnation, so a run is still encoded once for all receivers. Each channel begins with the table
so far, as part of the state exchange, and what is added is told before the first run that uses it: a new channel never
depends on what an old one had heard. Runs that outlive a channel's table (durable ones, relayed ones) have their texts
with them. `docs/wire.md`, section 6.
"""

from __future__ import annotations

from collections.abc import Callable

from rapini import limits

__all__ = ["StringTable"]


class StringTable:
    """Our own table. Thread: the owner's.

    Args:
        on_added: Called when it has grown, before the new number is used.
    """

    def __init__(self, on_added: Callable[[], None] = lambda: None) -> None:
        self.pairs: list[tuple[str, str]] = []
        """Type names and topics, by number."""
        self._numbers: dict[tuple[str, str], int] = {}
        self._on_added = on_added

    def number_of(self, name: str, topic: str) -> int | None:
        """The number of a pair; `None` if the table is full without it."""
        pair = (name, topic)
        number = self._numbers.get(pair)
        if number is None and len(self.pairs) < limits.MAX_STRINGS:
            number = self._numbers[pair] = len(self.pairs)
            self.pairs.append(pair)
            self._on_added()
        return number
