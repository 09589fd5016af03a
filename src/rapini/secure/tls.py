"""TLS 1.3 with certificates on both sides, over memory: the default mechanism.

Sits on the standard library's `ssl` (OpenSSL) and keeps the contract of `channel`; `material` makes its channels.

How OpenSSL behaves over memory BIOs, and what follows for us. An `SSLObject` is a state machine between two byte
queues: what arrives is written to `incoming`, what OpenSSL wants to say is read from `outgoing`.

*Any call may write, any call may want to read.* `do_handshake`, `read`, `write` and `unwrap` all first do whatever the
protocol needs now. When `incoming` runs dry in the middle they raise `SSLWantReadError`, and are to be repeated with
the same meaning when more has arrived. `SSLWantWriteError` cannot happen: a memory BIO grows and never blocks. So
after every call, whatever it was, `outgoing` may hold something, and the driver flushes.

*Errors speak too.* When OpenSSL refuses a peer it writes the alert to `outgoing` and then raises. The alert is the one
thing that tells the other side why, so a failed channel still hands it out. After that the object is dead.

*The client of TLS 1.3 is done before it is judged.* It sends its certificate with its last message, and
`do_handshake` returns; only then does the server look at it. The server's refusal comes as an alert in the data phase,
where `read` raises it. It is mapped to the same codes, with `Side.THEIRS`; and this is why a peer is up only after
`Welcome`.

*One record at a time.* `read(n)` returns bytes of one record (16 KiB at most) however large `n` is, and OpenSSL takes
from `incoming` exactly the record it works on. So we read until `incoming.pending` is 0, which spares the
`SSLWantReadError` (about 1 µs) that would otherwise end each call. Measured with 16 and 64 KiB messages: `read(16384)`
and one join is as fast as reading into a buffer of our own (the allocation it saves is paid again as the copy out of
it), and simpler. `write` takes any size in one call and makes the records itself.

*Ending.* `unwrap` writes close_notify at once and then wants the peer's; we do not wait for it. A peer's close_notify
makes `read` return `b""`. The end of the transport without one is a truncation: the driver calls `transport_ended`.

*Certificates.* OpenSSL checks chain, dates, purpose and the dialled host, as `contexts` tells it. It knows nothing of
nodes and clusters: after every handshake we read the certificate ourselves (`judge`). It also proceeds when ALPN fails,
on both sides, so we look at that too. If we then refuse, TLS is through with alerts for it, and the peer gets a
close_notify in place of a greeting.

*Resuming.* An initiator may continue from a ticket of an earlier handshake. OpenSSL then checks nothing of the above
and hands out the earlier certificate; `tickets` has the checks, and keeps the tickets. A responder sends its ticket
behind its last handshake message, so OpenSSL has it once the first data was read: then it is taken, once per channel.

Before the first byte reaches OpenSSL we look at it: a peer that speaks plain Rapini, or no TLS at all, gets its own
code instead of OpenSSL's guess. What a stranger may send before it is authenticated is bounded in bytes and time.

Source: RFC 8446 (4.4.2.4, 6, D.4); OpenSSL's ssl(7), SSL_get_error(3); python-trio's `_ssl.py`, which explains more.
"""

from __future__ import annotations

import ssl
from datetime import datetime
from enum import Enum, auto
from typing import Final

from rapini.errors import LocalError
from rapini.limits import MAX_HANDSHAKE_BYTES
from rapini.secure.channel import (
    Buffer,
    ChannelClosed,
    ChannelFailed,
    DataReceived,
    HandshakeCompleted,
    Outcome,
    Side,
)
from rapini.secure.judge import PeerJudge
from rapini.secure.plain import OPENING
from rapini.secure.reasons import failure, failure_from_openssl
from rapini.secure.tickets import Place, Tickets

__all__ = ["TlsChannel"]

_RECORD_BYTES: Final = 16384
_RECORD_TYPES: Final = (0x15, 0x16)  # what may come first: an alert, or a handshake message
_UNEXPECTED_MESSAGE: Final = b"\x15\x03\x03\x00\x02\x02\x0a"  # a fatal alert in the clear, RFC 8446 section 6


class _State(Enum):
    NEW = auto()
    HANDSHAKING = auto()
    ESTABLISHED = auto()
    ENDED = auto()


class TlsChannel:
    """One TLS connection; see `channel.Channel` for the calls. Made by `TlsMaterial.initiator` and `.responder`.

    Args:
        context: One of `contexts.Contexts`, fitting `is_initiator` and `check_host`.
        is_initiator: Whether we dialled (TLS's client).
        cluster: Ours; a peer of another is refused (``wrong_cluster``).
        handshake_timeout_s: From `start` until the handshake must be complete.
        check_host: The dialled host, which the peer's certificate must name (initiator only); `None`: any.
        expect_peer: The node that it must be (``wrong_name``); `None`: any of the cluster.
        wall_now: If given, the peer's certificate must be valid at this time too, beside OpenSSL's own look at the
            clock. In a resumed handshake OpenSSL does not look, so that the time is that of `tickets` if not given.
        denied: Names and fingerprints that are refused (``certificate_revoked``).
        tickets: What judges resumed handshakes; `None`: all of them are refused.
        place: Where a ticket may be taken from and is kept (initiator only); `None`: none is.

    Raises:
        LocalError: Code ``bad_host``: `check_host` cannot be one.
    """

    mechanism = "tls"

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        is_initiator: bool,
        cluster: str,
        handshake_timeout_s: float,
        check_host: str | None = None,
        expect_peer: str | None = None,
        wall_now: datetime | None = None,
        denied: frozenset[str] = frozenset(),
        tickets: Tickets | None = None,
        place: Place | None = None,
    ) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        try:
            self._tls = context.wrap_bio(
                self._incoming, self._outgoing, server_side=not is_initiator, server_hostname=check_host
            )
        except ValueError as error:
            raise LocalError("bad_host", f"{check_host!r} is not a host to check a certificate for") from error
        self._is_initiator = is_initiator
        self._judge = PeerJudge(
            cluster=cluster,
            check_host=check_host,
            expect_peer=expect_peer,
            wall_now=wall_now,
            denied=denied,
            tickets=tickets,
        )
        self._wall_now = wall_now
        self._tickets = tickets
        self._place = place if tickets is not None else None
        self._has_offered = False
        self._fingerprint = ""
        self._awaits_ticket = False
        self._handshake_timeout_s = handshake_timeout_s
        self._deadline: float | None = None
        self._handshake_bytes = 0
        self._head: bytes | None = b""
        self._state = _State.NEW
        self._outcomes: list[Outcome] = []

    @property
    def is_established(self) -> bool:
        """Whether `send` is allowed now."""
        return self._state is _State.ESTABLISHED

    @property
    def is_closed(self) -> bool:
        """Whether it is over: failed, closed by the peer, or closed by us."""
        return self._state is _State.ENDED

    def start(self, now: float) -> None:
        """Begin; an initiator's first flight can be taken from `data_to_send` at once.

        Raises:
            LocalError: Code ``already_started``.
        """
        if self._state is not _State.NEW:
            raise LocalError("already_started", "a channel starts once")
        self._state = _State.HANDSHAKING
        self._deadline = now + self._handshake_timeout_s
        if self._is_initiator:
            self._offer_ticket(now)
            self._advance_handshake(now)

    def receive(self, data: Buffer, now: float) -> None:
        """Feed what arrived from the peer, cut anywhere; may be hostile.

        Raises:
            LocalError: Code ``not_started``.
        """
        if self._state is _State.ESTABLISHED:
            self._incoming.write(data)
            self._read_records(now)
        elif self._state is _State.HANDSHAKING:
            self.handle_timer(now)  # a driver that is late must not let a slow peer slip past the deadline
            if not self.is_closed:
                self._receive_handshake(data, now)
        elif self._state is _State.NEW:
            raise LocalError("not_started", "start() comes before receive()")

    def transport_ended(self, now: float) -> None:
        """The connection beneath is gone without a close_notify."""
        del now  # in the contract for mechanisms that keep time; the end of a stream needs none
        if self._state is _State.ESTABLISHED:
            self._fail(failure("transport_ended", Side.THEIRS))
        elif self._state is not _State.ENDED:
            self._fail(failure("closed_in_handshake", Side.THEIRS))

    def send(self, plaintext: Buffer) -> None:
        """Encrypt `plaintext` in one call of OpenSSL, whatever its size.

        Raises:
            LocalError: Code ``not_established``.
        """
        if self._state is not _State.ESTABLISHED:
            raise LocalError("not_established", "this channel cannot send now")
        if not plaintext:
            return  # SSL_write of nothing is undefined
        try:
            self._tls.write(plaintext)
        except OSError as error:
            self._fail(failure_from_openssl(error))

    def close(self) -> None:
        """Send close_notify and be done; what arrives afterwards is ignored."""
        if self._state is _State.ESTABLISHED:
            self._say_goodbye()
        self._end()

    def data_to_send(self, max_bytes: int = -1) -> bytes:
        """Take the bytes that are to go out, at most `max_bytes` (-1: all); also after a failure, for the alert."""
        return self._outgoing.read(max_bytes)

    def outcomes(self) -> list[Outcome]:
        """Take what happened since the last call, in order."""
        happened, self._outcomes = self._outcomes, []
        return happened

    def next_timer(self) -> float | None:
        """The handshake's deadline, or `None` once it is over."""
        return self._deadline

    def handle_timer(self, now: float) -> None:
        """Give up a handshake that is overdue."""
        if self._deadline is not None and now >= self._deadline:
            self._fail(failure("handshake_timeout", Side.OURS, f"{self._handshake_timeout_s:g} s"))

    # --- the handshake ---

    def _receive_handshake(self, data: Buffer, now: float) -> None:
        view = memoryview(self._recognise_untrusted(data))
        if not view:
            return
        room = MAX_HANDSHAKE_BYTES - self._handshake_bytes
        self._handshake_bytes += len(view[:room])
        self._incoming.write(view[:room])
        self._advance_handshake(now)
        if self._state is _State.ESTABLISHED:
            # The peer's last flight may have brought data along; only what came before counts as handshake.
            self._incoming.write(view[room:])
            self._read_records(now)
        elif self._state is _State.HANDSHAKING and len(view) > room:
            self._fail(failure("handshake_too_large", Side.OURS, f"{MAX_HANDSHAKE_BYTES} bytes"))

    def _recognise_untrusted(self, data: Buffer) -> Buffer:
        """Look at the first bytes; returns what is TLS's, so nothing until they are recognised."""
        if self._head is None:
            return data
        head = self._head + bytes(data)
        start = head[: len(OPENING)]
        if start == OPENING:
            # In the clear, as TLS would: this is how a plain peer learns that it dialled a TLS endpoint.
            self._outgoing.write(_UNEXPECTED_MESSAGE)
            self._fail(failure("peer_is_plain", Side.OURS))
        elif OPENING.startswith(start) or (len(head) == 1 and head[0] in _RECORD_TYPES):
            self._head = head  # too little to tell
        elif head[0] in _RECORD_TYPES and head[1] == 0x03:
            self._head = None
            return head
        else:
            self._fail(failure("not_tls", Side.OURS, f"it began with {start.hex()}"))
        return b""

    def _offer_ticket(self, now: float) -> None:
        if self._tickets is None or self._place is None:
            return
        session = self._tickets.take(self._place, now, self._wall_now or self._tickets.clock())
        if session is not None:
            self._tls.session = session
            self._has_offered = True

    def _advance_handshake(self, now: float) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        except OSError as error:
            self._fail(failure_from_openssl(error))
            return
        verdict = self._judge.judge(self._tls, now)
        if isinstance(verdict, ChannelFailed):
            self._say_goodbye()
            self._fail(verdict)
            return
        self._state = _State.ESTABLISHED
        self._deadline = None
        self._fingerprint = verdict.fingerprint_sha256
        self._awaits_ticket = self._place is not None
        cipher = self._tls.cipher()
        self._outcomes.append(
            HandshakeCompleted(
                identity=verdict,
                cipher=cipher[0] if cipher else "",
                version=self._tls.version() or "",
                is_resumed=bool(self._tls.session_reused),
            )
        )

    # --- data ---

    def _read_records(self, now: float) -> None:
        parts: list[bytes] = []
        ended: ChannelClosed | ChannelFailed | None = None
        incoming, read = self._incoming, self._tls.read
        try:
            while incoming.pending:
                part = read(_RECORD_BYTES)
                if not part:
                    ended = ChannelClosed()
                    break
                parts.append(part)
        except ssl.SSLWantReadError:
            pass
        except OSError as error:
            ended = failure_from_openssl(error)
        if parts:
            if self._awaits_ticket:
                self._keep_ticket(now)
            self._outcomes.append(DataReceived(data=parts[0] if len(parts) == 1 else b"".join(parts)))
        if isinstance(ended, ChannelClosed):
            self._say_goodbye()
            self._outcomes.append(ended)
            self._end()
        elif ended is not None:
            self._fail(ended)

    def _keep_ticket(self, now: float) -> None:
        self._awaits_ticket = False
        if self._tickets is not None and self._place is not None:
            session = self._tls.session if self._tickets.may_read(now) else None
            self._tickets.keep(self._place, session, self._fingerprint, was_offered=self._has_offered)

    # --- the end ---

    def _say_goodbye(self) -> None:
        try:
            self._tls.unwrap()
        except OSError:
            pass  # close_notify is written by now, and the peer's answer is not waited for

    def _fail(self, outcome: ChannelFailed) -> None:
        self._outcomes.append(outcome)
        self._end()

    def _end(self) -> None:
        self._state = _State.ENDED
        self._deadline = None
