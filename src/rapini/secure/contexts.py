"""OpenSSL contexts: the one place that decides what our TLS accepts.

Used by `material`. TLS 1.3 and nothing older, certificates demanded of both sides, strict X.509 rules, ALPN
`rapini/1`, no early data, no key log. A context is built once and never changed: a change of trust is a new context,
because OpenSSL resumes a ticket without asking a trust that was added later (`requirements.md`, finding 5).

Tickets (see `tickets`): OpenSSL encrypts them with a random key that it makes for each context and shows nobody. A
server that demands certificates must also name the *session id context* of its tickets, or OpenSSL refuses to resume
any; Python names them all "Python". So it is the key alone that keeps the tickets of one node, or of an older context,
from being taken by another, and a test holds that.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["ALPN", "TICKETS", "Contexts", "build_contexts"]

ALPN: Final = "rapini/1"
"""What we say that we speak inside TLS (RFC 7301). It keeps a certificate's other uses apart: a web server with a
certificate of the same authority cannot be taken for a node, nor a node for it (the ALPACA attack)."""

TICKETS: Final = 1
"""Tickets that a responder issues per handshake. Two nodes share one channel, so a second would never be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contexts:
    """The three contexts of one node, all with the same certificate and trust."""

    initiator: ssl.SSLContext
    """Checks the dialled host against the certificate."""
    initiator_any_host: ssl.SSLContext
    """Does not: where the peer's node name is expected instead, or the host means nothing."""
    responder: ssl.SSLContext


def build_contexts(certificate_path: Path, key_path: Path, trust_der: bytes, *, resume: bool = True) -> Contexts:
    """Build the contexts of one node.

    Args:
        certificate_path: PEM, the node's certificate first, then intermediates.
        key_path: PEM, unencrypted.
        trust_der: The trust anchors, DER, one after the other.
        resume: Whether the responder issues tickets.

    Raises:
        ssl.SSLError: Something does not fit; `material` says what in our terms.
        OSError: A file cannot be read.
    """
    initiator, any_host, responder = (
        _context(protocol, certificate_path, key_path, trust_der)
        for protocol in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER)
    )
    any_host.check_hostname = False
    if resume:
        # With OP_NO_TICKET, TLS 1.3 would issue tickets all the same, and keep what is behind them in memory.
        responder.options &= ~ssl.OP_NO_TICKET
    responder.num_tickets = TICKETS if resume else 0
    return Contexts(initiator=initiator, initiator_any_host=any_host, responder=responder)


def _context(protocol: int, certificate_path: Path, key_path: Path, trust_der: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.hostname_checks_common_name = False
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols([ALPN])
    context.load_verify_locations(cadata=trust_der)
    # An empty password, because OpenSSL would otherwise ask for one on the terminal.
    context.load_cert_chain(certificate_path, key_path, password=b"")
    return context
