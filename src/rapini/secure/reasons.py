"""Why a channel failed: OpenSSL's reasons mapped to our codes, in this one place.

Used by `tls`. OpenSSL tells a reason in three ways, and its English is none of them: the symbol of the error
(`SSLError.reason`, the macro SSL_R_... without its prefix), the verification code where a certificate was refused
(`verify_code`, X509_V_ERR_...), and alerts of the peer, which Python shows as symbols with ALERT in them. A symbol
that is not listed becomes `tls_failed` or `peer_refused`, with the symbol in the detail, so nothing is lost by a new
OpenSSL.

What one side knows, the other learns as an alert at best, and alerts are coarse: OpenSSL answers 'not yet valid' and
'not the host I dialled' with the same bad_certificate (RFC 8446 section 6.2), hence `peer_refused_certificate`.

Source: OpenSSL 3.0 include/openssl/sslerr.h, x509_vfy.h.in, ssl/statem/statem_lib.c (x509table).
"""

from __future__ import annotations

import ssl
from typing import Final

from rapini.secure.channel import ChannelFailed, Side

__all__ = ["ALERTS", "REASONS", "SENTENCES", "VERIFY_CODES", "failure", "failure_from_openssl"]

SENTENCES: Final[dict[str, str]] = {
    # who the peer is, or is not
    "unknown_ca": "the peer's certificate was not issued by an authority that we trust",
    "certificate_expired": "the peer's certificate, or its authority's, has expired",
    "certificate_not_yet_valid": "the peer's certificate is not yet valid; compare the clocks",
    "certificate_revoked": "the peer's certificate has been revoked",
    "certificate_invalid": "the peer's certificate, or its authority's, breaks the rules for certificates",
    "bad_key_usage": "the peer's certificate is not meant for this use",
    "no_certificate": "the peer sent no certificate",
    "no_identity": "the peer's certificate does not name exactly one Rapini node",
    "wrong_cluster": "the peer is of another cluster",
    "wrong_host": "the peer's certificate is not for the host that was dialled",
    "wrong_name": "the peer is another node than expected",
    "resumption_refused": "the peer resumed an earlier handshake, and must make a full one",
    # what it speaks
    "not_rapini": "the peer does not speak Rapini",
    "not_tls": "the peer does not speak TLS",
    "peer_is_plain": "the peer speaks Rapini without protection, and this endpoint demands TLS",
    "peer_speaks_tls": "the peer speaks TLS, and this endpoint is plain",
    "protocol_version": "the peer does not speak TLS 1.3",
    "no_shared_cipher": "the peer offers no cipher, group or signature that we accept",
    # how it went
    "handshake_damaged": "the handshake was malformed or altered on the way",
    "handshake_too_large": "the peer's handshake exceeds our limit",
    "handshake_timeout": "the handshake was not completed in time",
    "closed_in_handshake": "the connection ended during the handshake",
    "transport_ended": "the connection ended without a goodbye",
    "record_damaged": "a record was altered, lost, repeated or out of order",
    "unexpected_record": "a record does not belong to this channel",
    "tls_failed": "TLS failed",
    "bad_packet": "the peer broke the rules of retransmission",
    "unacknowledged": "the peer acknowledges nothing that is sent to it",
    "backlog_too_large": "the peer has not acknowledged more than we can keep for it",
    # what the peer told us about ourselves
    "peer_refused_unknown_ca": "the peer does not trust the authority that issued our certificate",
    "peer_refused_expired": "the peer says that our certificate has expired",
    "peer_refused_revoked": "the peer says that our certificate has been revoked",
    "peer_refused_certificate": "the peer refused our certificate: not yet valid, not for the host it dialled, or bad",
    "peer_refused_bad_key_usage": "the peer says that our certificate is not meant for this use",
    "peer_refused_no_certificate": "the peer demands a certificate and got none",
    "peer_refused_access": "the peer does not admit us",
    "peer_refused_protocol_version": "the peer does not accept our version of TLS",
    "peer_refused_cipher": "the peer accepts none of our ciphers, groups or signatures",
    "peer_refused_not_rapini": "the peer does not speak Rapini",
    "peer_refused_damaged": "the peer says that what it got from us was altered, lost or out of order",
    "peer_refused": "the peer refused us",
}
"""Every code with its meaning."""

_DAMAGE_IN_HANDSHAKE = (
    "BAD_SIGNATURE DIGEST_CHECK_FAILED LENGTH_MISMATCH BAD_LENGTH BAD_EXTENSION BAD_KEY_SHARE BAD_CIPHER "
    "BAD_HANDSHAKE_LENGTH BAD_PACKET_LENGTH UNEXPECTED_MESSAGE UNSOLICITED_EXTENSION EXCESSIVE_MESSAGE_SIZE "
    "BAD_LEGACY_VERSION MISSING_SIGALGS_EXTENSION MISSING_SUPPORTED_GROUPS_EXTENSION UNKNOWN_CIPHER_RETURNED "
    "WRONG_CIPHER_RETURNED CIPHERSUITE_DIGEST_HAS_CHANGED INVALID_COMPRESSION_ALGORITHM NO_COMPRESSION_SPECIFIED "
    "INVALID_CCS_MESSAGE BAD_CHANGE_CIPHER_SPEC CCS_RECEIVED_EARLY WRONG_SIGNATURE_TYPE BAD_HELLO_REQUEST "
    "INVALID_SESSION_ID ENCODED_LENGTH_TOO_LONG BAD_DIGEST_LENGTH BAD_ECPOINT NOT_ON_RECORD_BOUNDARY"
)

REASONS: Final[dict[str, str]] = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no_certificate",
    "HTTP_REQUEST": "not_tls",
    "HTTPS_PROXY_REQUEST": "not_tls",
    "UNSUPPORTED_PROTOCOL": "protocol_version",
    "VERSION_TOO_LOW": "protocol_version",
    "VERSION_TOO_HIGH": "protocol_version",
    "WRONG_SSL_VERSION": "protocol_version",
    "BAD_PROTOCOL_VERSION_NUMBER": "protocol_version",
    "NO_SHARED_CIPHER": "no_shared_cipher",
    "NO_CIPHERS_SPECIFIED": "no_shared_cipher",
    "NO_SUITABLE_KEY_SHARE": "no_shared_cipher",
    "NO_SUITABLE_GROUPS": "no_shared_cipher",
    "NO_SUITABLE_SIGNATURE_ALGORITHM": "no_shared_cipher",
    "NO_SHARED_SIGNATURE_ALGORITHMS": "no_shared_cipher",
    "NO_SHARED_GROUPS": "no_shared_cipher",
    "DECRYPTION_FAILED_OR_BAD_RECORD_MAC": "record_damaged",
    "DECRYPTION_FAILED": "record_damaged",
    "PACKET_LENGTH_TOO_LONG": "record_damaged",
    "ENCRYPTED_LENGTH_TOO_LONG": "record_damaged",
    "DATA_LENGTH_TOO_LONG": "record_damaged",
    "LENGTH_TOO_SHORT": "record_damaged",
    "RECORD_TOO_SMALL": "record_damaged",
    "RECORD_LENGTH_MISMATCH": "record_damaged",
    "WRONG_VERSION_NUMBER": "record_damaged",
    "BAD_RECORD_TYPE": "unexpected_record",
    "UNEXPECTED_RECORD": "unexpected_record",
    **dict.fromkeys(_DAMAGE_IN_HANDSHAKE.split(), "handshake_damaged"),
}
"""What we found wrong: OpenSSL's symbol to our code."""

ALERTS: Final[dict[str, str]] = {
    "TLSV1_ALERT_UNKNOWN_CA": "peer_refused_unknown_ca",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "peer_refused_expired",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "peer_refused_revoked",
    "SSLV3_ALERT_BAD_CERTIFICATE": "peer_refused_certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "peer_refused_certificate",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "peer_refused_bad_key_usage",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "peer_refused_no_certificate",
    "TLSV1_ALERT_ACCESS_DENIED": "peer_refused_access",
    "TLSV1_ALERT_PROTOCOL_VERSION": "peer_refused_protocol_version",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "peer_refused_cipher",
    "TLSV1_ALERT_INSUFFICIENT_SECURITY": "peer_refused_cipher",
    "TLSV1_ALERT_NO_APPLICATION_PROTOCOL": "peer_refused_not_rapini",
    "SSLV3_ALERT_BAD_RECORD_MAC": "peer_refused_damaged",
    "SSLV3_ALERT_UNEXPECTED_MESSAGE": "peer_refused_damaged",
    "SSLV3_ALERT_ILLEGAL_PARAMETER": "peer_refused_damaged",
    "TLSV1_ALERT_RECORD_OVERFLOW": "peer_refused_damaged",
    "TLSV1_ALERT_DECODE_ERROR": "peer_refused_damaged",
    "TLSV1_ALERT_DECRYPT_ERROR": "peer_refused_damaged",
    # alerts whose symbol does not say that they are one
    "TLSV1_UNRECOGNIZED_NAME": "peer_refused",
    "TLSV1_UNSUPPORTED_EXTENSION": "peer_refused",
}
"""What the peer told us: OpenSSL's symbol of its alert to our code."""

VERIFY_CODES: Final[dict[int, str]] = {
    # X509_V_ERR_...: no issuer found, in its several forms
    2: "unknown_ca",
    18: "unknown_ca",
    19: "unknown_ca",
    20: "unknown_ca",
    21: "unknown_ca",
    27: "unknown_ca",
    33: "unknown_ca",
    9: "certificate_not_yet_valid",
    10: "certificate_expired",
    23: "certificate_revoked",
    26: "bad_key_usage",
    62: "wrong_host",
    64: "wrong_host",
}
"""Why a certificate was refused: X509_V_ERR_ numbers, which OpenSSL never changes. Others: `certificate_invalid`."""


def failure(code: str, side: Side, note: str = "") -> ChannelFailed:
    """Make the outcome for one of our codes.

    Args:
        code: One of `SENTENCES`.
        side: Who ended it.
        note: What else is known, for the end of the detail; text of ours, never a peer's unescaped.
    """
    sentence = SENTENCES[code]
    return ChannelFailed(code=code, side=side, detail=f"{sentence} ({note})" if note else sentence)


def failure_from_openssl(error: OSError) -> ChannelFailed:
    """Make the outcome for what OpenSSL reported; `ssl.SSLError` is an `OSError`."""
    if isinstance(error, ssl.SSLCertVerificationError):
        # `verify_message` is OpenSSL's own text and quotes nothing but the host that *we* dialled.
        note = f"{error.verify_message}".rstrip(".")
        return failure(VERIFY_CODES.get(error.verify_code, "certificate_invalid"), Side.OURS, note)
    # Typed as str, but None where Python has no name for OpenSSL's number, and absent in a plain OSError.
    reason: str = getattr(error, "reason", None) or f"error {error.errno}"
    if reason in ALERTS or reason.startswith(("SSLV3_ALERT_", "TLSV1_ALERT_", "TLSV13_ALERT_")):
        return failure(ALERTS.get(reason, "peer_refused"), Side.THEIRS, reason)
    return failure(REASONS.get(reason, "tls_failed"), Side.OURS, reason)
