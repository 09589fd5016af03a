"""Reads from a certificate what `rapini ca show` prints; whether it is to be believed is not judged here.

A command may use the public API alone, which does not (yet) describe a certificate, and X.509 libraries belong to
`rapini.secure`. What is shown needs five fields of DER: so this walks to them, bounds checked, and nothing is decided
by what it finds. Tests compare it with what `cryptography` reads.

Source: RFC 5280 sections 4.1 (the certificate), 4.1.2.5 (times) and 4.2.1.6 (subjectAltName); X.690 for DER.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from rapini.errors import DecodeError

__all__ = ["CertificateInfo", "read_certificates_untrusted"]

_EXPLICIT_VERSION: Final = 0xA0
_EXTENSIONS: Final = 0xA3
_UTC_TIME: Final = 0x17
_DNS, _URI, _IP = 0x82, 0x86, 0x87
_OID_SUBJECT_ALT_NAME: Final = bytes.fromhex("551d11")  # 2.5.29.17
_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)


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


def read_certificates_untrusted(pem: bytes) -> list[CertificateInfo]:
    """Read every certificate of a PEM file; an empty list if there is none.

    Raises:
        DecodeError: `certificate_invalid`.
    """
    return [_read_untrusted(block) for block in _PEM.findall(pem)]


def _read_untrusted(block: bytes) -> CertificateInfo:
    try:
        der = base64.b64decode(b"".join(block.split()), validate=True)
        fields = _elements(_elements(_elements(der)[0][1])[0][1])
        if fields[0][0] == _EXPLICIT_VERSION:
            fields = fields[1:]
        # What follows: serial number, algorithm, issuer, validity, subject, key, and optional fields by their tags.
        begins, ends = _elements(fields[3][1])
        names = _alternative_names([content for tag, content in fields[6:] if tag == _EXTENSIONS])
        return CertificateInfo(
            uris=tuple(content.decode("ascii") for tag, content in names if tag == _URI),
            hosts=tuple(_host(tag, content) for tag, content in names if tag in (_DNS, _IP)),
            not_before=_time(*begins),
            not_after=_time(*ends),
            fingerprint_sha256=hashlib.sha256(der).hexdigest(),
        )
    except (ValueError, IndexError, binascii.Error):
        raise DecodeError("certificate_invalid", "a certificate in it is damaged") from None


def _elements(data: bytes) -> list[tuple[int, bytes]]:
    """The tags and contents that follow each other in `data`."""
    found = []
    at = 0
    while at < len(data):
        tag, length = data[at], data[at + 1]
        at += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[at : at + size], "big")
            at += size
        if at + length > len(data):
            raise ValueError("an element is longer than what holds it")
        found.append((tag, data[at : at + length]))
        at += length
    return found


def _alternative_names(extensions: list[bytes]) -> list[tuple[int, bytes]]:
    """The general names of subjectAltName; none if there is no such extension."""
    for holder in extensions:
        for _, extension in _elements(_elements(holder)[0][1]):
            parts = _elements(extension)
            if parts[0][1] == _OID_SUBJECT_ALT_NAME:
                return _elements(_elements(parts[-1][1])[0][1])
    return []


def _host(tag: int, content: bytes) -> str:
    return content.decode("ascii") if tag == _DNS else str(ipaddress.ip_address(content))


def _time(tag: int, content: bytes) -> datetime:
    text = content.decode("ascii")
    if tag == _UTC_TIME:  # two digits of the year: 50 to 99 are of the last century
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
