"""The clear header of each 0MQ message: which channel it belongs to, before any of it reaches a TLS engine.

Between a message-based transport and a channel. 0MQ may reconnect behind our back, and a TLS engine that is fed one
record of another connection is dead (this is what broke TLS over 0MQ in 2011, see `requirements.md`, finding 3). So
every message says its channel, and one of an unknown or finished channel is counted and dropped.

Twelve bytes, then the mechanism's:

    0       1       2       3       4                              12
    | 'R'   |   1   | kind  | mech. | channel id: 8 random bytes   |
            version

kind: 1 OPEN (the first message of a channel), 2 DATA (all others), 3 REFUSED (the responder does not take this OPEN;
its mechanism is in the mechanism byte; the rest is empty). mechanism: 1 tls, 2 plain. The channel id is chosen by the
initiator and used by both. The header is not protected and needs not be: altered, it can make a message be dropped, as
anybody on the path can do anyway; TLS notices the hole. A REFUSED is a hint for a clear diagnostic and no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum, auto
from typing import Final, NewType

import msgspec

from rapini.errors import LocalError
from rapini.secure.channel import Buffer

__all__ = [
    "CHANNEL_ID_BYTES",
    "HEADER_BYTES",
    "Accepted",
    "ChannelId",
    "Dropped",
    "EnvelopeGate",
    "Kind",
    "Mechanism",
    "Refused",
    "Verdict",
]

HEADER_BYTES: Final = 12
CHANNEL_ID_BYTES: Final = 8
_MAGIC: Final = 0x52
_VERSION: Final = 1

ChannelId = NewType("ChannelId", bytes)
"""Eight random bytes: two channels of one peer are never taken for each other (2^-64)."""


class Mechanism(IntEnum):
    """What protects a channel, as the header's fourth byte; the names are those of endpoints, in lower case."""

    TLS = 1
    PLAIN = 2


class Kind(IntEnum):
    """What a message is to its channel, as the header's third byte."""

    OPEN = 1
    DATA = 2
    REFUSED = 3


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """Feed `payload` to the channel; it is a view into the message."""

    payload: memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """Count it by `code` and go on: ``unknown_channel``."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """This connection will not become a channel, end it: ``not_rapini``, ``version``, ``mechanism_mismatch`` (we
    refuse them), ``peer_refused_mechanism`` (they refuse us) or ``repeated_open``.
    """

    code: str
    detail: str


Verdict = Accepted | Dropped | Refused


class _State(Enum):
    EXPECTING_OPEN = auto()
    OPEN = auto()
    FINISHED = auto()


class EnvelopeGate:
    """Seals what one channel sends, and judges what arrives on its connection. Sans-IO; thread: the owner's.

    Make it by `initiator()` or `responder()`.
    """

    __slots__ = ("_channel_id", "_data_header", "_mechanism", "_next_header", "_state")

    def __init__(self, mechanism: Mechanism, state: _State, channel_id: ChannelId | None) -> None:
        self._mechanism = mechanism
        self._state = state
        self._channel_id: ChannelId | None = None
        self._data_header = b""
        self._next_header = b""
        if channel_id is not None:
            self._adopt(channel_id)
            self._next_header = _header(Kind.OPEN, mechanism, channel_id)

    @classmethod
    def initiator(cls, mechanism: Mechanism, entropy: bytes) -> EnvelopeGate:
        """For a connection that we dialled.

        Args:
            mechanism: The endpoint's.
            entropy: Eight random bytes, fresh for each channel (`os.urandom(8)`); they become the channel's id.

        Raises:
            LocalError: Code ``bad_entropy``.
        """
        if len(entropy) != CHANNEL_ID_BYTES:
            raise LocalError("bad_entropy", f"a channel id takes {CHANNEL_ID_BYTES} random bytes")
        return cls(mechanism, _State.OPEN, ChannelId(bytes(entropy)))

    @classmethod
    def responder(cls, mechanism: Mechanism) -> EnvelopeGate:
        """For a connection that we accepted; its first message brings the channel's id."""
        return cls(mechanism, _State.EXPECTING_OPEN, None)

    @property
    def channel_id(self) -> ChannelId | None:
        """The channel's id; `None` at a responder until the first message was accepted."""
        return self._channel_id

    def seal(self, payload: bytes) -> bytes:
        """Put the header before `payload`.

        Raises:
            LocalError: Code ``no_channel``: a responder that has accepted nothing yet cannot send.
        """
        header = self._next_header
        if not header:
            raise LocalError("no_channel", "no channel is open on this connection yet")
        self._next_header = self._data_header
        return header + payload

    def finish(self) -> None:
        """The channel is over: everything that still arrives is dropped as ``unknown_channel``."""
        self._state = _State.FINISHED

    def judge_untrusted(self, message: Buffer) -> Verdict:
        """Say what is to be done with one whole message; may be hostile.

        Args:
            message: As the transport delivered it; an accepted payload is a view into it.
        """
        view = memoryview(message)
        if self._state is _State.OPEN and view[:HEADER_BYTES] == self._data_header:
            return Accepted(payload=view[HEADER_BYTES:])
        if len(view) < HEADER_BYTES or view[0] != _MAGIC:
            return Refused(code="not_rapini", detail=f"it began with {bytes(view[:HEADER_BYTES]).hex()}")
        if view[1] != _VERSION:
            return Refused(code="version", detail=f"the peer's envelope has version {view[1]}, ours {_VERSION}")
        return self._judge_kind_untrusted(view)

    def refusal(self, message: Buffer) -> bytes:
        """What to answer to a message refused with ``mechanism_mismatch``, so that the peer can say why.

        Args:
            message: The refused message.
        """
        peer_id = ChannelId(bytes(memoryview(message)[4:HEADER_BYTES]))
        return _header(Kind.REFUSED, self._mechanism, peer_id)

    def _judge_kind_untrusted(self, view: memoryview) -> Verdict:
        kind, mechanism, channel_id = view[2], view[3], ChannelId(bytes(view[4:HEADER_BYTES]))
        if self._state is _State.EXPECTING_OPEN and kind == Kind.OPEN:
            if mechanism != self._mechanism:
                theirs, ours = _mechanism_name(mechanism), self._mechanism.name.lower()
                return Refused(code="mechanism_mismatch", detail=f"the peer dialled {theirs}, we listen for {ours}")
            self._adopt(channel_id)
            return Accepted(payload=view[HEADER_BYTES:])
        if self._state is _State.OPEN and channel_id == self._channel_id:
            if kind == Kind.REFUSED:
                theirs, ours = _mechanism_name(mechanism), self._mechanism.name.lower()
                detail = f"the peer listens for {theirs}, we dialled {ours}"
                return Refused(code="peer_refused_mechanism", detail=detail)
            if kind == Kind.OPEN:
                return Refused(code="repeated_open", detail="the peer opened one channel twice")
        return Dropped(code="unknown_channel", detail=f"channel {channel_id.hex()}, kind {kind}")

    def _adopt(self, channel_id: ChannelId) -> None:
        self._state = _State.OPEN
        self._channel_id = channel_id
        self._data_header = self._next_header = _header(Kind.DATA, self._mechanism, channel_id)


def _header(kind: Kind, mechanism: Mechanism, channel_id: ChannelId) -> bytes:
    return bytes((_MAGIC, _VERSION, kind, mechanism)) + channel_id


def _mechanism_name(number: int) -> str:
    try:
        return Mechanism(number).name.lower()
    except ValueError:
        return f"mechanism {number}"
