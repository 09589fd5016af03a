"""The contract of every mechanism: bytes and the time go in, bytes and outcomes come out.

Between the node, which owns transports and clock, and the session, which only ever sees `DataReceived`. One driver
serves all mechanisms, and after whatever it did it always does four things: deliver, flush (`data_to_send`), handle
`outcomes`, re-arm `next_timer`.

A channel is one run of a mechanism on one transport connection; it never outlives that connection, and a new
connection is a new channel. What a peer does wrong becomes an outcome, never an exception. After `ChannelFailed` or
`ChannelClosed` the channel is inert: whatever arrives is ignored, but what it had left to say (a TLS alert above all)
still comes out of `data_to_send`, so flush before you cut the connection.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import msgspec

from rapini.secure.identity import PeerIdentity

__all__ = [
    "Buffer",
    "Channel",
    "ChannelClosed",
    "ChannelFailed",
    "DataReceived",
    "HandshakeCompleted",
    "Outcome",
    "Side",
]

Buffer = bytes | bytearray | memoryview
"""Bytes as channels take them: nothing is kept after the call returns."""


class Side(Enum):
    """Which side ended a channel: the one that judged, not necessarily the one that was at fault."""

    OURS = "ours"
    """We refused or gave up; the detail is first-hand."""
    THEIRS = "theirs"
    """The peer refused us or went away; the detail is what it told us."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandshakeCompleted:
    """Both ends hold the same keys, and the peer proved to be `identity`.

    With TLS 1.3 the initiator reaches this *before* the responder has judged the initiator's certificate: a
    `ChannelFailed` with `Side.THEIRS` may still follow. A peer is up only after the session's `Welcome`.
    """

    identity: PeerIdentity | None
    """`None` where the mechanism proves nobody (plain)."""
    cipher: str
    version: str
    is_resumed: bool = False
    """Whether it continued from a ticket of an earlier handshake (`tickets`). Nothing to do with the session."""


class DataReceived(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Plaintext from the peer, in order, cut anywhere."""

    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelFailed:
    """The channel is over, and not by agreement; the caller adds the peer's address."""

    code: str
    """Stable; `reasons.SENTENCES` lists them all."""
    side: Side
    detail: str
    """For people, one line, without a full stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelClosed:
    """The peer ended the channel in order (TLS: close_notify); nothing it sent before is missing."""


Outcome = HandshakeCompleted | DataReceived | ChannelFailed | ChannelClosed


class Channel(Protocol):
    """One run of a mechanism. `now` is monotonic seconds. Thread: the owner's, and one at a time."""

    @property
    def mechanism(self) -> str:
        """The mechanism's name, as in endpoints: ``"tls"``, ``"plain"``."""

    @property
    def is_established(self) -> bool:
        """Whether `send` is allowed now."""

    @property
    def is_closed(self) -> bool:
        """Whether it is over: failed, closed by the peer, or closed by us."""

    def start(self, now: float) -> None:
        """Begin; the handshake's deadline counts from here. Once.

        Raises:
            LocalError: Code ``already_started``.
        """

    def receive(self, data: Buffer, now: float) -> None:
        """Feed what arrived, cut anywhere; may be hostile.

        Raises:
            LocalError: Code ``not_started``.
        """

    def transport_ended(self, now: float) -> None:
        """The connection beneath is gone, so the peer cannot have meant to end here: `ChannelFailed` follows."""

    def send(self, plaintext: Buffer) -> None:
        """Protect `plaintext`; take the result from `data_to_send`. The larger the pieces the cheaper.

        Raises:
            LocalError: Code ``not_established``: too early, or the channel is over.
        """

    def close(self) -> None:
        """End the channel in order, telling the peer where the mechanism can. No outcome follows; repeating is fine."""

    def data_to_send(self, max_bytes: int = -1) -> bytes:
        """Take the bytes that are to go out, at most `max_bytes` of them (-1: all); ``b""`` when there are none."""

    def outcomes(self) -> list[Outcome]:
        """Take what happened since the last call, in order."""

    def next_timer(self) -> float | None:
        """When to call `handle_timer`, in the terms of `now`, or `None`."""

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
