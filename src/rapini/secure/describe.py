"""What a certificate says, for people: `rapini ca show`. Whether it is to be believed is not judged here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from rapini.errors import DecodeError

__all__ = ["CertificateInfo", "describe_certificates_untrusted"]

_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateInfo:
    """One certificate, as far as it is shown."""

    uris: tuple[str, ...]
    hosts: tuple[str, ...]
    """DNS names and IP addresses."""
    not_before: datetime
    not_after: datetime
    fingerprint_sha256: str
    """Of the whole certificate, hexadecimal."""


def describe_certificates_untrusted(pem: bytes) -> list[CertificateInfo]:
    """Read every certificate of a PEM file; an empty list if there is none.

    Raises:
        DecodeError: `certificate_invalid`.
    """
    return [_describe_untrusted(block) for block in _PEM.findall(pem)]


def _describe_untrusted(pem: bytes) -> CertificateInfo:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = _names(certificate)
        return CertificateInfo(
            uris=tuple(names.get_values_for_type(x509.UniformResourceIdentifier)),
            hosts=(
                *names.get_values_for_type(x509.DNSName),
                *map(str, names.get_values_for_type(x509.IPAddress)),
            ),
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            fingerprint_sha256=certificate.fingerprint(hashes.SHA256()).hex(),
        )
    # Malformed certificates bring out exceptions that share no base class but Exception (see `identity`).
    except Exception:  # noqa: BLE001 - see above
        raise DecodeError("certificate_invalid", "a certificate in it is damaged") from None


def _names(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return x509.SubjectAlternativeName([])
