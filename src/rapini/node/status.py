"""What a node reports about its peers: status is data, in order with the events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from rapini.events.delivery import DeliveryName
from rapini.secure.channel import Side

__all__ = ["Gap", "Origin", "PeerInfo", "PeerState", "PeerStatus", "PublishOutcome"]


class PeerState(Enum):
    """What happened to a peer, or to an attempt to reach one."""

    CONNECTING = "connecting"
    """An endpoint is dialled; `code` says why the attempt before failed."""
    HANDSHAKING = "handshaking"
    """The connection stands, the mechanism's handshake runs."""
    SYNCING = "syncing"
    """The peer is admitted; state is exchanged."""
    UP = "up"
    """Events flow, with a peer not seen before by this process."""
    RESUMED = "resumed"
    """Events flow again: the same incarnation is back."""
    RESTARTED = "restarted"
    """Events flow again, with a new incarnation: it was started anew and knows nothing of what was."""
    LOST = "lost"
    """The peer is gone without a goodbye. Nothing of this epoch comes after it."""
    LEFT = "left"
    """The peer said goodbye."""
    RELEASED = "released"
    """Its lease is over: what was kept for it was dropped, and becomes a `Gap` if it returns."""
    REJECTED = "rejected"
    """No session: one side refused the other, or the handshake failed; `code`, `side` and `detail` say why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStatus:
    """One change, in order with events: `LOST` of epoch n comes after all events of n and before any of n + 1."""

    state: PeerState
    peer: str
    """The peer's name, or an empty string while it is not known."""
    code: str = ""
    """Why, for programs; stable."""
    detail: str = ""
    """Why, for people."""
    side: Side | None = None
    """At whom the fault lies, or who refused; `None` where that means nothing."""
    endpoint: str = ""
    """The URL dialled or listened on."""
    address: str = ""
    """The peer's network address."""
    epoch: int = 0
    """Which channel of the session this is about, from 1; 0 before there is one."""
    time: float = 0.0
    """Seconds since the epoch (UTC), by our clock."""

    @property
    def is_up(self) -> bool:
        """Whether events flow now."""
        return self.state in (PeerState.UP, PeerState.RESUMED, PeerState.RESTARTED)

    def __str__(self) -> str:
        who = self.peer or self.address or self.endpoint
        why = f" ({self.code})" if self.code else ""
        return f"{who}: {self.state.value}{why}" + (f": {self.detail}" if self.detail else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Events that a peer could not keep for us: in their place, in order with those that came.

    Each event that a peer published for us is either delivered or covered by exactly one gap.
    """

    peer: str
    """Who published them."""
    delivery: DeliveryName
    """Their class; numbers are counted by session and class."""
    count: int
    """How many events."""
    first: int
    """Number of the first."""
    last: int
    """Number of the last."""
    reason: str
    """Why, for programs: `queue_full`, `peer_lost`, `lost_in_transit`, `unacknowledged` (they were sent to our last
    incarnation, which may have taken them), `lease_expired`, …"""
    topics: Mapping[str, int]
    """How many of them by topic; empty where the peer does not know any more."""
    epoch: int
    """Of the channel that told us."""
    time: float = 0.0
    """Seconds since the epoch (UTC), by our clock."""

    def __str__(self) -> str:
        events = "event" if self.count == 1 else "events"
        return f"{self.peer}: gap of {self.count} {self.delivery} {events} ({self.reason})"


class PublishOutcome(Enum):
    """What became of an event at `publish` or `try_publish`; what becomes of it later stands in the counters."""

    ACCEPTED = "accepted"
    """It was taken: it is on its way, or waits in the queues of those that want it."""
    ON_DISK = "on_disk"
    """It is durable, and on disk."""
    UNROUTED = "unrouted"
    """Nobody has subscribed to its topic."""
    FULL = "full"
    """A queue that it needs is full: nothing was taken. Only `try_publish` says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerInfo:
    """A peer as we know it; also what an admission hook is asked about."""

    name: str
    role: str
    address: str
    endpoint: str
    mechanism: str
    is_verified: bool
    """Whether the mechanism proved the name; false for `plain`."""
    fingerprint_sha256: str
    """Of the peer's certificate, hexadecimal; empty without one."""
    epoch: int = 0
    is_up: bool = False
    """Whether events flow now."""
    subscriptions: tuple[str, ...] = ()
    """The topic prefixes that it wants from us."""
    queued_bytes: int = 0
    """Bytes waiting for it here, unacknowledged ones included."""
    is_tls_resumed: bool = False
    """Whether this connection's handshake continued from a TLS ticket of an earlier one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where an event came from: shared by all events of a run."""

    peer: str
    """The name of the node that sent it."""
    topic: str
    epoch: int
    node: str
    """The name of the node that published it: the same, unless it was relayed; then what the relay says."""
    hops: int = 0
    """How many relays it has passed."""

    def __str__(self) -> str:
        return self.node
