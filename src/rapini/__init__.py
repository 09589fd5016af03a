"""Rapini: secure events and logs between network monitors.

    from rapini import Event, Node

A `Node` listens, dials, publishes and subscribes; an `Event` is a class with typed fields. `AsyncNode` is the same node
for asyncio. Everything that Rapini's own programs do, they do with what is listed here.
"""

from __future__ import annotations

from rapini.errors import RapiniError
from rapini.events import Address, Event, Interval, Network, Port, RawEvent, Record, Time, UnknownEvent
from rapini.node import (
    AsyncNode,
    CountersSnapshot,
    EventRun,
    Node,
    NodeSettings,
    Origin,
    PeerInfo,
    PeerState,
    PeerStatus,
)
from rapini.secure.authority import Authority

__version__ = "0.1.0"

__all__ = [
    "Address",
    "AsyncNode",
    "Authority",
    "CountersSnapshot",
    "Event",
    "EventRun",
    "Interval",
    "Network",
    "Node",
    "NodeSettings",
    "Origin",
    "PeerInfo",
    "PeerState",
    "PeerStatus",
    "Port",
    "RapiniError",
    "RawEvent",
    "Record",
    "Time",
    "UnknownEvent",
]
