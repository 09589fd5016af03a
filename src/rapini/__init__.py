"""Rapini: secure events and logs between network monitors.

    from rapini import Event, Node

A `Node` listens, dials, publishes and subscribes; an `Event` is a class with typed fields. `AsyncNode` is the same node
for asyncio. Everything that Rapini's own programs do, they do with what is listed here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rapini.errors import RapiniError
    from rapini.events import Address, Event, Interval, Network, Port, RawEvent, Record, Time, UnknownEvent
    from rapini.node import (
        AsyncNode,
        CountersSnapshot,
        DialStatus,
        EventRun,
        Gap,
        Node,
        NodeSettings,
        NodeStatus,
        NodeTotals,
        Origin,
        PeerInfo,
        PeerState,
        PeerStatus,
        PublishOutcome,
        SessionStatus,
        Store,
        read_status,
        running_nodes,
    )
    from rapini.secure.authority import Authority
    from rapini.secure.describe import CertificateInfo, describe_certificates_untrusted
    from rapini.storage import FileCheckpoint, SqliteCheckpoint

__version__ = "0.1.0"

__all__ = [
    "Address",
    "AsyncNode",
    "Authority",
    "CertificateInfo",
    "CountersSnapshot",
    "DialStatus",
    "Event",
    "EventRun",
    "FileCheckpoint",
    "Gap",
    "Interval",
    "Network",
    "Node",
    "NodeSettings",
    "NodeStatus",
    "NodeTotals",
    "Origin",
    "PeerInfo",
    "PeerState",
    "PeerStatus",
    "Port",
    "PublishOutcome",
    "RapiniError",
    "RawEvent",
    "Record",
    "SessionStatus",
    "SqliteCheckpoint",
    "Store",
    "Time",
    "UnknownEvent",
    "describe_certificates_untrusted",
    "read_status",
    "running_nodes",
]


_HOMES = {
    "rapini.storage": ("FileCheckpoint", "SqliteCheckpoint"),
    "rapini.errors": ("RapiniError",),
    "rapini.events": ("Address", "Event", "Interval", "Network", "Port", "RawEvent", "Record", "Time", "UnknownEvent"),
    "rapini.secure.authority": ("Authority",),
    "rapini.secure.describe": ("CertificateInfo", "describe_certificates_untrusted"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: `rapini --help` and a small program's start need few of them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF.get(name, "rapini.node")), name)
    globals()[name] = value
    return value
