"""What the ledger's publishers say: one event type for each delivery class, alike but for that.

The payload alone tells who made an event (origin), in which of its lives, and the how manieth it was. So the account
needs nothing of what is tested: no epoch, no sequence number, no name that the node put there.
"""

from __future__ import annotations

from typing import Final

from rapini import Event

__all__ = ["ENTRIES", "PREFIX", "BestEffortEntry", "DurableEntry", "Entry", "ReliableEntry"]

PREFIX: Final = "ledger/"


class Entry(Event):
    """One entry of a publisher's ledger."""

    origin: str
    life: int
    number: int
    pad: bytes = b""


class BestEffortEntry(Entry, topic="ledger/best_effort"):
    """May be dropped; every drop is counted."""


class ReliableEntry(Entry, topic="ledger/reliable", delivery="reliable"):
    """Arrives exactly once and in order while both sides live."""


class DurableEntry(Entry, topic="ledger/durable", delivery="durable"):
    """Is on disk before it counts as published."""


ENTRIES: Final[dict[str, type[Entry]]] = {
    "best_effort": BestEffortEntry,
    "reliable": ReliableEntry,
    "durable": DurableEntry,
}
"""The event type of each delivery class."""
