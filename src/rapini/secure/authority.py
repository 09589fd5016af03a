"""A small certificate authority in a folder: who belongs to a cluster is who it issued a certificate to.

Above `certificates` (the forms) and `material` (reading files back); the CLI's `rapini ca` and the demo use it. The
folder holds `ca.crt` and `ca.key`, the latter unencrypted and for its owner's eyes only: whoever has it can be any node
of the cluster. Keep the folder off the monitored machines.

Files appear whole or not at all: written under another name, synced, then linked to their own, which fails if that name
is taken. Nothing is overwritten unless `force` says so.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from rapini.errors import ConfigError
from rapini.secure.certificates import BACKDATED, Issuer, LeafForm, make_authority, make_leaf
from rapini.secure.identity import check_name, identity_uri, is_name, role_uri
from rapini.secure.material import MALFORMED, check_pair, load_certificates, load_private_key

__all__ = ["AUTHORITY_VALIDITY", "LEAF_VALIDITY_DAYS", "Authority", "IssuedFiles", "write_issued"]

AUTHORITY_VALIDITY: Final = timedelta(days=3653)
LEAF_VALIDITY_DAYS: Final = 365

_CERTIFICATE: Final = "ca.crt"
_KEY: Final = "ca.key"
_URI: Final = "rapini-authority://"


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedFiles:
    """Where a node's files are, as `TlsMaterial.load` takes them."""

    certificate_path: Path
    key_path: Path
    trust_path: Path


class Authority:
    """An authority that can issue. Make it by `create` or `open`; thread: any, one at a time."""

    def __init__(self, directory: Path, cluster: str, issuer: Issuer) -> None:
        self.directory = directory
        self.cluster = cluster
        self._issuer = issuer

    @classmethod
    def create(
        cls,
        directory: str | os.PathLike[str],
        cluster: str,
        validity: timedelta = AUTHORITY_VALIDITY,
        *,
        force: bool = False,
        wall_now: datetime | None = None,
    ) -> Self:
        """Make a new authority and write it to a folder, which is made (mode 0700) if it is not there.

        Args:
            directory: Where `ca.crt` and `ca.key` go.
            cluster: The cluster's name, part of every node's identity.
            validity: How long the authority lives.
            force: Overwrite an authority that is there; its nodes then no longer fit.
            wall_now: The time to count from; by default the clock's.

        Raises:
            ConfigError: Codes ``bad_name``, ``exists``, ``unwritable``.
        """
        check_name(cluster, what="cluster")
        now = wall_now or datetime.now(UTC)
        issuer = make_authority(
            f"Rapini authority of {cluster}",
            not_before=now - BACKDATED,
            not_after=now + validity,
            uri=_URI + cluster,
        )
        folder = Path(directory)
        files = {folder / _KEY: issuer.key_pem(), folder / _CERTIFICATE: issuer.certificate_pem()}
        _write_all(files, force=force)
        return cls(folder, cluster, issuer)

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> Self:
        """Open the authority of a folder.

        Raises:
            ConfigError: Codes of `material.load_private_key`, and ``not_an_authority``, ``key_mismatch``.
        """
        folder = Path(directory)
        certificate_path, key_path = folder / _CERTIFICATE, folder / _KEY
        certificate = load_certificates(certificate_path)[0]
        key = load_private_key(key_path)
        check_pair(certificate, key, certificate_path, key_path)
        cluster = _cluster_of(certificate, certificate_path)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            detail = "this authority's key is of another kind than ours are (P-256)"
            raise ConfigError("not_an_authority", detail, where=str(key_path))
        return cls(folder, cluster, Issuer(certificate=certificate, key=key))

    @property
    def trust_pem(self) -> bytes:
        """The trust anchor, PEM, as every node of the cluster needs it."""
        return self._issuer.certificate_pem()

    def issue(
        self,
        node: str,
        role: str | None = None,
        hosts: Sequence[str] = (),
        validity_days: int = LEAF_VALIDITY_DAYS,
        out_dir: str | os.PathLike[str] | None = None,
        *,
        force: bool = False,
        wall_now: datetime | None = None,
    ) -> IssuedFiles:
        """Make a node's key and certificate and write them beside the trust anchor.

        Args:
            node: Its name; also names the files, `<node>.crt` and `<node>.key`.
            role: Its role, or none.
            hosts: DNS names and IP addresses under which others dial it; none are needed for a node that only dials.
            validity_days: How long the certificate lives, cut at the end of the authority's own life.
            out_dir: Where the files go; by default the authority's folder.
            force: Overwrite.
            wall_now: The time to count from; by default the clock's.

        Raises:
            ConfigError: Codes ``bad_name``, ``bad_host``, ``bad_validity``, ``exists``, ``unwritable``,
                ``certificate_expired`` (the authority's own).
        """
        now = wall_now or datetime.now(UTC)
        ends = self._issuer.certificate.not_valid_after_utc
        if now >= ends:
            raise ConfigError(
                "certificate_expired",
                f"this authority ended on {ends:%Y-%m-%d %H:%M} UTC",
                where=str(self.directory / _CERTIFICATE),
                remedy="make a new one: `rapini ca init`",
            )
        if validity_days < 1:
            raise ConfigError("bad_validity", f"{validity_days} days are too few", remedy="give at least 1")
        uris = [identity_uri(self.cluster, node)]
        if role is not None:
            uris.append(role_uri(self.cluster, role))
        form = LeafForm(
            common_name=node,
            uris=uris,
            hosts=hosts,
            not_before=max(now - BACKDATED, self._issuer.certificate.not_valid_before_utc),
            not_after=min(now + timedelta(days=validity_days), ends),
        )
        folder = self.directory if out_dir is None else Path(out_dir)
        return write_issued(folder, node, make_leaf(self._issuer, form), self.trust_pem, force=force)


def write_issued(folder: Path, node: str, issued: Issuer, trust_pem: bytes, *, force: bool = False) -> IssuedFiles:
    """Write a node's three files. An equal trust anchor that is there already stays.

    Raises:
        ConfigError: Codes ``bad_name``, ``exists``, ``unwritable``.
    """
    if node.lower() == "ca":
        remedy = "choose another name"
        raise ConfigError("bad_name", "a node named ca would take the authority's files", remedy=remedy)
    paths = IssuedFiles(
        certificate_path=folder / f"{node}.crt", key_path=folder / f"{node}.key", trust_path=folder / _CERTIFICATE
    )
    files = {paths.key_path: issued.key_pem(), paths.certificate_path: issued.certificate_pem()}
    if not _holds(paths.trust_path, trust_pem):
        files[paths.trust_path] = trust_pem
    _write_all(files, force=force)
    return paths


def _cluster_of(certificate: x509.Certificate, path: Path) -> str:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, *MALFORMED):
        uris = []
    clusters = [uri.removeprefix(_URI) for uri in uris if uri.startswith(_URI)]
    if len(clusters) == 1 and is_name(clusters[0]):
        return clusters[0]
    raise ConfigError(
        "not_an_authority",
        "this is not the certificate of a Rapini authority",
        where=str(path),
        remedy="name the folder that `rapini ca init` made",
    )


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except OSError:
        return False


def _write_all(files: dict[Path, bytes], *, force: bool) -> None:
    """Write all files or, as far as the file system lets us, none."""
    if not force:
        # All are looked at before the first is written: a pair of which one half is refused helps nobody.
        _refuse_existing(files)
    written: list[Path] = []
    for path, content in files.items():
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_atomically(path, content, force=force)
        except OSError as error:
            if not force:
                for earlier in written:
                    earlier.unlink(missing_ok=True)
            if os.path.lexists(path) and not force:
                raise _exists(path) from error
            raise ConfigError("unwritable", error.strerror or "cannot be written", where=str(path)) from error
        written.append(path)


def _refuse_existing(paths: Iterable[Path]) -> None:
    for path in paths:
        if os.path.lexists(path):
            raise _exists(path)


def _exists(path: Path) -> ConfigError:
    remedy = "choose another folder, or say --force to replace it"
    return ConfigError("exists", "this file is there already", where=str(path), remedy=remedy)


def _write_atomically(path: Path, content: bytes, *, force: bool) -> None:
    mode = 0o600 if path.suffix == ".key" else 0o644
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if force:
            temporary.replace(path)
        else:
            path.hardlink_to(temporary)  # unlike a rename, it fails if the name is taken
    finally:
        temporary.unlink(missing_ok=True)
