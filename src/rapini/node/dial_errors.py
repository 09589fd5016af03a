"""What somebody who waits for a dial is told when it comes to nothing: a dial's last failure as an exception."""

from __future__ import annotations

from rapini.errors import AuthenticationError, HandshakeError, PeerError, PeerTimeoutError, RejectedError
from rapini.node.dials import NETWORK_CODES, Dial, DialState
from rapini.secure.channel import Side
from rapini.session.link import CloseKind

__all__ = ["dial_error", "is_final"]

_AUTHENTICATION = frozenset(
    {
        "unknown_ca",
        "certificate_expired",
        "certificate_not_yet_valid",
        "certificate_revoked",
        "certificate_invalid",
        "bad_key_usage",
        "no_certificate",
        "no_identity",
        "wrong_cluster",
        "wrong_host",
        "wrong_name",
        "peer_refused_unknown_ca",
        "peer_refused_expired",
        "peer_refused_revoked",
        "peer_refused_certificate",
        "peer_refused_bad_key_usage",
        "peer_refused_no_certificate",
        "peer_refused_access",
    }
)
"""Failures that lie in who somebody is, or is not."""


def is_final(dial: Dial) -> bool:
    """Whether waiting for this dial any longer makes no sense."""
    if dial.state is DialState.DONE:
        return True
    return dial.failure is not None and dial.failure[0] not in NETWORK_CODES


def dial_error(dial: Dial, wait_s: float) -> PeerError:
    """The exception for a dial that is not up after so many seconds."""
    where = str(dial.endpoint)
    closed = dial.closed
    if dial.failure is None:
        return PeerTimeoutError("timeout", f"not up within {wait_s:g} s", peer=where)
    code, detail = dial.failure
    if closed is not None and closed.kind is CloseKind.REJECTED:
        who = "the peer refused us" if closed.side is Side.THEIRS else "we refused the peer"
        return RejectedError(code, f"{who}: {detail} ({code})", peer=where)
    if code in NETWORK_CODES:
        return PeerTimeoutError(code, f"not up within {wait_s:g} s: {detail} ({code})", peer=where)
    kind = AuthenticationError if code in _AUTHENTICATION else HandshakeError
    return kind(code, f"{detail} ({code})", peer=where)
