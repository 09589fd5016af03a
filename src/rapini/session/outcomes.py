"""What a link reports to its owner: past tense, plain data. Sans-IO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import msgspec

from rapini.events.delivery import Delivery
from rapini.secure.channel import Side
from rapini.secure.identity import PeerIdentity
from rapini.session.messages import Greeting

__all__ = [
    "AnswerReceived",
    "ChannelOpened",
    "CloseKind",
    "DurableReceived",
    "EventsAcknowledged",
    "EventsReceived",
    "GapReceived",
    "GreetingReceived",
    "LinkClosed",
    "LinkOutcome",
    "LinkUp",
    "PongReceived",
    "PositionTold",
    "RequestExpired",
    "RequestReceived",
    "StoreReceived",
    "StreamAnnounced",
    "SubscriptionsInForce",
    "SubscriptionsReceived",
]


class CloseKind(Enum):
    """How a link ended, as the node should understand it."""

    FAILED = "failed"
    """No session came about: handshake, greeting or transport failed."""
    REJECTED = "rejected"
    """One side refused the other, with a code."""
    LOST = "lost"
    """It was up, and ended without a goodbye."""
    LEFT = "left"
    """The peer said goodbye."""
    CLOSED = "closed"
    """We ended it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelOpened:
    """The channel is secured; call `Link.greet` next (initiator), or wait for `GreetingReceived` (responder)."""

    identity: PeerIdentity | None
    """Who the peer proved to be; `None` where the mechanism proves nothing."""
    cipher: str
    version: str
    is_resumed: bool = False
    """Whether the mechanism continued from an earlier handshake (a ticket of TLS)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GreetingReceived:
    """The peer said who it is and its identity agrees; call `Link.admit` or `Link.refuse` next."""

    greeting: Greeting
    identity: PeerIdentity | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkUp:
    """Both sides are ready: events may flow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionsReceived:
    """The topic prefixes the peer wants, all of them. Put them in force before anything else is published."""

    prefixes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionsInForce:
    """Our subscriptions of this version are in force at the peer."""

    version: int


class EventsReceived(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A batch, still encoded."""

    delivery: Delivery
    first_sequence: int
    count: int
    batch: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsAcknowledged:
    """What was taken at the peer: the number after the last event, by delivery class (cumulative)."""

    taken: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class GapReceived:
    """The peer could not keep these events: nothing will come for their numbers."""

    delivery: Delivery
    first_sequence: int
    count: int
    reason: str
    topics: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamAnnounced:
    """The peer has a durable stream; tell it where we are with `Link.tell_position`."""

    stream_id: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionTold:
    """Where the peer is in our durable stream."""

    stream_id: bytes
    position: int | None
    is_kept: bool


class DurableReceived(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Events of the peer's durable stream, still encoded; without any, its position alone has moved."""

    after: int
    first_sequence: int
    count: int
    batch: bytes


class StoreReceived(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A message for our replica of a store."""

    store: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PongReceived:
    """The peer answered a `Link.ping`."""

    token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestReceived:
    """The peer asks for something; answer it with `Link.answer`, else the link does when its time is over."""

    id: int
    topic: str
    wants_reply: bool
    payload: bytes
    """A batch, still encoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerReceived:
    """The peer answered a request of ours."""

    id: int
    code: str
    """Empty if all went well."""
    detail: str
    payload: bytes
    """A batch, still encoded, or nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestExpired:
    """The deadline of a request of ours has passed; its answer, should it come, is dropped."""

    id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkClosed:
    """The end, reported exactly once; flush `data_to_send()` and end the connection."""

    kind: CloseKind
    code: str
    side: Side
    detail: str
    retry_after_s: float = 0.0
    """What the peer asked for, 0 if it did not."""


LinkOutcome = (
    ChannelOpened
    | GreetingReceived
    | LinkUp
    | SubscriptionsReceived
    | SubscriptionsInForce
    | EventsReceived
    | EventsAcknowledged
    | GapReceived
    | StreamAnnounced
    | PositionTold
    | DurableReceived
    | StoreReceived
    | PongReceived
    | RequestReceived
    | AnswerReceived
    | RequestExpired
    | LinkClosed
)
