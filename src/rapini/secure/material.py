"""A node's key material, loaded from files and checked, and the channels made with it.

The only module of `secure` besides `authority` that reads files. Whatever is wrong with a file is a `ConfigError` that
names the file and the remedy, before the first connection: a wrong key must not look like a peer's fault.

Material never changes. When trust, certificate, key or deny list change, load anew, `retire` the old material and make
new channels with the new; the old contexts go with the old channels (`contexts` and `tickets` say why).
"""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from rapini.defaults import HANDSHAKE_TIMEOUT_S
from rapini.errors import ConfigError, DecodeError
from rapini.secure.contexts import Contexts, build_contexts
from rapini.secure.identity import PeerIdentity, check_denied, parse_identity_untrusted
from rapini.secure.tickets import Place, Tickets
from rapini.secure.tls import TlsChannel

__all__ = ["MALFORMED", "TlsMaterial", "check_pair", "load_certificates", "load_private_key", "read_secret"]

MALFORMED: Final = (x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError)
"""What `cryptography` raises on extensions that it cannot read."""

_MAX_FILE_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsMaterial:
    """What a node proves itself with, and whom it believes. Make it by `load`; any thread may use it."""

    identity: PeerIdentity
    """Our own, as our certificate says it."""
    trust_fingerprints: tuple[str, ...]
    """SHA-256 of each trust anchor, in hex."""
    contexts: Contexts
    denied: frozenset[str] = frozenset()
    """Names of nodes, and SHA-256 fingerprints of certificates, that are refused though their certificate is good."""
    tickets: Tickets | None = None
    """For resumed handshakes; `None`: none are resumed."""

    @classmethod
    def load(
        cls,
        certificate_path: str | os.PathLike[str],
        key_path: str | os.PathLike[str],
        trust_path: str | os.PathLike[str],
        *,
        denied: Iterable[str] = (),
        resume: bool = True,
        wall_now: datetime | None = None,
    ) -> TlsMaterial:
        """Load and check the three files that `rapini ca issue` writes.

        Args:
            certificate_path: PEM: the node's certificate, then any intermediates.
            key_path: PEM: its private key, unencrypted, readable by its owner alone.
            trust_path: PEM: the authorities whose nodes are admitted.
            denied: Nodes and certificates to refuse all the same; see `identity.check_denied`.
            resume: Whether handshakes may be resumed.
            wall_now: The time to compare validity with; by default the clock's.

        Raises:
            ConfigError: With `where` naming the file; codes ``file_not_found``, ``file_unreadable``, ``not_pem``,
                ``key_permissions``, ``key_encrypted``, ``key_mismatch``, ``certificate_expired``,
                ``certificate_not_yet_valid``, ``no_identity``, ``certificate_invalid``, ``not_an_authority``. Without
                `where`: ``bad_name``, for an entry of `denied`.
        """
        certificate_file, key_file, trust_file = Path(certificate_path), Path(key_path), Path(trust_path)
        now = wall_now or _utc_now()
        certificate = load_certificates(certificate_file)[0]
        key = load_private_key(key_file)
        check_pair(certificate, key, certificate_file, key_file)
        _check_validity(certificate, now, certificate_file)
        identity = _own_identity(certificate, certificate_file)
        anchors = _load_anchors(trust_file, now)
        try:
            trust_der = b"".join(anchor.public_bytes(serialization.Encoding.DER) for anchor in anchors)
            contexts = build_contexts(certificate_file, key_file, trust_der, resume=resume)
        except ssl.SSLError as error:
            detail = f"OpenSSL refuses this certificate or key ({error.reason})"
            raise ConfigError("certificate_invalid", detail, where=str(certificate_file)) from error
        except OSError as error:  # it was readable a moment ago: somebody is replacing it
            raise _unreadable(error, certificate_file) from error
        fingerprints = tuple(anchor.fingerprint(hashes.SHA256()).hex() for anchor in anchors)
        own = certificate.public_bytes(serialization.Encoding.DER)
        return cls(
            identity=identity,
            trust_fingerprints=fingerprints,
            contexts=contexts,
            denied=check_denied(denied),
            tickets=Tickets(anchors, own, _utc_now) if resume else None,
        )

    def retire(self) -> None:
        """Drop all tickets, for good: other material takes the place of this one."""
        if self.tickets is not None:
            self.tickets.drop()

    def initiator(
        self,
        *,
        check_host: str | None,
        endpoint: str | None = None,
        expect_peer: str | None = None,
        handshake_timeout_s: float = HANDSHAKE_TIMEOUT_S,
        wall_now: datetime | None = None,
    ) -> TlsChannel:
        """Make the channel for a connection that we dialled; call its `start` next.

        Args:
            check_host: The host as it was dialled (name or address, an IPv6 one with or without brackets), which the
                peer's certificate must carry; `None` admits any host, which is for when `expect_peer` names the node.
            endpoint: What was dialled. A ticket that came from there may be used, once; `None`: none is used or kept.
            expect_peer: The node that it must be; `None`: any of our cluster.
            handshake_timeout_s: Seconds from `start`.
            wall_now: See `TlsChannel`.

        Raises:
            LocalError: Code ``bad_host``.
        """
        host = None if check_host is None else check_host.strip("[]")
        return TlsChannel(
            self.contexts.initiator_any_host if host is None else self.contexts.initiator,
            is_initiator=True,
            cluster=self.identity.cluster,
            handshake_timeout_s=handshake_timeout_s,
            check_host=host,
            expect_peer=expect_peer,
            denied=self.denied,
            tickets=self.tickets,
            place=None if endpoint is None else Place(endpoint, host),
            wall_now=wall_now,
        )

    def responder(
        self,
        *,
        expect_peer: str | None = None,
        handshake_timeout_s: float = HANDSHAKE_TIMEOUT_S,
        wall_now: datetime | None = None,
    ) -> TlsChannel:
        """Make the channel for a connection that we accepted; call its `start` next. Arguments as for `initiator`."""
        return TlsChannel(
            self.contexts.responder,
            is_initiator=False,
            cluster=self.identity.cluster,
            handshake_timeout_s=handshake_timeout_s,
            expect_peer=expect_peer,
            denied=self.denied,
            tickets=self.tickets,
            wall_now=wall_now,
        )


def _utc_now() -> datetime:
    return datetime.now(UTC)


def load_certificates(path: Path) -> list[x509.Certificate]:
    """Read the certificates of a PEM file, at least one.

    Raises:
        ConfigError: Codes ``file_not_found``, ``file_unreadable``, ``not_pem``.
    """
    with _open(path) as file:
        pem = file.read(_MAX_FILE_BYTES)
    try:
        return x509.load_pem_x509_certificates(pem)
    except (ValueError, x509.InvalidVersion) as error:
        raise ConfigError(
            "not_pem",
            "this file holds no readable PEM certificate",
            where=str(path),
            remedy="it begins with -----BEGIN CERTIFICATE-----; `rapini ca issue` writes such files",
        ) from error


def read_secret(path: Path) -> bytes:
    """Read a file that nobody but its owner may access.

    Raises:
        ConfigError: Codes ``file_not_found``, ``file_unreadable``, ``key_permissions``.
    """
    with _open(path) as file:
        # Of the open file and not of the path, which may be another one by now.
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(
                "key_permissions",
                f"others than its owner may access this private key (mode {mode:04o})",
                where=str(path),
                remedy=f"chmod 600 {path}",
            )
        return file.read(_MAX_FILE_BYTES)


def load_private_key(path: Path) -> PrivateKeyTypes:
    """Read an unencrypted private key that nobody but its owner may access.

    Raises:
        ConfigError: As `read_secret`, and ``not_pem``, ``key_encrypted``.
    """
    pem = read_secret(path)
    try:
        return serialization.load_pem_private_key(pem, password=None)
    except TypeError as error:
        raise ConfigError(
            "key_encrypted",
            "this private key is encrypted, and nobody would be there to type its password",
            where=str(path),
            remedy=f"openssl pkey -in {path} -out PLAIN.key; chmod 600 PLAIN.key",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            "not_pem",
            "this file holds no readable PEM private key",
            where=str(path),
            remedy="it begins with -----BEGIN PRIVATE KEY-----; `rapini ca issue` writes such files",
        ) from error


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise _unreadable(error, path) from error


def _unreadable(error: OSError, path: Path) -> ConfigError:
    if isinstance(error, FileNotFoundError):
        return ConfigError("file_not_found", "no such file", where=str(path), remedy="check the path")
    return ConfigError("file_unreadable", error.strerror or "cannot be read", where=str(path))


def check_pair(certificate: x509.Certificate, key: PrivateKeyTypes, certificate_file: Path, key_file: Path) -> None:
    """Make sure that a private key is that of a certificate; the files are named in the error.

    Raises:
        ConfigError: Codes ``key_mismatch``, ``certificate_invalid``.
    """
    forms = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    try:
        is_pair = key.public_key().public_bytes(*forms) == certificate.public_key().public_bytes(*forms)
    except (ValueError, UnsupportedAlgorithm) as error:
        detail = "the key in this certificate is of a kind that cannot be used"
        raise ConfigError("certificate_invalid", detail, where=str(certificate_file)) from error
    if not is_pair:
        raise ConfigError(
            "key_mismatch",
            f"this private key is not that of the certificate in {certificate_file}",
            where=str(key_file),
            remedy="use the two files that `rapini ca` wrote together, the node's own certificate first",
        )


def _check_validity(certificate: x509.Certificate, now: datetime, path: Path) -> None:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > ends:
        raise ConfigError(
            "certificate_expired",
            f"this certificate ended on {ends:%Y-%m-%d %H:%M} UTC",
            where=str(path),
            remedy="issue a new one: `rapini ca issue`",
        )
    if now < begins:
        raise ConfigError(
            "certificate_not_yet_valid",
            f"this certificate begins on {begins:%Y-%m-%d %H:%M} UTC, and it is {now:%Y-%m-%d %H:%M} UTC here",
            where=str(path),
            remedy="set this machine's clock, or wait",
        )


def _own_identity(certificate: x509.Certificate, path: Path) -> PeerIdentity:
    try:
        return parse_identity_untrusted(certificate.public_bytes(serialization.Encoding.DER))
    except DecodeError as error:
        remedy = "issue one that names a node: `rapini ca issue`"
        raise ConfigError(error.code, error.detail, where=str(path), remedy=remedy) from error


def _load_anchors(path: Path, now: datetime) -> list[x509.Certificate]:
    """The authorities of a trust file. During a change of authorities it holds two, and one may have ended."""
    anchors = load_certificates(path)
    if not all(_is_authority(anchor) for anchor in anchors):
        raise ConfigError(
            "not_an_authority",
            "this file must hold authorities' certificates only, and one in it is not an authority's",
            where=str(path),
            remedy="use the authority's ca.crt",
        )
    if not any(anchor.not_valid_before_utc <= now <= anchor.not_valid_after_utc for anchor in anchors):
        _check_validity(anchors[0], now, path)
    return anchors


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, *MALFORMED):
        return False
