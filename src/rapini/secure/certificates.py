"""Making keys and certificates in memory: the forms that Rapini's authority issues.

Below `authority` (which keeps files) and `rapini.testing.authority` (which bends these forms to make broken ones). The
profile is RFC 5280's, and clean under OpenSSL's X509_V_FLAG_X509_STRICT, which our contexts set: an authority has
critical BasicConstraints and KeyUsage and a SubjectKeyIdentifier; a leaf has an AuthorityKeyIdentifier, a critical
KeyUsage of digitalSignature (TLS 1.3 signs and never encrypts with a certificate's key) and both extended usages,
because a node is client and server alike.

Keys are P-256: signing takes 15 µs, and every TLS stack of the last decade verifies it. Validity begins five minutes
early, so that a new certificate works on a machine whose clock is a little behind.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rapini.errors import ConfigError

__all__ = ["BACKDATED", "Issuer", "LeafForm", "Usage", "make_authority", "make_leaf"]

BACKDATED: Final = timedelta(minutes=5)
"""How much earlier than now a new certificate begins."""

_IS_HOST: Final = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", re.ASCII)

_COMMON_NAME_MAX: Final = (
    64  # ub-common-name of RFC 5280; names of ours may be longer and then are cut: nothing reads it
)


class Usage(Enum):
    """What a node's certificate may be used for; ours carry both, because a node is client and server alike."""

    CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
    SERVER = ExtendedKeyUsageOID.SERVER_AUTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """A certificate with its private key: what signs, or what a node holds."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def certificate_pem(self) -> bytes:
        """The certificate in PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_pem(self) -> bytes:
        """The private key in PEM (PKCS 8), unencrypted: whoever writes it to a file guards that file."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafForm:
    """What a node's certificate says. The defaults are the right ones; tests bend them to make wrong ones."""

    common_name: str
    """For people who read certificates; no program of ours does."""
    uris: Sequence[str]
    """`identity.identity_uri` and, where it has a role, `identity.role_uri`."""
    hosts: Sequence[str]
    """DNS names and IP addresses under which it is dialled."""
    not_before: datetime
    not_after: datetime
    usages: Sequence[Usage] = (Usage.CLIENT, Usage.SERVER)


def make_authority(
    common_name: str, *, not_before: datetime, not_after: datetime, uri: str = "", is_ca: bool = True
) -> Issuer:
    """Make a new authority's key and self-signed certificate.

    Args:
        common_name: For people.
        uri: A subjectAltName that programs read, or empty.
        not_before: First moment of validity (aware).
        not_after: Last moment of validity (aware).
        is_ca: False makes one that may not sign, for tests.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(common_name)
    builder = _builder(name, name, key, not_before, not_after)
    builder = builder.add_extension(
        x509.BasicConstraints(ca=is_ca, path_length=0 if is_ca else None), critical=True
    ).add_extension(_key_usage(signs_certificates=is_ca), critical=True)
    if uri:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
        builder = builder.add_extension(names, critical=False)
    return Issuer(certificate=builder.sign(key, hashes.SHA256()), key=key)


def make_leaf(issuer: Issuer, form: LeafForm) -> Issuer:
    """Make a node's key and have `issuer` sign its certificate.

    Raises:
        ConfigError: Code ``bad_host``.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    issuer_name = issuer.certificate.subject
    builder = _builder(_name(form.common_name), issuer_name, key, form.not_before, form.not_after)
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
    )
    if form.usages:
        purposes = x509.ExtendedKeyUsage([usage.value for usage in form.usages])
        builder = builder.add_extension(purposes, critical=False)
    names = [x509.UniformResourceIdentifier(uri) for uri in form.uris] + [_host(host) for host in form.hosts]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return Issuer(certificate=builder.sign(issuer.key, hashes.SHA256()), key=key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    not_before: datetime,
    not_after: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:_COMMON_NAME_MAX])])


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    try:
        ascii_host = host.encode("idna").decode("ascii")
    except UnicodeError:
        ascii_host = ""
    if not _IS_HOST.fullmatch(ascii_host):
        raise ConfigError(
            "bad_host",
            f"{host!r} is neither a host name nor an IP address",
            remedy="write it as in manager.example, 192.0.2.1 or 2001:db8::1, without a port",
        )
    return x509.DNSName(ascii_host)
