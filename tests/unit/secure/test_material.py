"""Loading key material: each wrong file has its code, names itself and the remedy."""

from __future__ import annotations

import base64
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from rapini.errors import ConfigError
from rapini.secure.authority import Authority, IssuedFiles
from rapini.secure.contexts import Contexts, build_contexts
from rapini.secure.material import TlsMaterial
from rapini.testing.authority import ThrowawayAuthority
from tests.conftest import require_component
from tests.unit.secure.pairs import HOST, load, settle, started

NOW_UTC = datetime.now(UTC)
DAY = timedelta(days=1)


@pytest.fixture
def authority(tmp_path: Path) -> ThrowawayAuthority:
    return ThrowawayAuthority(tmp_path)


def _refused(files: IssuedFiles, *, wall_now: datetime | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        TlsMaterial.load(files.certificate_path, files.key_path, files.trust_path, wall_now=wall_now)
    error = caught.value
    assert error.detail
    assert "\n" not in str(error)
    assert str(error).startswith(error.where)
    return error


def test_good_files_say_who_we_are(authority: ThrowawayAuthority) -> None:
    material = load(authority.issue("sensor-1", role="sensor"))
    assert (material.identity.node, material.identity.role) == ("sensor-1", "sensor")
    assert len(material.trust_fingerprints) == 1
    assert len(material.trust_fingerprints[0]) == 64


@pytest.mark.parametrize("part", ["certificate_path", "key_path", "trust_path"])
def test_a_missing_unreadable_or_foreign_file_is_named(authority: ThrowawayAuthority, part: str) -> None:
    def make_garbage(path: Path) -> None:
        path.write_text("hello")

    def make_folder(path: Path) -> None:
        path.unlink()
        path.mkdir(mode=0o700)

    cases: list[tuple[str, Callable[[Path], object]]] = [
        ("file_not_found", Path.unlink),
        ("file_unreadable", make_folder),
        ("not_pem", make_garbage),
    ]
    for code, spoil in cases:
        files = authority.issue("n")
        path: Path = getattr(files, part)
        spoil(path)
        error = _refused(files)
        assert (error.code, error.where) == (code, str(path))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o610])
def test_a_key_that_others_may_access_is_refused(authority: ThrowawayAuthority, mode: int) -> None:
    files = authority.issue("n")
    files.key_path.chmod(mode)
    error = _refused(files)
    assert (error.code, error.where) == ("key_permissions", str(files.key_path))
    assert error.remedy == f"chmod 600 {files.key_path}"
    files.key_path.chmod(0o400)
    load(files)


def test_a_link_to_a_key_is_judged_by_the_key(authority: ThrowawayAuthority, tmp_path: Path) -> None:
    files = authority.issue("n")
    link = tmp_path / "link.key"
    link.symlink_to(files.key_path)
    linked = IssuedFiles(certificate_path=files.certificate_path, key_path=link, trust_path=files.trust_path)
    load(linked)
    files.key_path.chmod(0o644)
    assert _refused(linked).code == "key_permissions"


def test_the_key_of_another_certificate(authority: ThrowawayAuthority) -> None:
    files, others = authority.issue("n"), authority.issue("m")
    shutil.copy2(others.key_path, files.key_path)
    error = _refused(files)
    assert (error.code, error.where) == ("key_mismatch", str(files.key_path))
    assert str(files.certificate_path) in error.detail


def test_an_encrypted_key(authority: ThrowawayAuthority) -> None:
    openssl = require_component("openssl")
    files = authority.issue("n")
    locked = files.key_path.with_suffix(".locked")
    subprocess.run(
        [openssl, "pkey", "-in", files.key_path, "-aes256", "-passout", "pass:x", "-out", locked], check=True
    )
    locked.replace(files.key_path)
    files.key_path.chmod(0o600)
    assert _refused(files).code == "key_encrypted"


def test_a_certificate_out_of_its_time_names_the_date(authority: ThrowawayAuthority) -> None:
    ended = NOW_UTC - DAY
    error = _refused(authority.issue("n", not_before=NOW_UTC - 2 * DAY, not_after=ended))
    assert error.code == "certificate_expired"
    assert f"{ended:%Y-%m-%d}" in error.detail
    begins = NOW_UTC + DAY
    error = _refused(authority.issue("n", not_before=begins, not_after=begins + DAY))
    assert error.code == "certificate_not_yet_valid"
    assert f"{begins:%Y-%m-%d}" in error.detail
    assert _refused(authority.issue("n"), wall_now=NOW_UTC + 9 * DAY).code == "certificate_expired"


def test_a_certificate_without_identity(authority: ThrowawayAuthority) -> None:
    files = authority.issue("n", uris=[])
    error = _refused(files)
    assert (error.code, error.where) == ("no_identity", str(files.certificate_path))


def test_trust_in_what_is_no_authority(authority: ThrowawayAuthority) -> None:
    files = authority.issue("n")
    shutil.copy2(files.certificate_path, files.trust_path)
    error = _refused(files)
    assert (error.code, error.where) == ("not_an_authority", str(files.trust_path))


def test_trust_in_an_authority_that_has_ended(tmp_path: Path, authority: ThrowawayAuthority) -> None:
    old = ThrowawayAuthority(tmp_path / "old", not_before=NOW_UTC - 9 * DAY, not_after=NOW_UTC - DAY)
    files = authority.issue("n", trust=old)
    error = _refused(files)
    assert (error.code, error.where) == ("certificate_expired", str(files.trust_path))
    # While one authority replaces another, the file holds both.
    files.trust_path.write_bytes(old.trust_pem + authority.trust_pem)
    assert len(load(files).trust_fingerprints) == 2


def test_trust_in_both_authorities_admits_nodes_of_both(tmp_path: Path, authority: ThrowawayAuthority) -> None:
    new = ThrowawayAuthority(tmp_path / "new")
    before, after = authority.issue("before"), new.issue("after")
    for files in (before, after):
        files.trust_path.write_bytes(authority.trust_pem + new.trust_pem)
    initiator, responder = load(before).initiator(check_host=HOST), load(after).responder()
    settle(*started(initiator, responder))
    assert initiator.is_established
    assert responder.is_established


def test_a_key_that_openssl_finds_too_weak(authority: ThrowawayAuthority) -> None:
    files = authority.issue("n")
    _self_signed(files, rsa.generate_private_key(65537, 1024))  # noqa: S505 - weak is the point
    error = _refused(files)
    assert (error.code, error.where) == ("certificate_invalid", str(files.certificate_path))
    assert "EE_KEY_TOO_SMALL" in error.detail


def test_trust_in_a_certificate_that_does_not_say_what_it_is(authority: ThrowawayAuthority) -> None:
    files, bare = authority.issue("n"), authority.issue("bare")
    _self_signed(bare, ec.generate_private_key(ec.SECP256R1()))
    shutil.copy2(bare.certificate_path, files.trust_path)
    assert _refused(files).code == "not_an_authority"


def test_files_that_are_replaced_while_we_read(authority: ThrowawayAuthority, monkeypatch: pytest.MonkeyPatch) -> None:
    files = authority.issue("n")

    def replaced(certificate_path: Path, key_path: Path, trust_der: bytes, *, resume: bool) -> Contexts:
        certificate_path.unlink()
        return build_contexts(certificate_path, key_path, trust_der, resume=resume)

    monkeypatch.setattr("rapini.secure.material.build_contexts", replaced)
    assert _refused(files).code == "file_not_found"


@given(
    part=st.sampled_from(["certificate_path", "key_path", "trust_path"]),
    place=st.integers(0, 10_000),
    bit=st.integers(0, 7),
)
def test_an_altered_file_loads_or_is_a_config_error_and_nothing_else(part: str, place: int, bit: int) -> None:
    """One bit of what the PEM armour holds; the authority opens the same files."""
    with tempfile.TemporaryDirectory() as folder:
        Authority.create(folder, "lab")
        files = Authority.open(folder).issue("n")
        path: Path = getattr(files, part)
        label, der = _unarmoured(path)
        der[place % len(der)] ^= 1 << bit
        path.write_text(f"-----BEGIN {label}-----\n{base64.encodebytes(der).decode()}-----END {label}-----\n")
        calls: list[Callable[[], object]] = [lambda: load(files), lambda: Authority.open(folder)]
        for call in calls:
            try:
                call()
            except ConfigError as error:
                assert error.where, error  # noqa: PT017 - it may also load


def test_an_authority_with_another_kind_of_key(authority: ThrowawayAuthority, tmp_path: Path) -> None:
    files = authority.issue("n")
    _self_signed(files, rsa.generate_private_key(65537, 2048), uri="rapini-authority://lab")
    (tmp_path / "ca").mkdir()
    files.certificate_path.rename(tmp_path / "ca" / "ca.crt")
    files.key_path.rename(tmp_path / "ca" / "ca.key")
    with pytest.raises(ConfigError) as caught:
        Authority.open(tmp_path / "ca")
    assert caught.value.code == "not_an_authority"


@pytest.mark.parametrize(
    ("right", "wrong", "code"),
    [
        ("a003020102", "a003020103", "not_pem"),  # version 4 of X.509
        ("06072a8648ce3d0201", "06072a8648ce3d020f", "certificate_invalid"),  # a kind of key that nobody knows
    ],
)
def test_a_certificate_of_a_kind_that_nobody_knows(
    authority: ThrowawayAuthority, right: str, wrong: str, code: str
) -> None:
    """Both were found by the test above; `cryptography` raises neither as a ValueError."""
    files = authority.issue("n")
    label, der = _unarmoured(files.certificate_path)
    assert bytes.fromhex(right) in der
    body = base64.encodebytes(der.replace(bytes.fromhex(right), bytes.fromhex(wrong), 1)).decode()
    files.certificate_path.write_text(f"-----BEGIN {label}-----\n{body}-----END {label}-----\n")
    error = _refused(files)
    assert (error.code, error.where) == (code, str(files.certificate_path))


def _unarmoured(path: Path) -> tuple[str, bytearray]:
    first, *body, _ = path.read_text().splitlines()
    return first.strip("-").removeprefix("BEGIN "), bytearray(base64.b64decode("".join(body)))


def _self_signed(
    files: IssuedFiles, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, uri: str = "rapini://test/n"
) -> None:
    """Put a certificate with an identity, but without BasicConstraints, in place of the issued one."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "n")])
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).add_extension(names, critical=False)
    builder = builder.not_valid_before(NOW_UTC - DAY).not_valid_after(NOW_UTC + DAY)
    certificate = builder.sign(key, hashes.SHA256())
    files.certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files.key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


@pytest.mark.parametrize("resume", [True, False])
def test_contexts_accept_nothing_older_than_tls_1_3(authority: ThrowawayAuthority, resume: bool) -> None:
    files = authority.issue("n")
    contexts = TlsMaterial.load(files.certificate_path, files.key_path, files.trust_path, resume=resume).contexts
    for context in (contexts.initiator, contexts.initiator_any_host, contexts.responder):
        assert context.minimum_version.name == "TLSv1_3"
        assert context.verify_mode.name == "CERT_REQUIRED"
        assert context.keylog_filename is None
        assert context.options & ssl.OP_NO_COMPRESSION
    assert contexts.responder.num_tickets == int(resume)
    assert bool(contexts.responder.options & ssl.OP_NO_TICKET) is not resume
    assert contexts.initiator.check_hostname
    assert not contexts.initiator_any_host.check_hostname


def test_an_encrypted_key_never_makes_openssl_ask_on_the_terminal(authority: ThrowawayAuthority) -> None:
    openssl = require_component("openssl")
    files = authority.issue("n")
    locked = files.key_path.with_suffix(".locked")
    subprocess.run(
        [openssl, "pkey", "-in", files.key_path, "-aes256", "-passout", "pass:x", "-out", locked], check=True
    )
    anchor = x509.load_pem_x509_certificate(authority.trust_pem).public_bytes(serialization.Encoding.DER)
    with pytest.raises(OSError):
        build_contexts(files.certificate_path, locked, anchor)
