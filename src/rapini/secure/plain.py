"""No protection at all: the same contract as TLS, for one machine, or where the operator forced it by name.

Beside `tls`. Each side opens with eight bytes, the initiator first; nothing is delivered before the peer's have been
seen, so whatever else dials in (a browser, a scanner, TLS) is told apart instead of being taken for data. The opening
proves nothing about who the peer is: `identity` is `None`, and whoever shows peers to people must show that.

There is no close_notify either: the end of the transport is all that a peer learns, so `ChannelClosed` never happens.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from rapini.errors import LocalError
from rapini.secure.channel import Buffer, ChannelFailed, DataReceived, HandshakeCompleted, Outcome, Side
from rapini.secure.reasons import failure

__all__ = ["OPENING", "PlainChannel"]

OPENING: Final = b"RAPINI1\n"
"""What both sides of a plain channel send first."""

_TLS_STARTS: Final = (b"\x16\x03", b"\x15\x03")  # a ClientHello; the alert of a TLS endpoint that we dialled


class _State(Enum):
    NEW = auto()
    OPENING = auto()
    ESTABLISHED = auto()
    ENDED = auto()


class PlainChannel:
    """One unprotected run; see `channel.Channel` for the calls.

    Args:
        is_initiator: Whether we dialled; the initiator opens first.
        handshake_timeout_s: From `start` until the peer's opening must be here.
    """

    mechanism = "plain"

    def __init__(self, *, is_initiator: bool, handshake_timeout_s: float) -> None:
        self._is_initiator = is_initiator
        self._handshake_timeout_s = handshake_timeout_s
        self._deadline: float | None = None
        self._head = b""
        self._pending: list[bytes] = []
        self._state = _State.NEW
        self._outcomes: list[Outcome] = []

    @property
    def is_established(self) -> bool:
        """Whether `send` is allowed now."""
        return self._state is _State.ESTABLISHED

    @property
    def is_closed(self) -> bool:
        """Whether it is over: failed, or closed by us."""
        return self._state is _State.ENDED

    def start(self, now: float) -> None:
        """Begin; an initiator's opening can be taken from `data_to_send` at once.

        Raises:
            LocalError: Code ``already_started``.
        """
        if self._state is not _State.NEW:
            raise LocalError("already_started", "a channel starts once")
        self._state = _State.OPENING
        self._deadline = now + self._handshake_timeout_s
        if self._is_initiator:
            self._pending.append(OPENING)

    def receive(self, data: Buffer, now: float) -> None:
        """Feed what arrived from the peer, cut anywhere; may be hostile.

        Raises:
            LocalError: Code ``not_started``.
        """
        if self._state is _State.ESTABLISHED:
            if data:
                self._outcomes.append(DataReceived(data=bytes(data)))
        elif self._state is _State.OPENING:
            self.handle_timer(now)
            if not self.is_closed:
                self._receive_opening_untrusted(data)
        elif self._state is _State.NEW:
            raise LocalError("not_started", "start() comes before receive()")

    def transport_ended(self, now: float) -> None:
        """The connection beneath is gone."""
        del now  # in the contract for mechanisms that keep time
        if self._state is _State.ESTABLISHED:
            self._fail(failure("transport_ended", Side.THEIRS))
        elif self._state is not _State.ENDED:
            self._fail(failure("closed_in_handshake", Side.THEIRS))

    def send(self, plaintext: Buffer) -> None:
        """Queue `plaintext` as it is.

        Raises:
            LocalError: Code ``not_established``.
        """
        if self._state is not _State.ESTABLISHED:
            raise LocalError("not_established", "this channel cannot send now")
        if plaintext:
            self._pending.append(bytes(plaintext))

    def close(self) -> None:
        """Be done; what arrives afterwards is ignored."""
        self._end()

    def data_to_send(self, max_bytes: int = -1) -> bytes:
        """Take the bytes that are to go out, at most `max_bytes` (-1: all)."""
        if not self._pending:
            return b""
        # join() of a single bytes object returns that object: no copy in the usual case
        data = b"".join(self._pending)
        self._pending.clear()
        if 0 <= max_bytes < len(data):
            self._pending.append(data[max_bytes:])
            data = data[:max_bytes]
        return data

    def outcomes(self) -> list[Outcome]:
        """Take what happened since the last call, in order."""
        happened, self._outcomes = self._outcomes, []
        return happened

    def next_timer(self) -> float | None:
        """The deadline for the peer's opening, or `None` once it is here."""
        return self._deadline

    def handle_timer(self, now: float) -> None:
        """Give up a peer whose opening is overdue."""
        if self._deadline is not None and now >= self._deadline:
            self._fail(failure("handshake_timeout", Side.OURS, f"{self._handshake_timeout_s:g} s"))

    def _receive_opening_untrusted(self, data: Buffer) -> None:
        self._head += bytes(data)
        start = self._head[: len(OPENING)]
        if start == OPENING:
            self._establish(rest=self._head[len(OPENING) :])
        elif start.startswith(_TLS_STARTS):
            self._fail(failure("peer_speaks_tls", Side.OURS))
        elif not OPENING.startswith(start) and not any(tls.startswith(start) for tls in _TLS_STARTS):
            self._fail(failure("not_rapini", Side.OURS, f"it began with {start.hex()}"))

    def _establish(self, *, rest: bytes) -> None:
        self._state = _State.ESTABLISHED
        self._deadline = None
        self._head = b""
        if not self._is_initiator:
            self._pending.append(OPENING)
        self._outcomes.append(HandshakeCompleted(identity=None, cipher="none", version="plain 1"))
        if rest:
            self._outcomes.append(DataReceived(data=rest))

    def _fail(self, outcome: ChannelFailed) -> None:
        self._outcomes.append(outcome)
        self._end()

    def _end(self) -> None:
        self._state = _State.ENDED
        self._deadline = None
