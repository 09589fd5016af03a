"""Who a node is: names, and the identity that a certificate proves.

Sits at the bottom of `rapini.secure`; the session compares what a peer *claims* with what this module read from what
the peer *proved*.

An identity is one URI in the certificate's subjectAltName, `rapini://<cluster>/<node>`, with at most one
`rapini-role://<cluster>/<role>` beside it. A URI and not the subject's common name, because a common name has no
syntax, is compared by nobody in one way, and is out of use since RFC 6125; a URI and not a DNS name, because a node is
not a host: it moves, and a host carries many. Exactly one, because a certificate that is two nodes at once would let
its holder choose afterwards which of them it was (SPIFFE's X.509-SVID has the same rule for the same reason).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509

from rapini.errors import ConfigError, DecodeError
from rapini.limits import MAX_NAME_BYTES

__all__ = [
    "PeerIdentity",
    "check_denied",
    "check_name",
    "identity_uri",
    "is_denied",
    "is_name",
    "parse_identity_untrusted",
    "role_uri",
    "validity_untrusted",
]

_NAME: Final = rf"[A-Za-z0-9_][A-Za-z0-9._-]{{0,{MAX_NAME_BYTES - 1}}}"
_IS_NAME: Final = re.compile(_NAME, re.ASCII)
_IS_IDENTITY: Final = re.compile(rf"rapini://({_NAME})/({_NAME})", re.ASCII)
_IS_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_IS_ROLE: Final = re.compile(rf"rapini-role://({_NAME})/({_NAME})", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerIdentity:
    """What the mechanism proved about a node; never what the node says about itself."""

    cluster: str
    node: str
    role: str | None
    """The role that the authority gave it, or `None`."""
    fingerprint_sha256: str
    """SHA-256 of the whole certificate, 64 lower-case hex digits."""
    not_after: datetime | None
    """When the certificate ends (UTC); `None` where the mechanism knows no such date."""
    mechanism: str
    """How it was proved, for example ``"tls"``."""


def is_name(name: str) -> bool:
    """Whether a text can be the name of a node, a cluster or a role: see `check_name`."""
    return _IS_NAME.fullmatch(name) is not None


def check_name(name: str, *, what: str = "name") -> str:
    """Make sure that a text can be the name of a node, a cluster or a role.

    Args:
        name: 1 to 128 characters of `A-Z a-z 0-9 . _ -`, the first of them neither a dot nor a hyphen (such a name
            would be a hidden file, or an option).
        what: What it names, for the error's text.

    Returns:
        The name itself.

    Raises:
        ConfigError: Code ``bad_name``.
    """
    if is_name(name):
        return name
    raise ConfigError(
        "bad_name",
        f"{name[:MAX_NAME_BYTES]!r} cannot be the name of a {what}",
        remedy=f"use 1 to {MAX_NAME_BYTES} of A-Z a-z 0-9 . _ - and begin with a letter, a digit or _",
    )


def check_denied(denied: Iterable[str]) -> frozenset[str]:
    """Make a deny list of what somebody wrote: names of nodes, and SHA-256 fingerprints of certificates.

    Args:
        denied: Fingerprints may be in capitals and have colons, as OpenSSL prints them.

    Raises:
        ConfigError: Code ``bad_name``: an entry is neither.
    """
    found = set()
    for entry in denied:
        fingerprint = entry.replace(":", "").lower()
        is_fingerprint = _IS_FINGERPRINT.fullmatch(fingerprint) is not None
        found.add(fingerprint if is_fingerprint else check_name(entry, what="node to be denied"))
    return frozenset(found)


def is_denied(identity: PeerIdentity, denied: frozenset[str]) -> bool:
    """Whether a deny list names this node or its certificate."""
    return identity.fingerprint_sha256 in denied or identity.node in denied


def identity_uri(cluster: str, node: str) -> str:
    """The URI that names a node in its certificate.

    Raises:
        ConfigError: Code ``bad_name``.
    """
    return f"rapini://{check_name(cluster, what='cluster')}/{check_name(node, what='node')}"


def role_uri(cluster: str, role: str) -> str:
    """The URI that gives a node its role.

    Raises:
        ConfigError: Code ``bad_name``.
    """
    return f"rapini-role://{check_name(cluster, what='cluster')}/{check_name(role, what='role')}"


def parse_identity_untrusted(der: bytes, *, mechanism: str = "tls") -> PeerIdentity:
    """Read the identity from a certificate; whether the certificate is to be believed is not judged here.

    Args:
        der: One certificate, DER; may be hostile.
        mechanism: Kept in the result.

    Raises:
        DecodeError: Code ``certificate_invalid`` (not a certificate that we can read) or ``no_identity`` (none,
            several, or malformed).
    """
    uris, not_after = _read_certificate_untrusted(der)
    cluster, node = _only_one_untrusted(uris, "rapini:", _IS_IDENTITY)
    role = None
    if any(uri.lower().startswith("rapini-role:") for uri in uris):
        role_cluster, role = _only_one_untrusted(uris, "rapini-role:", _IS_ROLE)
        if role_cluster != cluster:
            raise DecodeError("no_identity", "the certificate's role is of another cluster than its identity")
    return PeerIdentity(
        cluster=cluster,
        node=node,
        role=role,
        fingerprint_sha256=hashlib.sha256(der).hexdigest(),
        not_after=not_after,
        mechanism=mechanism,
    )


def validity_untrusted(der: bytes) -> tuple[datetime, datetime]:
    """Read from when until when a certificate is valid, both UTC.

    Raises:
        DecodeError: Code ``certificate_invalid``.
    """
    with _refusing_unreadable():
        certificate = x509.load_der_x509_certificate(der)
        return certificate.not_valid_before_utc, certificate.not_valid_after_utc


def _read_certificate_untrusted(der: bytes) -> tuple[list[str], datetime]:
    with _refusing_unreadable():
        certificate = x509.load_der_x509_certificate(der)
        not_after = certificate.not_valid_after_utc
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return [], not_after
        return names.get_values_for_type(x509.UniformResourceIdentifier), not_after


@contextmanager
def _refusing_unreadable() -> Iterator[None]:
    # Beside ValueError, malformed certificates bring out InvalidVersion, DuplicateExtension,
    # UnsupportedGeneralNameType and more; they share no base class but Exception, and a stranger's certificate must
    # not end the process.
    try:
        yield
    except Exception as error:  # noqa: BLE001 - see above
        raise DecodeError("certificate_invalid", f"not a readable certificate: {type(error).__name__}") from None


def _only_one_untrusted(uris: list[str], scheme: str, pattern: re.Pattern[str]) -> tuple[str, str]:
    # Schemes are compared without case here (RFC 3986) so that a second one in capitals counts as a second one, while
    # the pattern takes the exact form alone: one way to write a name, not several.
    found = [uri for uri in uris if uri.lower().startswith(scheme)]
    if len(found) != 1:
        raise DecodeError("no_identity", f"the certificate has {len(found)} {scheme}// names instead of one")
    match = pattern.fullmatch(found[0])
    if match is None:
        raise DecodeError("no_identity", f"the certificate's {scheme}// name is malformed")
    return match[1], match[2]
