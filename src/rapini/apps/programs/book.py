"""A program's book-keeping: what its node has counted goes into the ledger, a few times a second.

Where it sits: every program's loop calls `Book.tick`. Names of counters are paths:

    published                     events given to `publish` (stored just before each call)
    sent/PEER, acknowledged/PEER  events handed to a channel to PEER; taken by it
    dropped/PEER/CAUSE            events for PEER that were not delivered
    unrouted, not_encodable       events nobody had subscribed to; that could not be encoded
    epoch/PEER/N                  1: the channel of epoch N to PEER was ours
    received/PEER, missed/PEER    events that came from PEER; that it sent and that never came
    taken/PEER/N                  events of PEER's epoch N that the program took from its node
    bad/PEER                      events of PEER that did not fit their type
    logged/LOG, logloss/LOG/CAUSE rows in a log; events that will not be in it
    channels_opened, peers_lost, peers_left, peers_resumed, peers_restarted, rejected/CODE
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from rapini import CountersSnapshot, Node, PeerState, PeerStatus
from rapini.apps.ledger import Ledger
from rapini.apps.programs.report import Reporter

__all__ = ["TICK_S", "Book"]

TICK_S: Final = 0.2
"""Seconds between two entries."""


class Book:
    """Copies a node's counters into a ledger and tells them. Thread: the program's.

    Args:
        ledger: Where the counters go.
        reporter: Who is told.
        also: Called at each entry, to add the program's own counters.
    """

    def __init__(self, ledger: Ledger, reporter: Reporter, also: Callable[[], None] | None = None) -> None:
        self.ledger = ledger
        self.reporter = reporter
        self._also = also
        self._due = 0.0

    def tick(self, node: Node) -> None:
        """Make an entry if it is time for one. Call it often."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + TICK_S
            self.enter(node)

    def enter(self, node: Node) -> None:
        """Make an entry."""
        _record(self.ledger, node.counters())
        if self._also is not None:
            self._also()
        self.reporter.counters(self.ledger.snapshot())

    def status(self, status: PeerStatus) -> None:
        """A peer's status came: tell it, and remember which epochs were ours."""
        if status.epoch and status.peer and (status.is_up or status.state is PeerState.SYNCING):
            self.ledger.set(f"epoch/{status.peer}/{status.epoch}", 1)
        self.reporter.status(status)


def _record(ledger: Ledger, counters: CountersSnapshot) -> None:
    for name, by_peer in (
        ("sent", counters.sent),
        ("acknowledged", counters.acknowledged),
        ("received", counters.received),
        ("missed", counters.missed),
        ("rejected", counters.rejected),
    ):
        for peer, count in by_peer.items():
            ledger.set(f"{name}/{peer}", count)
    for peer, causes in counters.dropped.items():
        for cause, topics in causes.items():
            ledger.set(f"dropped/{peer}/{cause}", sum(topics.values()))
    bad: dict[str, int] = {}
    for key, count in counters.bad_events.items():
        peer = key.partition(" ")[0]
        bad[peer] = bad.get(peer, 0) + count
    for peer, count in bad.items():
        ledger.set(f"bad/{peer}", count)
    ledger.set("unrouted", sum(counters.unrouted.values()))
    ledger.set("not_encodable", sum(counters.not_encodable.values()))
    for name in ("channels_opened", "peers_lost", "peers_left", "peers_resumed", "peers_restarted"):
        ledger.set(name, getattr(counters, name))
