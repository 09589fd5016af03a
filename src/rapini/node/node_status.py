"""What `rapini status` shows: a running node at one moment, as plain data that crosses the control socket as JSON.

Made by `rapini.node.report_status` in the node, read by `rapini.read_status` anywhere else. No keys, no payloads. A
reader ignores fields that it does not know, and every field that is added later needs a default: so either side may be
the older one. Texts that came from peers (names, roles, failures) are as they said them: escape them before they reach
a terminal.
"""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["PROTOCOL_VERSION", "DialStatus", "NodeStatus", "NodeTotals", "Row", "SessionStatus"]

PROTOCOL_VERSION: Final = 1
"""Of the control socket's requests and answers."""

Row = dict[str, str | int | float | bool | None]
"""One line of a table whose columns are not settled yet: shown as it is, column by column."""


class DialStatus(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint that the node dials."""

    endpoint: str
    """The URL."""
    state: str
    """`waiting`, `resolving`, `connecting`, `up`, `standby` (its peer is connected by another way) or `done`."""
    peer: str = ""
    """Who answered there last."""
    attempts: int = 0
    """Attempts since it was up last."""
    next_attempt_s: float | None = None
    """Seconds until the next attempt; `None` when none is planned."""
    failure_code: str = ""
    """Why the last attempt failed, since it was up; empty if none did."""
    failure: str = ""
    """The same for people."""


class SessionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A peer, and the session with it, which outlives its connections."""

    name: str
    """The peer's name."""
    status: str
    """`up`, `resumed` or `restarted` while events flow (what it was when it came), `syncing` before they do, `lost` or
    `left` while it is away."""
    since_s: float
    """Seconds since it came up, was lost or left."""
    role: str = ""
    """While it is away: as it was last."""
    incarnation: str = ""
    """The first hexadecimal digits of what tells one run of the peer's program from another."""
    epoch: int = 0
    """Which channel of the session this is, from 1."""
    relation: str = ""
    """`first`, `back` or `restarted`: what its last connection was to us."""
    address: str = ""
    """Its network address; while it is away, the last one."""
    endpoint: str = ""
    """The URL dialled or listened on; while it is away, the last one."""
    mechanism: str = ""
    """`tls` or `plain`."""
    is_verified: bool = False
    """Whether the mechanism proved its name."""
    subscriptions: list[str] = []
    """Topic prefixes that it wants from us, at most 16 of them."""
    subscriptions_total: int = 0
    """How many there are."""
    queued_bytes: int = 0
    """Bytes that wait here for it and were not sent yet."""
    in_flight_bytes: int = 0
    """Bytes sent to it and not acknowledged yet."""
    max_queue_bytes: int = 0
    """Bound on the two together."""
    held_bytes: int = 0
    """Bytes received from it that our own application has not taken yet."""
    sent: int = 0
    """Events handed to a channel to it."""
    acknowledged: int = 0
    """Events that it has taken."""
    received: int = 0
    """Events received from it."""
    missed: int = 0
    """Events that it could not keep for us: the gaps that it told of."""
    dropped: dict[str, int] = {}
    """Events not delivered to it, by cause."""
    flows: list[Row] = []
    """What goes to it and comes from it by delivery class, of those classes that were used: numbers (a durable stream's
    are positions in it) and bytes."""


class NodeTotals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over all peers and topics since the node was made."""

    published: int = 0
    """Events published."""
    unrouted: int = 0
    """Published events that no peer had subscribed to."""
    not_encodable: int = 0
    """Published events that could not be encoded."""
    sent: int = 0
    """Events handed to a channel."""
    acknowledged: int = 0
    """Events that a peer has taken."""
    received: int = 0
    """Events received."""
    missed: int = 0
    """Events that peers could not keep for us: the gaps that they told of."""
    bad_events: int = 0
    """Received events that did not fit their type."""
    dropped: dict[str, int] = {}
    """Events not delivered, by cause."""
    queued_bytes: int = 0
    """Bytes that wait for peers and were not sent yet."""
    in_flight_bytes: int = 0
    """Bytes sent and not acknowledged yet."""
    held_bytes: int = 0
    """Bytes received that our own application has not taken yet."""
    connections: int = 0
    """Connections that there are, those in their handshake included."""
    channels_opened: int = 0
    """Handshakes completed."""
    peers_lost: int = 0
    """Peers that went without a goodbye."""
    peers_left: int = 0
    """Peers that said goodbye."""
    peers_resumed: int = 0
    """Peers that came back as the same incarnation."""
    peers_restarted: int = 0
    """Peers that came back as a new incarnation."""
    rejected: dict[str, int] = {}
    """Connections that came to nothing, by code."""
    turned_away: dict[str, int] = {}
    """Strangers that a listener shut out before they said who they are, by code."""
    statuses_dropped: int = 0
    """Status reports dropped because nobody read them."""


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A running node at one moment."""

    name: str
    """The node's name."""
    cluster: str
    """The cluster's name."""
    role: str
    """Its role; empty without one."""
    pid: int
    """Its process."""
    incarnation: str
    """The first hexadecimal digits of what tells this run of the program from another."""
    version: str
    """Of Rapini."""
    state: str
    """`running`, `closing` or `failed`."""
    failure: str = ""
    """Why it has failed."""
    time: float
    """When this was taken: seconds since the epoch (UTC), by the node's clock."""
    uptime_s: float
    """Seconds since the node was made."""
    control: str = ""
    """The path of its control socket."""
    listening: list[str] = []
    """Endpoints listened on, as bound."""
    subscriptions: list[str] = []
    """Topic prefixes that the node wants from its peers, at most 16 of them."""
    dials: list[DialStatus] = []
    """Endpoints dialled, at most 1,000 of them."""
    dials_total: int = 0
    """How many there are."""
    sessions: list[SessionStatus] = []
    """Peers, those that are up first, then by name; at most 1,000 of them."""
    sessions_total: int = 0
    """How many there are."""
    totals: NodeTotals = NodeTotals()
    """Sums over all peers and topics."""
    gaps: list[Row] = []
    """The last gaps that peers told of, the newest first; 20 at most."""
    stores: list[Row] = []
    """The replicas of stores that are here."""
