"""What a node counted: every event that was not delivered stands here, by peer, cause and topic."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

__all__ = ["Counters", "CountersSnapshot"]

_log = logging.getLogger("rapini.node")

MAX_BAD_EVENT_PLACES: Final = 1000
"""Places (peer, type, field) of bad events that are counted apart and reported; more are counted together."""

FORGOTTEN: Final = "(forgotten)"
"""In the place of a peer's name: peers that are not remembered any more."""

MAX_CODES: Final = 200
"""Codes of rejections that are counted apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CountersSnapshot:
    """Counters of one node at one moment. All count since the node was made."""

    published: Mapping[str, int]
    """Events published, by topic."""
    unrouted: Mapping[str, int]
    """Published events that no peer had subscribed to, by topic."""
    not_encodable: Mapping[str, int]
    """Published events that could not be encoded, by topic."""
    not_stored: Mapping[str, Mapping[str, int]]
    """Durable events that could not be written to the spool, by cause and topic."""
    dropped: Mapping[str, Mapping[str, Mapping[str, int]]]
    """Events not delivered: by peer, cause, topic."""
    sent: Mapping[str, int]
    """Events handed to a channel, by peer."""
    acknowledged: Mapping[str, int]
    """Events that the peer has taken, by peer."""
    received: Mapping[str, int]
    """Events received, by peer."""
    missed: Mapping[str, int]
    """Events that a peer could not keep for us (the gaps it told of), by peer."""
    gaps: Mapping[str, Mapping[str, int]]
    """The same by peer and reason."""
    bad_events: Mapping[str, int]
    """Received events that did not fit their type: by peer, type and path of the field."""
    channels_opened: int
    handshakes_resumed: int
    """Those of them that continued from a TLS ticket of an earlier handshake."""
    peers_lost: int
    peers_left: int
    peers_resumed: int
    peers_restarted: int
    rejected: Mapping[str, int]
    """Connections that came to nothing, by code."""
    turned_away: Mapping[str, int]
    """Strangers that a listener shut out before they said who they are, by code (`half_open_limit`, `silent`, …)."""
    relayed: Mapping[str, int]
    """Events of others that were sent on to somebody, by topic; each once, whatever the number of receivers."""
    relay_cut: Mapping[str, int]
    """Events that were not sent on, by cause: `own`, `duplicate`, `not_a_relay`, `hop_limit`, `bad_run`,
    `durable`."""
    repeated: Mapping[str, int]
    """Received events that were not delivered because they had come before by another way, were our own, or were
    brought by a peer that is not in `relays`: by the peer that sent them. Each consumer (`events()`, callbacks)
    counts for itself."""
    requests: Mapping[str, int]
    """Requests and addressed events of ours that have ended: `ok`, or the code of their `RequestError`."""
    served: Mapping[str, int]
    """Requests and addressed events of peers that were answered here: `ok`, or the code."""
    late_answers: int
    """Answers that came when nobody waited for them any more."""
    statuses_dropped: int
    """Status reports dropped because nobody read them."""
    encode_calls: int
    """Runs encoded: does not depend on the number of receivers."""
    flushes: int
    """Batches made; one of a single type and topic is one run."""

    @property
    def total_published(self) -> int:
        """Events published on all topics."""
        return sum(self.published.values())

    @property
    def total_received(self) -> int:
        """Events received from all peers."""
        return sum(self.received.values())

    @property
    def total_dropped(self) -> int:
        """Events dropped for all peers and causes."""
        return sum(sum(topics.values()) for causes in self.dropped.values() for topics in causes.values())


@dataclass(slots=True)
class Counters:
    """The counters themselves. Thread: under the node's lock, `bad_event` excepted (its consumer's)."""

    published: Counter[str] = field(default_factory=Counter)
    unrouted: Counter[str] = field(default_factory=Counter)
    not_encodable: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    received: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    not_stored: dict[str, Counter[str]] = field(default_factory=dict)
    gaps: dict[str, Counter[str]] = field(default_factory=dict)
    forgotten_drops: dict[str, Counter[str]] = field(default_factory=dict)
    """Dropped events, by cause and topic, for peers that are not remembered any more."""
    forgotten_acknowledged: int = 0
    bad_events: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    relayed: Counter[str] = field(default_factory=Counter)
    relay_cut: Counter[str] = field(default_factory=Counter)
    repeated: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    served: Counter[str] = field(default_factory=Counter)
    late_answers: int = 0
    channels_opened: int = 0
    handshakes_resumed: int = 0
    peers_lost: int = 0
    peers_left: int = 0
    peers_resumed: int = 0
    peers_restarted: int = 0
    statuses_dropped: int = 0

    def bad_event(self, peer: str, type_name: str, path: str, detail: str, count: int) -> None:
        """Count events that did not fit their type, and say so once for each place."""
        key = f"{peer} {type_name} {path}"
        if key not in self.bad_events:
            if len(self.bad_events) >= MAX_BAD_EVENT_PLACES:  # names of types are the peers' to invent
                self.bad_events["(others)"] += count
                return
            _log.warning("bad event from %s: %s at %s: %s", peer, type_name or "batch", path, detail)
        self.bad_events[key] += count

    def count_rejection(self, code: str) -> None:
        """Count a connection that came to nothing; codes may be the peers' own words."""
        self.rejected[code if code in self.rejected or len(self.rejected) < MAX_CODES else "(others)"] += 1

    def count_gap(self, peer: str, reason: str, count: int) -> None:
        """Count events that a peer could not keep; reasons may be the peers' own words."""
        self.missed[peer] += count
        reasons = self.gaps.setdefault(peer, Counter())
        reasons[reason if reason in reasons or len(reasons) < MAX_CODES else "(others)"] += count

    def count_not_stored(self, topic: str) -> int:
        """Durable events of a topic that could not be written so far."""
        return sum(topics[topic] for topics in self.not_stored.values())

    def forget(self, peer: str, dropped: Mapping[str, Mapping[str, int]], acknowledged: int) -> None:
        """A peer is not remembered any more: count what was its own under `(forgotten)`."""
        for cause, topics in dropped.items():
            self.forgotten_drops.setdefault(cause, Counter()).update(topics)
        self.forgotten_acknowledged += acknowledged
        for counter in (self.sent, self.received, self.missed, self.repeated):
            counter[FORGOTTEN] += counter.pop(peer, 0)
        if reasons := self.gaps.pop(peer, None):
            self.gaps.setdefault(FORGOTTEN, Counter()).update(reasons)

    def snapshot(
        self,
        *,
        dropped: Mapping[str, Mapping[str, Mapping[str, int]]],
        acknowledged: Mapping[str, int],
        encode_calls: int,
        flushes: int,
        turned_away: Mapping[str, int],
        late_answers: int,
        overdue: int,
    ) -> CountersSnapshot:
        """A copy that does not change."""
        return CountersSnapshot(
            published=dict(self.published),
            unrouted=dict(self.unrouted),
            not_encodable=dict(self.not_encodable),
            not_stored={cause: dict(topics) for cause, topics in self.not_stored.items()},
            sent=dict(self.sent),
            received=dict(self.received),
            missed=dict(self.missed),
            gaps={peer: dict(reasons) for peer, reasons in self.gaps.items()},
            bad_events=dict(self.bad_events),
            rejected=dict(self.rejected),
            dropped={**dropped, **({FORGOTTEN: self.forgotten_drops} if self.forgotten_drops else {})},
            acknowledged={
                **acknowledged,
                **({FORGOTTEN: self.forgotten_acknowledged} if self.forgotten_acknowledged else {}),
            },
            channels_opened=self.channels_opened,
            handshakes_resumed=self.handshakes_resumed,
            peers_lost=self.peers_lost,
            peers_left=self.peers_left,
            peers_resumed=self.peers_resumed,
            peers_restarted=self.peers_restarted,
            relayed=dict(self.relayed),
            relay_cut=dict(self.relay_cut),
            repeated=dict(self.repeated),
            requests=dict(self.requests),
            served=dict(self.served + Counter(deadline=overdue)),
            late_answers=self.late_answers + late_answers,
            statuses_dropped=self.statuses_dropped,
            encode_calls=encode_calls,
            flushes=flushes,
            turned_away=turned_away,
        )
