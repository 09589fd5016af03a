"""The contract of mechanisms that protect single datagrams, and the one that protects nothing, for tests.

Beside `channel`, and below `rapini.session.datagram_channel`, which makes a `Channel` of such a mechanism. A datagram
may be lost, repeated, late or out of order, and may be anybody's until it was authenticated. A mechanism opens (its
handshake is sent again by its own timer until it is answered), then protects packets one by one: what arrives is
authentic, or is dropped and counted. It neither orders nor repeats; a packet may come out of it twice.

`PlainDatagrams` opens with two datagrams, each sent again until the other is there. Every datagram begins with a kind
(1 OPEN, 2 ACCEPT, 3 DATA) and a token of eight random bytes, chosen by the initiator, so that datagrams of another run
are not taken for ours; OPEN and ACCEPT continue with the opening of plain channels, DATA with the packet. It proves
nothing about the peer; no endpoint uses it.
"""

from __future__ import annotations

import struct
from enum import Enum, auto
from typing import Final, Protocol

from rapini import limits
from rapini.errors import LocalError
from rapini.secure.channel import Buffer, ChannelFailed, DataReceived, HandshakeCompleted, Outcome, Side
from rapini.secure.plain import OPENING
from rapini.secure.reasons import failure

__all__ = ["TOKEN_BYTES", "DatagramMechanism", "PlainDatagrams"]

TOKEN_BYTES: Final = 8
_HEAD: Final = struct.Struct(">B8s")
_OPEN: Final = 1
_ACCEPT: Final = 2
_DATA: Final = 3
_FIRST_RETRY_S: Final = 0.25
_MAX_RETRY_S: Final = 0.5
"""RFC 6347 section 4.2.4.1 begins with 1 s and doubles without end in sight; our deadline for everything is 10 s."""


class DatagramMechanism(Protocol):
    """One run of a mechanism over datagrams. `now` is monotonic seconds. Thread: the owner's, and one at a time.

    Differs from `Channel` in its units: whole datagrams below, whole packets above.
    """

    @property
    def mechanism(self) -> str:
        """Its name, as in endpoints."""

    @property
    def max_packet_bytes(self) -> int:
        """Largest packet that `send` takes: the datagram's limit less what protection adds. Fixed once established."""

    @property
    def is_established(self) -> bool:
        """Whether `send` is allowed now."""

    @property
    def is_closed(self) -> bool:
        """Whether it is over."""

    def start(self, now: float) -> None:
        """Begin; the handshake's deadline counts from here. Once."""

    def receive(self, datagram: Buffer, now: float) -> None:
        """Feed one whole datagram; may be hostile. What is not authentic is dropped, and never ends the run."""

    def transport_ended(self, now: float) -> None:
        """What is beneath is gone."""

    def send(self, packet: bytes) -> None:
        """Protect one packet as one datagram.

        Raises:
            LocalError: `not_established`, or `packet_too_large`.
        """

    def close(self) -> None:
        """Be done; a last datagram that says so may follow, but its arrival is not relied upon."""

    def datagram_to_send(self) -> bytes | None:
        """Take the next datagram that is to go out, if there is one."""

    def outcomes(self) -> list[Outcome]:
        """Take what happened; each `DataReceived` is one whole packet."""

    def next_timer(self) -> float | None:
        """When to call `handle_timer`: the handshake's retransmission and its deadline."""

    def handle_timer(self, now: float) -> None:
        """Do what is due."""


class _State(Enum):
    NEW = auto()
    OPENING = auto()
    ESTABLISHED = auto()
    ENDED = auto()


class PlainDatagrams:
    """An unprotected run; see `DatagramMechanism` for the calls.

    Args:
        is_initiator: Whether we open.
        entropy: Eight random bytes of the initiator; a responder's are not used.
        max_datagram_bytes: Largest datagram that the path carries.
        handshake_timeout_s: From `start` until the peer's opening must be here.

    Raises:
        LocalError: `bad_entropy`.
    """

    mechanism = "plain"

    def __init__(
        self, *, is_initiator: bool, entropy: bytes, max_datagram_bytes: int, handshake_timeout_s: float
    ) -> None:
        if is_initiator and len(entropy) != TOKEN_BYTES:
            raise LocalError("bad_entropy", f"a token takes {TOKEN_BYTES} random bytes")
        self.max_packet_bytes = min(max_datagram_bytes - _HEAD.size, limits.MAX_PACKET_BYTES)
        self.strangers = 0
        """Datagrams dropped because they are not of this run."""
        self._is_initiator = is_initiator
        self._token = entropy if is_initiator else b""
        self._handshake_timeout_s = handshake_timeout_s
        self._state = _State.NEW
        self._deadline: float | None = None
        self._retry_at: float | None = None
        self._retry_s = _FIRST_RETRY_S
        self._pending: list[bytes] = []
        self._outcomes: list[Outcome] = []

    @property
    def is_established(self) -> bool:
        """Whether `send` is allowed now."""
        return self._state is _State.ESTABLISHED

    @property
    def is_closed(self) -> bool:
        """Whether it is over."""
        return self._state is _State.ENDED

    def start(self, now: float) -> None:
        """Begin.

        Raises:
            LocalError: `already_started`.
        """
        if self._state is not _State.NEW:
            raise LocalError("already_started", "a channel starts once")
        self._state = _State.OPENING
        self._deadline = now + self._handshake_timeout_s
        if self._is_initiator:
            self._open(now)

    def receive(self, datagram: Buffer, now: float) -> None:
        """Feed one datagram, whoever sent it.

        Raises:
            LocalError: `not_started`.
        """
        if self._state is _State.NEW:
            raise LocalError("not_started", "start() comes before receive()")
        self.handle_timer(now)
        if self._state is not _State.ENDED and not self._receive_untrusted(bytes(datagram)):
            self.strangers += 1

    def transport_ended(self, now: float) -> None:
        """What is beneath is gone."""
        del now
        if self._state is not _State.ENDED:
            code = "transport_ended" if self._state is _State.ESTABLISHED else "closed_in_handshake"
            self._fail(failure(code, Side.THEIRS))

    def send(self, packet: bytes) -> None:
        """Queue a packet as a datagram.

        Raises:
            LocalError: `not_established` or `packet_too_large`.
        """
        if self._state is not _State.ESTABLISHED:
            raise LocalError("not_established", "this mechanism cannot send now")
        if len(packet) > self.max_packet_bytes:
            raise LocalError("packet_too_large", f"a packet of {len(packet)} bytes, at most {self.max_packet_bytes}")
        self._pending.append(_HEAD.pack(_DATA, self._token) + packet)

    def close(self) -> None:
        """Be done."""
        self._end()

    def datagram_to_send(self) -> bytes | None:
        """Take the next datagram."""
        return self._pending.pop(0) if self._pending else None

    def outcomes(self) -> list[Outcome]:
        """Take what happened."""
        happened, self._outcomes = self._outcomes, []
        return happened

    def next_timer(self) -> float | None:
        """When the opening is sent again, or given up."""
        if self._deadline is None or self._retry_at is None:
            return self._deadline
        return min(self._deadline, self._retry_at)

    def handle_timer(self, now: float) -> None:
        """Send the opening again, or give up."""
        if self._deadline is not None and now >= self._deadline:
            self._fail(failure("handshake_timeout", Side.OURS, f"{self._handshake_timeout_s:g} s"))
        elif self._retry_at is not None and now >= self._retry_at:
            self._open(now)

    def _open(self, now: float) -> None:
        self._pending.append(_HEAD.pack(_OPEN, self._token) + OPENING)
        self._retry_at = now + self._retry_s
        self._retry_s = min(2 * self._retry_s, _MAX_RETRY_S)

    def _receive_untrusted(self, datagram: bytes) -> bool:
        """Whether a datagram is of this run."""
        if len(datagram) <= _HEAD.size:
            return False
        kind, token = _HEAD.unpack_from(datagram)
        body = datagram[_HEAD.size :]
        is_opening = body == OPENING
        if not self._is_initiator and kind == _OPEN and is_opening and self._token in (b"", token):
            if self._state is _State.OPENING:
                self._token = token
                self._establish()
            self._pending.append(_HEAD.pack(_ACCEPT, token) + OPENING)  # again, if ours was lost
            return True
        if token != self._token:
            return False
        if self._is_initiator and self._state is _State.OPENING and ((kind == _ACCEPT and is_opening) or kind == _DATA):
            self._establish()  # data says too that we are accepted
        if kind == _DATA and self._state is _State.ESTABLISHED:
            self._outcomes.append(DataReceived(data=body))
            return True
        return self._is_initiator and kind == _ACCEPT and is_opening

    def _establish(self) -> None:
        self._state = _State.ESTABLISHED
        self._deadline = self._retry_at = None
        self._outcomes.append(HandshakeCompleted(identity=None, cipher="none", version="plain datagrams 1"))

    def _fail(self, outcome: ChannelFailed) -> None:
        self._outcomes.append(outcome)
        self._end()

    def _end(self) -> None:
        self._state = _State.ENDED
        self._deadline = self._retry_at = None
