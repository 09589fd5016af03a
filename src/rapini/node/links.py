"""Connections become links: channel, envelope and bytes of one connection, and what the node remembers of it.

A `LinkRecord` joins one transport connection to one session link. It moves bytes both ways, keeps what a parked
connection could not take, and knows when the link's next timer was last asked for.
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import TYPE_CHECKING, Final

from rapini import limits
from rapini.node.status import PeerInfo
from rapini.secure.envelope import HEADER_BYTES, EnvelopeGate
from rapini.session.link import Link, LinkState
from rapini.session.messages import Greeting
from rapini.session.roster import LinkId, Relation
from rapini.transport import Connection, SendResult

if TYPE_CHECKING:
    from rapini.node.dials import Dial
    from rapini.node.sessions import Session

__all__ = ["LinkRecord"]

_PIECE_BYTES: Final = limits.MAX_CARRIER_BYTES - HEADER_BYTES
_link_ids = itertools.count(1)


class LinkRecord:
    """One connection with its link. Touched under the node's lock.

    Args:
        connection: The transport's side.
        link: The session's side.
        gate: The envelope of message-based transports; `None` for streams.
        mechanism: `tls` or `plain`.
        dial: Which of our dials it came from; `None` if it was accepted.
    """

    __slots__ = (
        "__weakref__",
        "connection",
        "dial",
        "gate",
        "greeting",
        "id",
        "in_force",
        "in_service",
        "is_faulty",
        "is_finished",
        "is_resumed",
        "link",
        "mechanism",
        "prefixes",
        "probe_token",
        "relation",
        "session",
        "stream_id",
        "timer_at",
        "unsent",
        "unsent_bytes",
    )

    def __init__(
        self, *, connection: Connection, link: Link, gate: EnvelopeGate | None, mechanism: str, dial: Dial | None
    ) -> None:
        self.id = LinkId(next(_link_ids))
        self.connection = connection
        self.link = link
        self.gate = gate
        self.mechanism = mechanism
        self.dial = dial
        self.session: Session | None = None
        self.relation = Relation.FIRST
        self.greeting: Greeting | None = None
        """What we said."""
        self.prefixes: tuple[str, ...] = ()
        self.in_force = -1
        """The version of our subscriptions that is in force at the peer."""
        self.stream_id = b""
        """Of the peer's durable stream, once it was announced."""
        self.probe_token = -1
        self.timer_at = float("inf")
        """When a timer of ours is armed; the link may want it later, never earlier."""
        self.unsent: deque[bytes] = deque()
        self.unsent_bytes = 0
        self.in_service = False
        self.is_finished = False
        self.is_resumed = False
        """Whether its handshake was a resumed one."""
        self.is_faulty = False
        """A fault of ours ended it; see `Core.contain`."""

    @property
    def is_up(self) -> bool:
        """Whether events may flow."""
        return self.link.state is LinkState.UP

    def transmit(self) -> None:
        """Move what the link has to say to the connection, as far as it goes."""
        data = self.link.data_to_send()
        if data and not self.unsent and len(data) <= _PIECE_BYTES:  # nearly always: no queue
            message = data if self.gate is None else self.gate.seal(data)
            if self.connection.send(message) is SendResult.PARKED:
                self.unsent.append(message)
                self.unsent_bytes += len(message)
            return
        if data:
            for at in range(0, len(data), _PIECE_BYTES):
                self._queue(data if len(data) <= _PIECE_BYTES else data[at : at + _PIECE_BYTES])
        while self.unsent:
            message = self.unsent[0]
            result = self.connection.send(message)
            if result is SendResult.PARKED:
                return
            self.unsent.popleft()
            self.unsent_bytes -= len(message)
            if result is SendResult.GONE:
                self.unsent.clear()
                self.unsent_bytes = 0

    def _queue(self, piece: bytes) -> None:
        message = piece if self.gate is None else self.gate.seal(piece)  # once: the first one opens the channel
        self.unsent.append(message)
        self.unsent_bytes += len(message)

    def info(self) -> PeerInfo:
        """The peer as it stands."""
        link = self.link
        identity = link.identity
        greeting = link.greeting
        return PeerInfo(
            name=link.peer,
            role=greeting.role if greeting is not None else "",
            address=self.connection.address,
            endpoint=self.connection.endpoint,
            mechanism=self.mechanism,
            is_verified=identity is not None,
            fingerprint_sha256=identity.fingerprint_sha256 if identity is not None else "",
            epoch=link.epoch or 0,
            is_up=self.is_up,
            subscriptions=self.prefixes,
            queued_bytes=self.session.outbox.kept_bytes if self.session is not None else 0,
            is_tls_resumed=self.is_resumed,
        )
