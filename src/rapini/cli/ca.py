"""`rapini ca`: an authority in a folder, certificates for nodes, and what is in a certificate."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from rapini import Authority, CertificateInfo, describe_certificates_untrusted
from rapini.cli.failures import printable
from rapini.errors import ConfigError, DecodeError

__all__ = ["ca"]

_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_MAX_FILE_BYTES: Final = 1024 * 1024
_IDENTITY: Final = "rapini://"
_ROLE: Final = "rapini-role://"
_AUTHORITY: Final = "rapini-authority://"

_HELP: Final = """Make an authority, and certificates for nodes.

Who belongs to a cluster is who its authority issued a certificate to. The authority is a folder with two files:
ca.crt, which every node gets, and ca.key, which stays at home: whoever has it can be any node.

\b
Examples:
  rapini ca init keys
  rapini ca issue keys manager --role manager --host mgr.example
  rapini ca issue keys sensor-1 --role sensor --out for-sensor-1
  rapini ca show keys/manager.crt
"""

_ISSUE_HELP: Final = """Make a key and a certificate for NODE, signed by the authority in DIR.

Writes NODE.crt, NODE.key and ca.crt to DIR, or to the folder of --out; --keys of the other commands takes such a
folder. To another host copy these three files and nothing else: ca.key stays at home.

\b
Examples:
  rapini ca issue keys manager                          for this machine alone
  rapini ca issue keys manager --host mgr.example --host 192.0.2.1
  rapini ca issue keys sensor-1 --role sensor --out for-sensor-1
"""


@click.group(help=_HELP)
def ca() -> None:
    """Make an authority, and certificates for nodes."""


@ca.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--cluster", default="rapini", show_default=True, metavar="NAME", help="Part of every node's identity.")
@click.option("--force", is_flag=True, help="Replace an authority that is there; its nodes then no longer fit.")
def init(directory: Path, cluster: str, force: bool) -> None:
    """Make a new authority in the folder DIR."""
    Authority.create(directory, cluster, force=force)
    print(f"made the authority of cluster {cluster}: {directory / 'ca.crt'} for every node, and")
    print(f"{directory / 'ca.key'}, which stays here: whoever has it can be any node")


@ca.command(help=_ISSUE_HELP)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("node")
@click.option("--role", metavar="ROLE", help="Such as sensor, manager or logger.")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="HOST",
    help=f"Name or address under which others dial it. May be repeated.  [default: {', '.join(_LOOPBACK)}]",
)
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), help="Where the files go.  [default: DIR]")
@click.option("--days", type=click.IntRange(min=1, max=36500), default=365, show_default=True, help="Validity.")
@click.option("--force", is_flag=True, help="Replace files that are there.")
def issue(
    directory: Path, node: str, role: str | None, hosts: tuple[str, ...], out: Path | None, days: int, force: bool
) -> None:
    """Make a key and a certificate for NODE."""
    authority = Authority.open(directory)
    files = authority.issue(node, role, hosts or _LOOPBACK, days, out, force=force)
    print(f"made {files.certificate_path} and {files.key_path}, which go with {files.trust_path}")


@ca.command()
@click.argument("file", type=click.Path(path_type=Path))
def show(file: Path) -> None:
    """Show whose certificate FILE is: identity, role, hosts, validity, fingerprint."""
    for certificate in _read(file):
        for label, value in _lines(certificate):
            print(printable(f"{label:<12} {value}"))


def _read(file: Path) -> list[CertificateInfo]:
    with file.open("rb") as stream:
        pem = stream.read(_MAX_FILE_BYTES)
    try:
        found = describe_certificates_untrusted(pem)
    except DecodeError as error:
        raise ConfigError(error.code, error.detail, where=str(file)) from None
    if not found:
        remedy = "name a .crt file; what is in a key is nobody's business"
        raise ConfigError("not_pem", "this file holds no PEM certificate", where=str(file), remedy=remedy)
    return found


def _lines(certificate: CertificateInfo) -> list[tuple[str, str]]:
    now = datetime.now(UTC)
    begins, ends = certificate.not_before, certificate.not_after
    state = " (expired)" if now > ends else " (not yet valid)" if now < begins else ""
    authority = [uri.removeprefix(_AUTHORITY) for uri in certificate.uris if uri.startswith(_AUTHORITY)]
    identity = [uri for uri in certificate.uris if uri.startswith(_IDENTITY)]
    who = [("authority", f"of cluster {cluster}") for cluster in authority]
    who += [("identity", uri) for uri in identity]
    who += [("role", uri.rpartition("/")[2]) for uri in certificate.uris if uri.startswith(_ROLE)]
    if certificate.hosts:
        who.append(("hosts", ", ".join(certificate.hosts)))
    return [
        *(who or [("identity", "none: not a certificate of Rapini")]),
        ("valid", f"{begins:%Y-%m-%d %H:%M} to {ends:%Y-%m-%d %H:%M} UTC{state}"),
        ("fingerprint", f"sha256 {certificate.fingerprint_sha256}"),
    ]
