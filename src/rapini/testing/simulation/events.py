"""What simulated nodes publish: numbered events that say who made them, so that a ledger can be kept.

`number` counts an incarnation's events from 0, whatever their topic and class, in the order in which they were
published. So both order and completeness can be read off the receiving side.
"""

from __future__ import annotations

from rapini.events import Event

__all__ = ["SimEvent", "SimLog"]


class SimEvent(Event, topic="sim/events", name="rapini.testing.SimEvent"):
    """An event of a simulation."""

    origin: str
    run: int
    """Which start of the origin, from 1."""
    number: int
    filler: bytes = b""


class SimLog(Event, topic="sim/logs", name="rapini.testing.SimLog"):
    """Another type with a topic of its own, so that runs alternate."""

    origin: str
    run: int
    number: int
    filler: bytes = b""
