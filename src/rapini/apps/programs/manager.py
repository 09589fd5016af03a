"""`rapini manager`: subscribes to everything and keeps a live summary of who is there and what happens.

Where it sits: one `Node` that others dial. It writes no logs; peers' statuses are told at once, and every few seconds
the events of each peer with the busiest hosts, services and DNS names.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from rapini import EventRun, Node, PeerStatus
from rapini.apps.ledger import Ledger
from rapini.apps.programs.book import Book
from rapini.apps.programs.report import Reporter
from rapini.apps.programs.starting import NodePlan, consume, open_node
from rapini.apps.programs.stopping import Stop
from rapini.apps.schema import Connection, DnsExchange

__all__ = ["ManagerOptions", "Summary", "run_manager"]

MAX_KEYS: Final = 10_000
"""Hosts, services or names counted at a time; when there are more, the rarer half is forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagerOptions:
    """What `rapini manager` was told."""

    interval_s: float = 10.0
    """Seconds between two summaries; 0 for none but the last."""
    top: int = 3
    """How many hosts, services and names a summary names."""


@dataclass(slots=True)
class Summary:
    """What happened lately, and since the beginning. Thread: the program's."""

    since: float = field(default_factory=time.monotonic)
    lately: Counter[str] = field(default_factory=Counter)
    """Events by peer since the last summary."""
    total: Counter[str] = field(default_factory=Counter)
    talkers: Counter[str] = field(default_factory=Counter)
    """Bytes of payload by originating host."""
    services: Counter[str] = field(default_factory=Counter)
    names: Counter[str] = field(default_factory=Counter)
    """DNS queries by name."""

    def take(self, run: EventRun) -> None:
        """Count a run of events, which are all of one type."""
        peer = run.origin.peer
        self.lately[peer] += len(run.events)
        self.total[peer] += len(run.events)
        for event in run.events:
            if isinstance(event, Connection):
                sent = (event.orig_bytes or 0) + (event.resp_bytes or 0)
                self.talkers[str(event.orig_h)] += sent
                self.services[event.service or event.proto] += 1
            elif isinstance(event, DnsExchange) and event.query is not None:
                self.names[event.query] += 1
        for counts in (self.talkers, self.services, self.names):
            if len(counts) > MAX_KEYS:
                kept = dict(counts.most_common(MAX_KEYS // 2))
                counts.clear()
                counts.update(kept)

    def rates(self) -> dict[str, float]:
        """Events a second by peer since the last call."""
        now = time.monotonic()
        seconds = max(now - self.since, 1e-3)
        rates = {peer: count / seconds for peer, count in sorted(self.lately.items())}
        self.lately = Counter(dict.fromkeys(rates, 0))
        self.since = now
        return rates


def run_manager(plan: NodePlan, options: ManagerOptions, *, reporter: Reporter, ledger: Ledger, stop: Stop) -> int:
    """Run a manager until it is told to stop.

    Returns:
        The exit status: 0, or 130 after Ctrl-C.

    Raises:
        ConfigError, TransportError: As `Node`.
    """
    book = Book(ledger, reporter)
    summary = Summary()
    due = time.monotonic() + options.interval_s
    with contextlib.closing(open_node(plan, reporter, "")) as node:
        reporter.say("ready", "")
        for item in consume(node, stop):
            if isinstance(item, PeerStatus):
                book.status(item)
            elif isinstance(item, EventRun):
                ledger.add(f"taken/{item.origin.peer}/{item.origin.epoch}", len(item.events))
                summary.take(item)
            book.tick(node)
            if options.interval_s and time.monotonic() >= due:
                due = time.monotonic() + options.interval_s
                _tell(summary, node, options, reporter)
        node.close()
        book.enter(node)
        _tell(summary, node, options, reporter)
    return stop.exit_status


def _tell(summary: Summary, node: Node, options: ManagerOptions, reporter: Reporter) -> None:
    up = [peer.name for peer in node.peers() if peer.is_up]
    rates = summary.rates()
    tops = {
        "talkers": dict(summary.talkers.most_common(options.top)),
        "services": dict(summary.services.most_common(options.top)),
        "names": dict(summary.names.most_common(options.top)),
    }
    parts = [f"{peer} {rate:.0f}/s" for peer, rate in rates.items()] or ["no events yet"]
    parts += [f"{what}: {', '.join(counts)}" for what, counts in tops.items() if counts]
    total = summary.total.total()
    text = f"{time.strftime('%H:%M:%S')} = {len(up)} up, {total} events; {'; '.join(parts)}"
    per_second = {peer: round(rate) for peer, rate in rates.items()}
    reporter.say("traffic", text, up=up, total=total, events_per_s=per_second, **tops)
