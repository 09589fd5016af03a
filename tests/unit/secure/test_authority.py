"""The authority: what it writes, what it refuses, and whether OpenSSL's own program agrees with it."""

from __future__ import annotations

import os
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from rapini.errors import ConfigError
from rapini.secure.authority import Authority, IssuedFiles
from rapini.secure.certificates import BACKDATED
from rapini.testing.authority import ThrowawayAuthority
from tests.conftest import require_component
from tests.unit.secure.pairs import load, settle, started

NOW_UTC = datetime.now(UTC)
DAY = timedelta(days=1)


def _certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _code(call: object) -> str:
    assert callable(call)
    with pytest.raises(ConfigError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return caught.value.code


def test_two_nodes_of_an_authority_that_was_closed_and_opened_again(tmp_path: Path) -> None:
    Authority.create(tmp_path / "ca", "lab")
    authority = Authority.open(tmp_path / "ca")
    assert authority.cluster == "lab"
    manager = load(authority.issue("manager", "manager", ["manager.example", "192.0.2.1", "2001:db8::1"]))
    sensor = load(authority.issue("sensor-1", "sensor", out_dir=tmp_path / "sensor"))
    assert (manager.identity.cluster, manager.identity.role) == ("lab", "manager")
    for host in ("manager.example", "192.0.2.1", "2001:db8::1"):
        initiator, responder = sensor.initiator(check_host=host), manager.responder()
        settle(*started(initiator, responder))
        assert responder.is_established


def test_nobody_else_may_read_the_keys_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        authority = Authority.create(tmp_path / "ca", "lab")
        files = authority.issue("n", out_dir=tmp_path / "n")
    finally:
        os.umask(before)
    assert _mode(tmp_path / "ca") == 0o700
    assert _mode(tmp_path / "ca" / "ca.key") == 0o600
    assert _mode(files.key_path) == 0o600
    assert _mode(files.certificate_path) == 0o644
    assert sorted(path.name for path in (tmp_path / "n").iterdir()) == ["ca.crt", "n.crt", "n.key"]


def test_openssl_finds_nothing_wrong_in_its_strict_mode(tmp_path: Path) -> None:
    openssl = require_component("openssl")
    files = Authority.create(tmp_path, "lab").issue("n", "r", ["localhost"])
    host = ["-verify_hostname", "localhost", "-CAfile", str(files.trust_path)]
    for purpose in ("sslserver", "sslclient"):
        subprocess.run(
            [openssl, "verify", "-x509_strict", "-purpose", purpose, *host, files.certificate_path],
            check=True,
            capture_output=True,
        )


def test_validity_begins_a_little_early_and_never_outlives_the_authority(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, "lab", 30 * DAY, wall_now=NOW_UTC)
    begins = NOW_UTC.replace(microsecond=0)
    short = _certificate(authority.issue("short", validity_days=10, wall_now=NOW_UTC).certificate_path)
    assert begins - short.not_valid_before_utc == BACKDATED
    assert short.not_valid_after_utc - begins == 10 * DAY
    long = _certificate(authority.issue("long", wall_now=NOW_UTC).certificate_path)
    assert long.not_valid_after_utc - begins == 30 * DAY
    assert short.serial_number != long.serial_number
    assert _code(lambda: authority.issue("late", wall_now=NOW_UTC + 31 * DAY)) == "certificate_expired"
    assert _code(lambda: authority.issue("short2", validity_days=0)) == "bad_validity"


def test_nothing_is_overwritten_unless_forced(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, "lab")
    first = authority.issue("n")
    key = first.key_path.read_bytes()
    assert _code(lambda: Authority.create(tmp_path, "lab")) == "exists"
    assert _code(lambda: authority.issue("n")) == "exists"
    assert first.key_path.read_bytes() == key
    load(first)
    authority.issue("n", force=True)
    assert first.key_path.read_bytes() != key
    load(first)
    renewed = Authority.create(tmp_path, "lab", force=True)
    assert renewed.trust_pem != authority.trust_pem
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")], "no temporary files stay"


def test_half_a_pair_is_never_written(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, "lab")
    (tmp_path / "n.crt").symlink_to("nowhere")
    assert _code(lambda: authority.issue("n")) == "exists"
    assert not (tmp_path / "n.key").exists()


def test_another_authoritys_trust_anchor_is_not_replaced(tmp_path: Path) -> None:
    one, two = Authority.create(tmp_path / "1", "lab"), Authority.create(tmp_path / "2", "lab")
    one.issue("a", out_dir=tmp_path / "nodes")
    assert _code(lambda: two.issue("b", out_dir=tmp_path / "nodes")) == "exists"
    assert sorted(path.name for path in (tmp_path / "nodes").iterdir()) == ["a.crt", "a.key", "ca.crt"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca", "lab")
    (tmp_path / "file").write_text("")
    assert _code(lambda: authority.issue("n", out_dir=tmp_path / "file")) == "unwritable"
    assert _code(lambda: authority.issue("n", out_dir=tmp_path / "file", force=True)) == "unwritable"
    # The second file fails where the first did not: the first goes again.
    (tmp_path / "half" / "n.crt").mkdir(parents=True)
    assert _code(lambda: authority.issue("n", out_dir=tmp_path / "half")) == "exists"
    assert not (tmp_path / "half" / "n.key").exists()


def test_a_file_that_appears_in_between_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two `issue` at once: the one that comes second at the name fails, and takes back what it had written."""
    authority = Authority.create(tmp_path, "lab")
    link = Path.hardlink_to

    def racing(path: Path, target: Path) -> None:
        if path.suffix == ".crt":
            path.write_text("the other one")
        link(path, target)

    monkeypatch.setattr(Path, "hardlink_to", racing)
    assert _code(lambda: authority.issue("n")) == "exists"
    assert (tmp_path / "n.crt").read_text() == "the other one"
    assert not (tmp_path / "n.key").exists()


@pytest.mark.parametrize("node", ["", "a/b", "../up", "-n", "ca", "CA"])
def test_names_that_would_be_other_files(tmp_path: Path, node: str) -> None:
    authority = Authority.create(tmp_path, "lab")
    assert _code(lambda: authority.issue(node)) == "bad_name"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ca.crt", "ca.key"]


@pytest.mark.parametrize("host", ["", "a b", "host:9750", "a..b", "http://x", "x" * 64 + ".example"])
def test_hosts_that_are_none(tmp_path: Path, host: str) -> None:
    authority = Authority.create(tmp_path, "lab")
    assert _code(lambda: authority.issue("n", hosts=[host])) == "bad_host"


def test_bad_cluster_and_role_names(tmp_path: Path) -> None:
    assert _code(lambda: Authority.create(tmp_path / "x", "a b")) == "bad_name"
    assert not (tmp_path / "x").exists()
    authority = Authority.create(tmp_path, "lab")
    assert _code(lambda: authority.issue("n", role="a/b")) == "bad_name"


def test_opening_what_is_no_authority(tmp_path: Path) -> None:
    assert _code(lambda: Authority.open(tmp_path)) == "file_not_found"

    def place(files: IssuedFiles, folder: Path) -> Path:
        folder.mkdir()
        files.certificate_path.rename(folder / "ca.crt")
        files.key_path.rename(folder / "ca.key")
        return folder

    throwaway = ThrowawayAuthority(tmp_path / "throwaway")
    assert _code(lambda: Authority.open(place(throwaway.issue("n"), tmp_path / "leaf"))) == "not_an_authority"
    bare = throwaway.issue("n", uris=[], hosts=())
    assert _code(lambda: Authority.open(place(bare, tmp_path / "bare"))) == "not_an_authority"

    odd = throwaway.issue("n", uris=["rapini-authority://a/b"])
    assert _code(lambda: Authority.open(place(odd, tmp_path / "odd"))) == "not_an_authority"

    Authority.create(tmp_path / "1", "lab")
    Authority.create(tmp_path / "2", "lab")
    (tmp_path / "1" / "ca.key").replace(tmp_path / "2" / "ca.key")
    assert _code(lambda: Authority.open(tmp_path / "2")) == "key_mismatch"
    (tmp_path / "2" / "ca.key").chmod(0o640)
    assert _code(lambda: Authority.open(tmp_path / "2")) == "key_permissions"
