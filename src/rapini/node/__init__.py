"""The public API: `Node` joins transports to sessions and owns the loop and the clock."""

from rapini.node.aio import AsyncNode
from rapini.node.counters import CountersSnapshot
from rapini.node.inbox import EventRun
from rapini.node.node import Node
from rapini.node.settings import NodeSettings, load_table
from rapini.node.status import Gap, Origin, PeerInfo, PeerState, PeerStatus, PublishOutcome

__all__ = [
    "AsyncNode",
    "CountersSnapshot",
    "EventRun",
    "Gap",
    "Node",
    "NodeSettings",
    "Origin",
    "PeerInfo",
    "PeerState",
    "PeerStatus",
    "PublishOutcome",
    "load_table",
]
