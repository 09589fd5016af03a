"""`rapini ca`: what it writes, who may read it, and that what it shows is what `cryptography` reads."""

from __future__ import annotations

import hashlib
import ssl
import stat
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from hypothesis import given
from hypothesis import strategies as st

from rapini import Node, describe_certificates_untrusted
from rapini.errors import DecodeError
from rapini.testing.authority import ThrowawayAuthority
from tests.conftest import missing_component
from tests.integration.cli.harness import make_keys, rapini


def test_keys_and_folder_are_for_their_owner_alone(tmp_path: Path) -> None:
    make_keys(tmp_path, "sensor")
    for name in ("ca.key", "sensor.key"):
        assert stat.S_IMODE((tmp_path / "keys" / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


def test_issued_files_go_where_out_says_without_the_authoritys_key(tmp_path: Path) -> None:
    make_keys(tmp_path)
    done = rapini("ca", "issue", "keys", "sensor", "--out", "for-sensor", cwd=tmp_path)
    assert done.status == 0
    assert {path.name for path in (tmp_path / "for-sensor").iterdir()} == {"sensor.crt", "sensor.key", "ca.crt"}
    with Node("sensor", keys=str(tmp_path / "for-sensor")) as node:
        assert node.cluster == "rapini"


def test_force_replaces(tmp_path: Path) -> None:
    make_keys(tmp_path, "sensor")
    before = (tmp_path / "keys/sensor.crt").read_bytes()
    assert rapini("ca", "issue", "keys", "sensor", "--force", cwd=tmp_path).status == 0
    assert (tmp_path / "keys/sensor.crt").read_bytes() != before


def test_show_says_what_was_asked_for(tmp_path: Path) -> None:
    assert rapini("ca", "init", "keys", "--cluster", "campus", cwd=tmp_path).status == 0
    hosts = ["--host", "mgr.example", "--host", "192.0.2.1", "--host", "2001:db8::1"]
    options = ["--role", "manager", "--days", "30", *hosts]
    assert rapini("ca", "issue", "keys", "mgr", *options, cwd=tmp_path).status == 0
    done = rapini("ca", "show", "keys/mgr.crt", cwd=tmp_path)
    shown = dict(line.split(maxsplit=1) for line in done.out.splitlines())
    certificate = x509.load_pem_x509_certificate((tmp_path / "keys/mgr.crt").read_bytes())
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    assert shown == {
        "identity": "rapini://campus/mgr",
        "role": "manager",
        "hosts": "mgr.example, 192.0.2.1, 2001:db8::1",
        "valid": f"{begins:%Y-%m-%d %H:%M} to {ends:%Y-%m-%d %H:%M} UTC",
        "fingerprint": f"sha256 {certificate.fingerprint(hashes.SHA256()).hex()}",
    }
    assert (ends - begins).days == 30
    assert "authority    of cluster campus" in rapini("ca", "show", "keys/ca.crt", cwd=tmp_path).out


def test_default_hosts_are_this_machine(tmp_path: Path) -> None:
    make_keys(tmp_path, "n")
    assert "localhost, 127.0.0.1, ::1" in rapini("ca", "show", "keys/n.crt", cwd=tmp_path).out


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")  # about others' certificates
def test_show_reads_certificates_of_other_makers() -> None:
    """Whatever authorities this machine trusts: RSA, old times, other extensions."""
    bundle = ssl.get_default_verify_paths().cafile
    if bundle is None:
        missing_component("this machine has no bundle of authorities (Debian: ca-certificates)")
    pem = Path(bundle).read_bytes()
    ours, theirs = describe_certificates_untrusted(pem), x509.load_pem_x509_certificates(pem)
    assert len(ours) == len(theirs) > 10
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.fingerprint_sha256 == other.fingerprint(hashes.SHA256()).hex()
        assert (mine.not_before, mine.not_after) == (other.not_valid_before_utc, other.not_valid_after_utc)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    files = ThrowawayAuthority(tmp_path_factory.mktemp("authority")).issue("n", role="r")
    return ssl.PEM_cert_to_DER_cert(files.certificate_path.read_text())


@given(at=st.integers(0, 2000), value=st.integers(0, 255), cut=st.integers(0, 2000))
def test_a_damaged_certificate_is_read_or_refused(certificate: bytes, at: int, value: int, cut: int) -> None:
    damaged = bytearray(certificate)
    damaged[at % len(damaged)] = value
    for der in (bytes(damaged), bytes(damaged[: cut % len(damaged)])):
        with suppress(DecodeError):
            (info,) = describe_certificates_untrusted(ssl.DER_cert_to_PEM_cert(der).encode())
            assert info.fingerprint_sha256 == hashlib.sha256(der).hexdigest()
