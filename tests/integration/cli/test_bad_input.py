"""P7: whatever is wrong with flags, files and ports is one line that says what, where and what to do."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.conftest import missing_component
from tests.integration.cli.harness import Finished, make_keys, rapini

TAIL = ("tail", "--timeout", "1", "--listen")
ANY = "zmq+tls://127.0.0.1:0"


def assert_one_line(done: Finished, *parts: str) -> None:
    assert done.status == 2, done
    assert done.out == ""
    assert done.err.count("\n") == 1, done.err
    assert done.err.startswith("rapini: error: ")
    for part in parts:
        assert part in done.err


@pytest.mark.parametrize("option", ["--listen", "--connect"])
def test_unknown_scheme(option: str, tmp_path: Path) -> None:
    done = rapini("tail", option, "http://127.0.0.1:80", cwd=tmp_path)
    assert_one_line(done, "unknown scheme 'http'", "http://127.0.0.1:80", "known schemes are zmq+tls")


@pytest.mark.parametrize("url", ["zmq+tls://127.0.0.1", "zmq+tls://127.0.0.1:99999", "zmq+tls://a b:1", "nothing"])
def test_malformed_endpoint(url: str, tmp_path: Path) -> None:
    assert_one_line(rapini(*TAIL, url, cwd=tmp_path), url, "write it like zmq+tls://")


@pytest.mark.parametrize("transport", ["zmq", "tcp"])
def test_port_in_use(transport: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"{transport}+plain://127.0.0.1:{taken.getsockname()[1]}"
        assert_one_line(rapini(*TAIL, url, cwd=tmp_path), url, "something else listens there", "choose another port")


def test_address_of_another_machine(tmp_path: Path) -> None:
    done = rapini(*TAIL, "tcp+plain://192.0.2.1:0", "--insecure", cwd=tmp_path)
    assert_one_line(done, "192.0.2.1", "this machine has no such address", "listen on")


def test_plain_beyond_this_machine_is_refused(tmp_path: Path) -> None:
    assert_one_line(rapini(*TAIL, "zmq+plain://0.0.0.0:0", cwd=tmp_path), "clear text", "zmq+tls://")


def test_tls_without_keys(tmp_path: Path) -> None:
    assert_one_line(rapini(*TAIL, ANY, cwd=tmp_path), "needs a certificate", "rapini ca init")


def test_missing_key_folder(tmp_path: Path) -> None:
    assert_one_line(rapini(*TAIL, ANY, "--keys", "nowhere", cwd=tmp_path), "nowhere/tail.crt: no such file", "check")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_may_read_is_refused(mode: int, tmp_path: Path) -> None:
    make_keys(tmp_path, "tail")
    (tmp_path / "keys/tail.key").chmod(mode)
    done = rapini(*TAIL, ANY, "--keys", "keys", cwd=tmp_path)
    assert_one_line(done, "keys/tail.key: ", f"mode {mode:04o}", "chmod 600 keys/tail.key")


def test_a_key_that_we_may_not_read(tmp_path: Path) -> None:
    make_keys(tmp_path, "tail")
    (tmp_path / "keys/tail.key").chmod(0)
    if os.access(tmp_path / "keys/tail.key", os.R_OK):
        (tmp_path / "keys/tail.key").unlink()
        (tmp_path / "keys/tail.key").mkdir()  # root reads everything, but no folder as a file
    assert_one_line(rapini(*TAIL, ANY, "--keys", "keys", cwd=tmp_path), "keys/tail.key: ")


def test_a_key_of_another_certificate(tmp_path: Path) -> None:
    make_keys(tmp_path, "tail", "other")
    (tmp_path / "keys/other.key").replace(tmp_path / "keys/tail.key")
    done = rapini(*TAIL, ANY, "--keys", "keys", cwd=tmp_path)
    assert_one_line(done, "keys/tail.key: ", "not that of the certificate in keys/tail.crt")


def test_a_certificate_for_another_node(tmp_path: Path) -> None:
    make_keys(tmp_path, "other")
    (tmp_path / "keys/other.key").replace(tmp_path / "keys/tail.key")
    (tmp_path / "keys/other.crt").replace(tmp_path / "keys/tail.crt")
    done = rapini(*TAIL, ANY, "--keys", "keys", cwd=tmp_path)
    assert_one_line(done, "keys/tail.crt: ", "for node 'other'", "'tail'", "rapini ca issue")


def test_a_key_file_that_is_not_one(tmp_path: Path) -> None:
    make_keys(tmp_path, "tail")
    (tmp_path / "keys/tail.key").write_text("-----BEGIN NOTHING-----\n")
    assert_one_line(rapini(*TAIL, ANY, "--keys", "keys", cwd=tmp_path), "keys/tail.key: ", "no readable PEM")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('[node]\n\nlisten = ["zmq+tls://127.0.0.1:0\n', ("r.toml:3: not TOML: ", "options are written like")),
        ('[node]\n\nlissten = ["x"]\n', ("r.toml:3 [node] lissten: unknown option; known options are ", "listen, ")),
        ('[node]\nlisten = "x"\n', ("r.toml:2 [node] listen: expected `array`", "change the value of listen")),
        ("[other]\nx = 1\n[node]\nwindow_bytes = 3\n", ("r.toml:4 [node] window_bytes: ", "1024")),
        ("[node]\nheartbeat_timeout_s = 1.5\n", ("heartbeat_timeout_s (1.5) is less than two heartbeats", "raise")),
    ],
    ids=["syntax", "unknown option", "wrong type", "out of bounds", "does not fit"],
)
def test_bad_configuration(text: str, parts: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(text)
    done = rapini("tail", "--config", "r.toml", "--listen", "tcp+plain://127.0.0.1:0", cwd=tmp_path)
    assert_one_line(done, *parts)


def test_missing_configuration(tmp_path: Path) -> None:
    assert_one_line(rapini("tail", "--config", "r.toml", cwd=tmp_path), "r.toml: no such file", "give its path")


def test_configuration_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "r.toml").mkdir()
    assert_one_line(rapini("tail", "--config", "r.toml", cwd=tmp_path), "r.toml: cannot be read")


@pytest.mark.parametrize("name", ["a/b", "", "-x y", "ä"])
def test_bad_node_name(name: str, tmp_path: Path) -> None:
    done = rapini("tail", f"--name={name}", "--listen", "tcp+plain://127.0.0.1:0", cwd=tmp_path)
    assert_one_line(done, "cannot be the name of a node", "use 1 to 128 of")


def test_unknown_event_type(tmp_path: Path) -> None:
    done = rapini("publish", "--type", "rapini.Conn", "--connect", "zmq+plain://127.0.0.1:1", cwd=tmp_path)
    assert_one_line(done, "no event type is named rapini.Conn", "rapini.Connection")


def test_bad_topic(tmp_path: Path) -> None:
    done = rapini("publish", "-t", "a\nb", "1", "--connect", "zmq+plain://127.0.0.1:1", cwd=tmp_path)
    assert_one_line(done, "cannot be a topic", "printable text such as")


def test_an_existing_authority_is_not_overwritten(tmp_path: Path) -> None:
    make_keys(tmp_path, "tail")
    before = (tmp_path / "keys/ca.key").read_bytes()
    assert_one_line(rapini("ca", "init", "keys", cwd=tmp_path), "keys/ca.key: this file is there already", "--force")
    assert_one_line(rapini("ca", "issue", "keys", "tail", cwd=tmp_path), "keys/tail.key: this file is there", "--force")
    assert (tmp_path / "keys/ca.key").read_bytes() == before


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    if not Path("/proc").is_dir():
        missing_component("/proc, where nobody can make a folder")
    assert_one_line(rapini("ca", "init", "/proc/rapini", cwd=tmp_path), "/proc/rapini")


def test_no_authority_there(tmp_path: Path) -> None:
    assert_one_line(rapini("ca", "issue", "keys", "tail", cwd=tmp_path), "keys/ca.crt: no such file")


def test_bad_host_in_a_certificate(tmp_path: Path) -> None:
    make_keys(tmp_path)
    done = rapini("ca", "issue", "keys", "n", "--host", "a host", cwd=tmp_path)
    assert_one_line(done, "'a host' is neither a host name nor an IP address", "without a port")


def test_show_names_the_file_and_the_remedy(tmp_path: Path) -> None:
    make_keys(tmp_path, "tail")
    assert_one_line(rapini("ca", "show", "none.crt", cwd=tmp_path), "none.crt: No such file", "check the path")
    assert_one_line(rapini("ca", "show", "keys/tail.key", cwd=tmp_path), "keys/tail.key: ", "name a .crt file")
    assert_one_line(rapini("ca", "show", "keys", cwd=tmp_path), "keys: Is a directory")
