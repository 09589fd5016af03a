"""What OpenSSL does not check: whether the peer is a node of ours, the one expected, and proved at all.

Used by `tls` once per channel, when the handshake is complete. In a full handshake OpenSSL has verified the
certificate: chain, dates, purpose and dialled host. In a resumed one it has verified nothing, and `tickets` is asked
about each of them.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import datetime

from rapini.errors import DecodeError
from rapini.secure.channel import ChannelFailed, Side
from rapini.secure.contexts import ALPN
from rapini.secure.identity import PeerIdentity, is_denied, parse_identity_untrusted, validity_untrusted
from rapini.secure.reasons import failure
from rapini.secure.tickets import Tickets

__all__ = ["PeerJudge"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerJudge:
    """What a peer must be."""

    cluster: str
    """Ours; a peer of another is refused (``wrong_cluster``)."""
    check_host: str | None = None
    """The dialled host; `None`: any, and always at a responder."""
    expect_peer: str | None = None
    """The node that it must be (``wrong_name``); `None`: any of the cluster."""
    wall_now: datetime | None = None
    """The time that its certificate must be valid at, beside OpenSSL's own look at the clock. In a resumed handshake
    OpenSSL does not look; there the clock of `tickets` counts if this is `None`."""
    denied: frozenset[str] = frozenset()
    """Names and fingerprints that are refused (``certificate_revoked``)."""
    tickets: Tickets | None = None
    """What judges resumed handshakes; `None`: all of them are refused."""

    def judge(self, tls: ssl.SSLObject, now: float) -> PeerIdentity | ChannelFailed:
        """Judge the peer of a completed handshake.

        Args:
            tls: The connection.
            now: Monotonic seconds.
        """
        certificate = tls.getpeercert(True)
        if certificate is None:
            return failure("no_certificate", Side.OURS)
        if tls.selected_alpn_protocol() != ALPN:
            return failure("not_rapini", Side.OURS, f"ALPN {ALPN} was not agreed")
        verdict = self._judge_certificate(certificate)
        if isinstance(verdict, ChannelFailed):
            return verdict
        if tls.session_reused:
            return self._judge_proof(verdict, now)
        if self.tickets is not None:
            wall = self.wall_now or self.tickets.clock()
            self.tickets.proved(certificate, verdict.fingerprint_sha256, self.check_host, now, wall)
        return verdict

    def _judge_certificate(self, certificate: bytes) -> PeerIdentity | ChannelFailed:
        try:
            identity = parse_identity_untrusted(certificate, mechanism="tls")
            not_before, not_after = validity_untrusted(certificate)
        except DecodeError as error:
            return failure(error.code, Side.OURS, error.detail)
        if is_denied(identity, self.denied):
            return failure("certificate_revoked", Side.OURS, "it is on our deny list")
        if self.wall_now is not None and self.wall_now < not_before:
            return failure("certificate_not_yet_valid", Side.OURS, f"begins {not_before:%Y-%m-%d %H:%M} UTC")
        if self.wall_now is not None and self.wall_now > not_after:
            return failure("certificate_expired", Side.OURS, f"ended {not_after:%Y-%m-%d %H:%M} UTC")
        if identity.cluster != self.cluster:
            return failure("wrong_cluster", Side.OURS, f"{identity.cluster}, ours is {self.cluster}")
        if self.expect_peer is not None and identity.node != self.expect_peer:
            return failure("wrong_name", Side.OURS, f"{identity.node} in place of {self.expect_peer}")
        return identity

    def _judge_proof(self, identity: PeerIdentity, now: float) -> PeerIdentity | ChannelFailed:
        """Whether an earlier handshake has proved what this one took from its ticket."""
        if self.tickets is None:
            return failure("resumption_refused", Side.OURS, "no ticket of ours is out")
        wall = self.wall_now or self.tickets.clock()
        refusal = self.tickets.judge(identity.fingerprint_sha256, self.check_host, now, wall)
        return identity if refusal is None else failure(refusal[0], Side.OURS, refusal[1])
