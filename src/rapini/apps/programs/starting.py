"""How a program's node begins, and how it takes its events until the end.

It subscribes first and opens its doors second. A peer that comes up learns the subscriptions before it sends its first
event; a door that opened earlier would let peers in which publish to nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from rapini import EventRun, Gap, Node, NodeSettings, PeerStatus
from rapini.apps.programs.report import Reporter
from rapini.apps.programs.stopping import Stop
from rapini.errors import ConfigError

__all__ = ["NodePlan", "consume", "open_node"]

_TURN_S: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """A node to be: its name and settings."""

    name: str
    settings: NodeSettings


def open_node(plan: NodePlan, reporter: Reporter, *prefixes: str) -> Node:
    """Make the node, subscribe, then listen and dial, and report each endpoint as bound (`listening`).

    Raises:
        ConfigError: `no_endpoint`, and as `Node`.
        TransportError: As `Node.listen`.
    """
    if not plan.settings.listen and not plan.settings.connect:
        remedy = "give --listen URL or --connect URL, for example --listen zmq+tls://127.0.0.1:9750"
        raise ConfigError("no_endpoint", f"{plan.name} has no endpoint", remedy=remedy)
    node = Node(plan.name, config=msgspec.structs.replace(plan.settings, listen=[], connect=[]))
    try:
        if prefixes:
            node.subscribe(*prefixes)
        for url in plan.settings.listen:
            bound = node.listen(url)
            reporter.say("listening", f"{plan.name} listens on {bound}", endpoint=bound)
        for url in plan.settings.connect:
            node.connect(url, wait_s=0)
    except BaseException:
        node.close()
        raise
    return node


def consume(node: Node, stop: Stop) -> Iterator[EventRun | PeerStatus | Gap | None]:
    """Everything that comes, until told to stop and then what had come by then.

    Yields `None` now and then when nothing comes, so that the caller's other business goes on. Never leave the loop
    early: what a batch still held would be lost.
    """
    is_stopping = False
    while not node.inbox.is_ended:
        for item in node.items(timeout_s=_TURN_S):
            yield item
            if stop.is_set and not is_stopping:
                is_stopping = True
                node.stop()
        if stop.is_set and not is_stopping:
            is_stopping = True
            node.stop()
        yield None
