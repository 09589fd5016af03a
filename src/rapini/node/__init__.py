"""The public API: `Node` joins transports to sessions and owns the loop and the clock."""

from rapini.node.aio import AsyncNode
from rapini.node.control_client import read_status, running_nodes
from rapini.node.counters import CountersSnapshot
from rapini.node.inbox import EventRun
from rapini.node.node import Node
from rapini.node.node_status import DialStatus, NodeStatus, NodeTotals, SessionStatus
from rapini.node.settings import NodeSettings, load_table
from rapini.node.status import Gap, Origin, PeerInfo, PeerState, PeerStatus, PublishOutcome
from rapini.node.store import Store

__all__ = [
    "AsyncNode",
    "CountersSnapshot",
    "DialStatus",
    "EventRun",
    "Gap",
    "Node",
    "NodeSettings",
    "NodeStatus",
    "NodeTotals",
    "Origin",
    "PeerInfo",
    "PeerState",
    "PeerStatus",
    "PublishOutcome",
    "SessionStatus",
    "Store",
    "load_table",
    "read_status",
    "running_nodes",
]
