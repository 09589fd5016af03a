"""Resumed handshakes: which tickets we keep, and what we check in OpenSSL's place.

One `Tickets` belongs to one `TlsMaterial`, so to one set of contexts; `tls` asks it. A *ticket* is what TLS calls a
session: a key that both sides took from a full handshake, with the peer's certificate beside it. Resuming it saves the
signatures and the certificates, not the Diffie-Hellman exchange, so an old ticket's key opens no later recording.

**Why there is anything to check.** In a resumed handshake nobody sends a certificate, and OpenSSL verifies none: not
the dates, not the dialled host, not the chain. It hands out what the ticket holds (`requirements.md`, finding 5; the
same hole was CVE-2025-23419 of nginx). So each resumed handshake must bear out all of this here:

* *Proof.* This very certificate, by its fingerprint, was verified by OpenSSL in a full handshake with the same
  contexts (the same trust, rules and own certificate) not longer than `LIFETIME_S` ago. Resuming does not renew that:
  a chain of resumptions ends with a full handshake. For an initiator the proof is for one dialled host.
* *Dates.* It is valid now, and so is an authority that issued it. With the same trust these are all that time can
  change in a chain of two. Longer chains are never resumed: Python does not show us their middle.
* Who it is, its cluster and name, the deny list and ALPN are looked at in every handshake by `tls`.

**Trust that changes.** New trust, a new certificate or deny list is a new `TlsMaterial`: new contexts with a new
random ticket key, under which no older ticket can be read (then OpenSSL makes a full handshake), and a new `Tickets`
without proofs. A context is never changed after it was made, and `SSLSession` refuses another context than its own.

**Responders keep nothing** but the proofs: the ticket itself travels, encrypted. The alternative, a ticket that is an
index into OpenSSL's table (OP_NO_TICKET), would keep 20,480 of them per node, a bound that Python cannot lower.

**Once.** An initiator takes a ticket out when it uses it (RFC 8446, appendix C.4: else whoever watches the network can
tell that two connections are of one client). There is no early data, so a repeated ClientHello gains nothing.

**Refusals.** A side that refuses a resumed handshake can only close it: the time for alerts is past. So that nobody
dials into the same refusal for ever, a place whose resumed handshake has led to no data gets full handshakes for
`PAUSE_S`.

Nothing here is written anywhere. Whoever can read this memory could take the private key as well.
"""

from __future__ import annotations

import ssl
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

__all__ = [
    "LIFETIME_S",
    "MAX_PROOFS",
    "MAX_READ_AT_ONCE",
    "MAX_TICKETS",
    "PAUSE_S",
    "READING_LEAKS",
    "READING_PAUSE_S",
    "Place",
    "Tickets",
    "issuers_of",
]

LIFETIME_S: Final = 7200.0
"""How long after a full handshake its peer may resume, seconds. OpenSSL gives its tickets the same two hours."""

MARGIN_S: Final = 60.0
"""So much earlier does an initiator cease to resume: the responder's clock must not be what decides."""

PAUSE_S: Final = 600.0
"""How long a place gets full handshakes after one resumed handshake that led to nothing, seconds."""

READING_LEAKS: Final = sys.version_info < (3, 12, 8) or sys.version_info[:3] == (3, 13, 0)
"""Whether this Python loses 6 KB of memory each time that a ticket is read (CPython issue 116810)."""

MAX_READ_AT_ONCE: Final = 32
"""Where reading leaks: so many tickets may be read in quick succession, then one each `READING_PAUSE_S`."""

READING_PAUSE_S: Final = 60.0

MAX_TICKETS: Final = 256
"""Tickets kept; the oldest goes first."""

MAX_PROOFS: Final = 8192
"""Peers whose certificates count as proved; the oldest goes first, and makes a full handshake next time."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a ticket may be offered: where it came from, and nowhere else."""

    endpoint: str
    """As dialled: transport, mechanism, host and port."""
    check_host: str | None
    """The host that the certificate was checked for; `None`: for none."""


@dataclass(slots=True)
class _Proof:
    """That OpenSSL verified a certificate, and when."""

    certificate: bytes
    until: float
    """Monotonic seconds."""
    until_wall: datetime
    chain: tuple[tuple[datetime, datetime], ...] | None = None
    """From when until when: the certificate, then each trust anchor that issued it; made when first asked for."""


class Tickets:
    """The tickets and proofs of one set of contexts. Thread: that of the channels made with them.

    Args:
        anchors: The trust anchors of the contexts.
        own: Our own certificate, DER.
        clock: The time (UTC) to compare validity with, where the channel was not given one.
    """

    def __init__(self, anchors: Sequence[x509.Certificate], own: bytes, clock: Callable[[], datetime]) -> None:
        self.clock = clock
        self._anchors = tuple(anchors)
        self._tickets: OrderedDict[Place, tuple[ssl.SSLSession, str]] = OrderedDict()
        self._proofs: OrderedDict[tuple[str, str | None], _Proof] = OrderedDict()
        self._on_trial: OrderedDict[Place, float] = OrderedDict()
        self._own = self._chain(own)
        self._is_dropped = False
        self._may_read = float(MAX_READ_AT_ONCE)
        self._counted_at = 0.0

    def __len__(self) -> int:
        """How many tickets are kept."""
        return len(self._tickets)

    def drop(self) -> None:
        """Forget everything, for good: the trust has changed. What channels still hand in is not kept."""
        self._is_dropped = True
        self._tickets.clear()
        self._proofs.clear()

    def proved(self, certificate: bytes, fingerprint: str, check_host: str | None, now: float, wall: datetime) -> None:
        """Note that OpenSSL has verified a peer's certificate in a full handshake just now.

        Args:
            certificate: DER.
            fingerprint: Its SHA-256, hexadecimal.
            check_host: The host that it was checked for; `None` at a responder, or where any is admitted.
            now: Monotonic seconds.
            wall: UTC.
        """
        if self._is_dropped:
            return
        key = fingerprint, check_host
        self._proofs.pop(key, None)
        until_wall = wall + timedelta(seconds=LIFETIME_S)
        self._proofs[key] = _Proof(certificate=certificate, until=now + LIFETIME_S, until_wall=until_wall)
        while len(self._proofs) > MAX_PROOFS:
            self._proofs.popitem(last=False)

    def judge(self, fingerprint: str, check_host: str | None, now: float, wall: datetime) -> tuple[str, str] | None:
        """Whether a peer may resume: `None`, or a code of `reasons.SENTENCES` and a note why not.

        Args:
            fingerprint: Of the certificate that the ticket holds.
            check_host: The host that the certificate must be for; `None`: any.
            now: Monotonic seconds.
            wall: UTC.
        """
        proof = self._proofs.get((fingerprint, check_host))
        if proof is None:
            if any(fingerprint == proved for proved, _ in self._proofs):
                return "wrong_host", "it was proved for another one"
            return "resumption_refused", "its certificate was never proved here"
        if now >= proof.until:
            return "resumption_refused", f"its certificate was proved more than {LIFETIME_S:g} s ago"
        if proof.chain is None:
            proof.chain = self._chain(proof.certificate)
        if not proof.chain:
            return "resumption_refused", "no trust anchor issued its certificate directly"
        code = _code_of_dates(proof.chain, wall)
        return None if code is None else (code, "since it was proved")

    def take(self, place: Place, now: float, wall: datetime) -> ssl.SSLSession | None:
        """Take out the ticket of a place for one use, if it is to be used; else a full handshake is due."""
        ticket = self._tickets.pop(place, None)
        if ticket is None or self._on_trial.get(place, now) > now:
            return None
        session, fingerprint = ticket
        soon, wall_soon = now + MARGIN_S, wall + timedelta(seconds=MARGIN_S)
        if not self._own or _code_of_dates(self._own, wall_soon) is not None:
            return None  # a peer with the same trust would refuse us, and a full handshake tells why
        if self.judge(fingerprint, place.check_host, soon, wall_soon) is not None:
            return None
        if wall_soon >= self._proofs[fingerprint, place.check_host].until_wall:
            return None  # this host slept: the responder's two hours went on
        self._on_trial[place] = now + PAUSE_S
        while len(self._on_trial) > MAX_TICKETS:
            self._on_trial.popitem(last=False)
        return session

    def may_read(self, now: float) -> bool:
        """Whether a ticket may be read now; asked before each reading, since reading may leak.

        A place whose ticket was not read gets a full handshake next time. So a node whose connections break again and
        again loses 6 KB a minute at most, and one whose connections hold resumes them all.

        Args:
            now: Monotonic seconds.
        """
        if not READING_LEAKS:
            return True
        grown = self._may_read + (now - self._counted_at) / READING_PAUSE_S
        self._may_read, self._counted_at = min(MAX_READ_AT_ONCE, grown), now
        if self._may_read < 1:
            return False
        self._may_read -= 1
        return True

    def keep(self, place: Place, session: ssl.SSLSession | None, fingerprint: str, *, was_offered: bool) -> None:
        """Keep the newest ticket of a place, after the first data of its peer: it has admitted us.

        Args:
            place: Where it came from.
            session: As OpenSSL has it; it may hold no ticket, if the responder issues none.
            fingerprint: Of the peer's certificate.
            was_offered: Whether a ticket of ours was used in that handshake, and so did not stand in its way.
        """
        if was_offered:
            self._on_trial.pop(place, None)
        self._tickets.pop(place, None)
        if self._is_dropped or session is None or not session.has_ticket:
            return
        self._tickets[place] = session, fingerprint
        while len(self._tickets) > MAX_TICKETS:
            self._tickets.popitem(last=False)

    def _chain(self, certificate: bytes) -> tuple[tuple[datetime, datetime], ...]:
        issuers = issuers_of(certificate, self._anchors)
        if not issuers:
            return ()
        leaf = x509.load_der_x509_certificate(certificate)
        return tuple((each.not_valid_before_utc, each.not_valid_after_utc) for each in (leaf, *issuers))


def issuers_of(certificate: bytes, anchors: Sequence[x509.Certificate]) -> tuple[x509.Certificate, ...]:
    """The anchors that signed a certificate themselves; several if an authority's certificate was renewed.

    Args:
        certificate: DER.
        anchors: The candidates.
    """
    found = []
    for anchor in anchors:
        try:
            x509.load_der_x509_certificate(certificate).verify_directly_issued_by(anchor)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            continue  # another name or key, or of a kind that cannot be checked here
        found.append(anchor)
    return tuple(found)


def _code_of_dates(chain: tuple[tuple[datetime, datetime], ...], wall: datetime) -> str | None:
    """Why a chain (a leaf, then those of its issuers that are trusted) is not valid at a time, or `None`."""
    leaf, *issuers = chain
    if wall < leaf[0] or all(wall < begins for begins, _ in issuers):
        return "certificate_not_yet_valid"
    if wall > leaf[1] or not any(begins <= wall <= ends for begins, ends in issuers):
        return "certificate_expired"
    return None
