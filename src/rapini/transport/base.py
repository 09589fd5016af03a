"""The contract between a node and what carries its bytes: connections, outcomes, transports.

Where it sits: the bottom of `rapini.transport`; every carrier implements it and one suite of tests
(`tests/integration/transport/test_contract.py`) holds for all of them.

How a node drives a transport. The node owns one lock and one `selectors` selector. Every method of a transport and of
its connections is called under that lock; the I/O thread waits in `selector.select()` outside it::

    ready = selector.select(timeout)                  # no lock
    with lock:
        for key, mask in ready:
            key.data.transport.on_ready(key, mask)    # key.data is a Registration
        for outcome in transport.outcomes(): ...
        timeout = 0 if transport.has_more else transport.next_timer() - clock()

`has_more` must be asked after every `outcomes()` and be honoured: 0MQ's descriptors are edge-triggered, so what a
bounded turn left behind announces itself no second time. Other threads may send, dial, abort and listen under the lock;
where that leaves something for the I/O thread to do, the transport calls the `wake` it was made with, and `outcomes()`
must then be called soon.

The life of a connection, as outcomes::

    dialled:   (Connected, (Received | Writable)*, Disconnected) | ConnectFailed | Disconnected (aborted while dialling)
    accepted:  Accepted, (Received | Writable)*, Disconnected

The last one comes exactly once, after everything else of that connection.

Source: architecture.md sections 3 and 5a.
"""

from __future__ import annotations

import enum
import itertools
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from selectors import SelectorKey
from typing import Any, Final, NamedTuple, NewType, Protocol, TypeAlias

import msgspec

from rapini import defaults, limits
from rapini.transport.endpoint import Endpoint

__all__ = [
    "Accepted",
    "Address",
    "ConnectFailed",
    "Connected",
    "Connection",
    "ConnectionId",
    "Counters",
    "Disconnected",
    "Options",
    "Received",
    "Registration",
    "SendResult",
    "Transport",
    "TransportOutcome",
    "Wake",
    "Writable",
    "format_address",
]

ConnectionId = NewType("ConnectionId", int)
"""Names a connection within the process; never used again."""

Address: TypeAlias = tuple[Any, ...]
"""A numeric socket address as `socket` has it: `(host, port)`, or for IPv6 `(host, port, flow, scope)`."""

Wake: TypeAlias = Callable[[], None]
"""Makes the node's I/O thread return from `select()`. Called under the node's lock, from any thread."""

_connection_ids: Final = itertools.count(1)


class SendResult(enum.Enum):
    """What became of a `send()`."""

    SENT = "sent"
    """The transport took all of it. That is no delivery: only the peer's acknowledgement is."""
    PARKED = "parked"
    """It would block, and nothing was taken. A `Writable` follows when another try is worth while."""
    GONE = "gone"
    """The connection is over, or about to be found so; its terminal outcome follows."""


class Connection(ABC):
    """One TCP connection, dialled or accepted: the identity of a link for its whole life. It never reconnects.

    Thread: any, under the node's lock.

    Args:
        endpoint: The URL that was dialled or is listened on.
        address: The peer's address for people.
        is_dialled: We made it, rather than accepted it.
        is_message_based: Whether each `send()` arrives as one message, or as part of a stream.
    """

    __slots__ = (
        "_is_authenticated",
        "address",
        "endpoint",
        "id",
        "is_dialled",
        "is_message_based",
        "user",
    )

    def __init__(self, *, endpoint: str, address: str, is_dialled: bool, is_message_based: bool) -> None:
        self.id = ConnectionId(next(_connection_ids))
        self.endpoint = endpoint
        self.address = address
        self.is_dialled = is_dialled
        self.is_message_based = is_message_based
        self.user: object | None = None
        self._is_authenticated = False

    def __repr__(self) -> str:
        way = "to" if self.is_dialled else "from"
        return f"<{type(self).__name__} {self.id} {way} {self.address}>"

    @property
    def authenticated(self) -> bool:
        """The owner knows who this is. Until it says so, an accepted connection counts as half open."""
        return self._is_authenticated

    @authenticated.setter
    def authenticated(self, value: bool) -> None:
        if value and not self._is_authenticated:
            self._is_authenticated = True
            self._on_authenticated()

    def _on_authenticated(self) -> None:
        """Leave the half-open connections; for listeners that count them."""
        return

    @abstractmethod
    def send(self, data: bytes) -> SendResult:
        """Hand over one message (or a piece of the stream), whole or not at all; never blocks.

        Args:
            data: Up to `limits.MAX_CARRIER_BYTES`.

        Raises:
            LocalError: `too_large`.
        """

    @abstractmethod
    def abort(self) -> None:
        """End it now; what is unsent or unread is lost. One terminal outcome (`aborted`) still follows."""

    @abstractmethod
    def close(self, linger_s: float = 0.5) -> None:
        """End it as soon as what was sent has had its chance to leave: for the last alert, or the goodbye.

        Nothing more is received from it and nothing more may be sent; its terminal outcome (`aborted`) comes
        within `linger_s`, or sooner when the peer closes.

        Args:
            linger_s: Longest time it may take, in seconds.
        """


@dataclass(frozen=True, slots=True)
class Accepted:
    """Somebody connected to an endpoint we listen on. Nobody has said who it is; the dialling side speaks first."""

    connection: Connection


@dataclass(frozen=True, slots=True)
class Connected:
    """A dialled connection is ready to send on."""

    connection: Connection


@dataclass(frozen=True, slots=True)
class ConnectFailed:
    """A dialled connection did not come about; the last outcome of that connection.

    `code` is `refused`, `timeout`, `unreachable`, `closed` (before it was ready), `not_zmq` or `connect_failed`.
    """

    connection: Connection
    code: str
    detail: str


class Received(msgspec.Struct, frozen=True):
    """Bytes from the peer: one message, or a piece of its stream. May be hostile."""

    connection: Connection
    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Writable:
    """A connection that parked a send may take one again."""

    connection: Connection


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The last outcome of a connection that had been ready, or was aborted.

    `code` is `closed`, `reset`, `timeout`, `aborted` (by us), or why we refused it: `silent` (it said nothing for too
    long, or was pushed out while silent), `bad_routing_id`, `bad_framing`, `flood`, `ambiguous`, `unlistened`.
    """

    connection: Connection
    code: str
    detail: str


TransportOutcome: TypeAlias = Accepted | Connected | ConnectFailed | Received | Writable | Disconnected


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a node may tune about its transports."""

    connect_timeout_s: float = defaults.CONNECT_TIMEOUT_S
    """For the transport's connection alone."""
    first_message_timeout_s: float = 5.0
    """An accepted connection that has sent nothing for this long is ended (`silent`). 0MQ's own greeting is not
    counted as sending; a stream must send `gate.SPOKEN_BYTES`. After that the deadline is the owner's."""
    silence_grace_s: float = 0.25
    """When the half-open limit is reached, a connection silent for this long makes room for a newcomer."""
    max_half_open: int = limits.MAX_HALF_OPEN
    """Unauthenticated connections of one listener."""
    max_message_bytes: int = limits.MAX_CARRIER_BYTES
    """Largest message in either direction."""


@dataclass(slots=True)
class Counters:
    """What a transport has seen; read under the node's lock."""

    accepted: int = 0
    connected: int = 0
    connect_failed: int = 0
    ended: int = 0
    """Connections, accepted or connected, that are over."""
    messages_received: int = 0
    bytes_received: int = 0
    messages_sent: int = 0
    bytes_sent: int = 0
    parked: int = 0
    """Sends that would have blocked."""
    refused: Counter[str] = field(default_factory=Counter)
    """Accepted connections that we ended, by cause: `half_open_limit`, `silent`, `bad_routing_id`, …"""
    dropped: Counter[str] = field(default_factory=Counter)
    """Received messages that nobody was given, by cause: `refused`, `aborted`, `unmatched`, `ambiguous`."""
    accept_errors: Counter[str] = field(default_factory=Counter)
    """Accepts that failed, by the name of the errno."""


class Registration(NamedTuple):
    """The `data` of every selector key that a transport registers."""

    transport: Transport
    target: object
    """The transport's own."""


class Transport(Protocol):
    """A carrier of connections. One of each kind per node, made when first needed.

    Thread: any, under the node's lock.
    """

    @property
    def has_more(self) -> bool:
        """There is work that no descriptor will announce: call `outcomes()` again without waiting."""

    def listen(self, endpoint: Endpoint) -> Endpoint:
        """Accept connections; returns the endpoint as bound, a port of 0 resolved.

        Raises:
            TransportError: `address_in_use`, `bad_address`, `permission` or `listen_failed`.
        """

    def unlisten(self, endpoint: Endpoint) -> None:
        """Stop accepting at what `listen()` returned, and end what was accepted there (`unlistened`).

        0MQ cannot keep the connections of an endpoint that it gives up, so no transport does.
        """

    def dial(self, endpoint: Endpoint, address: Address) -> Connection:
        """Start one attempt to connect to a numeric address; never blocks.

        Raises:
            TransportError: `bad_address` or `dial_failed`, for what is wrong on our side.
        """

    def on_ready(self, key: SelectorKey, mask: int) -> None:
        """Take note that a registered descriptor is ready; the work is done by `outcomes()`."""

    def outcomes(self) -> list[TransportOutcome]:
        """Do the work that is ready, within bounds, and return what happened, in order."""

    def next_timer(self) -> float | None:
        """When `outcomes()` must be called even if no descriptor is ready, in monotonic seconds."""

    @property
    def counters(self) -> Counters:
        """What was seen so far."""

    def close(self) -> None:
        """End everything, without outcomes. The transport is of no use afterwards."""


def format_address(address: object) -> str:
    """Write a socket address for people: `127.0.0.1:4711`, `[::1]:4711`; IPv4 in IPv6 as IPv4."""
    if not isinstance(address, tuple) or len(address) < 2:
        return "unknown"
    host, port = str(address[0]), address[1]
    if host.startswith("::ffff:") and "." in host:
        host = host.removeprefix("::ffff:")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
