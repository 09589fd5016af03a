"""`rapini publish` and `rapini tail` against each other: real processes, TLS on loopback, honest statuses."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from rapini import Node
from tests.integration.cli.harness import COMMAND, Running, background, make_keys, rapini

CONNECTION = {
    "ts": 1700000000.5,
    "uid": "C1",
    "orig_h": "192.0.2.1",
    "orig_p": 40000,
    "resp_h": "2001:db8::1",
    "resp_p": 443,
    "proto": "tcp",
    "service": None,
    "duration": 1.5,
    "orig_bytes": 1,
    "resp_bytes": 2,
    "conn_state": "SF",
    "local_orig": True,
    "local_resp": False,
    "missed_bytes": 0,
    "history": "ShAdDaFf",
    "orig_pkts": 1,
    "orig_ip_bytes": 2,
    "resp_pkts": 3,
    "resp_ip_bytes": 4,
    "tunnel_parents": None,
    "ip_proto": 6,
}
PLAIN = "tcp+plain://127.0.0.1:0"


@pytest.mark.parametrize("scheme", ["zmq+tls", "tcp+tls", "zmq+plain", "tcp+plain"])
def test_what_is_published_is_printed_and_acknowledged(scheme: str, tmp_path: Path) -> None:
    make_keys(tmp_path, "tail", "publish")
    keys = ["--keys", "keys"] if scheme.endswith("tls") else []
    with background("tail", *keys, "--listen", f"{scheme}://127.0.0.1:0", "--count", "3", "--json", cwd=tmp_path) as t:
        lines = '{"x": 1}\n\n[2, "\\u00e4"]\n"three"\n'
        done = rapini("publish", "-t", "test/x", *keys, "--connect", t.url, cwd=tmp_path, stdin=lines)
        assert (done.status, done.out) == (0, "")
        assert done.err == "rapini: published 3, acknowledged 3, dropped 0\n"
        tail = t.finish()
    assert tail.status == 0
    shown = [json.loads(line) for line in tail.out.splitlines()]
    assert [item["fields"]["data"] for item in shown] == [{"x": 1}, [2, "ä"], "three"]
    assert {(item["topic"], item["type"]) for item in shown} == {("test/x", "rapini.RawEvent")}
    assert all(item["origin"].startswith("publish") and abs(item["time"] - time.time()) < 60 for item in shown)
    assert all(line.startswith("-- ") for line in tail.err.splitlines())
    assert ": up\n" in tail.err


def test_typed_events_keep_their_types(tmp_path: Path) -> None:
    with background("tail", "conn/", "--listen", PLAIN, "--count", "2", "--json", cwd=tmp_path) as tail:
        options = ["--type", "rapini.Connection", "--connect", tail.url]
        assert rapini("publish", *options, json.dumps(CONNECTION), "--count", "2", cwd=tmp_path).status == 0
        done = tail.finish()
    for line in done.out.splitlines():
        shown = json.loads(line)
        assert shown["fields"] == CONNECTION
        assert (shown["topic"], shown["type"]) == ("conn/closed", "rapini.Connection")


def test_lines_for_people_are_one_a_event_and_safe(tmp_path: Path) -> None:
    with background("tail", "--listen", PLAIN, "--count", "1", cwd=tmp_path) as tail:
        rapini("publish", "-t", "t", '{"a": "\\u001b[2J\\n\\u202e"}', "--connect", tail.url, cwd=tmp_path)
        done = tail.finish()
    assert done.out.count("\n") == 1
    assert done.out.rstrip("\n").isprintable()
    assert " t rapini.RawEvent data=" in done.out


def test_bad_lines_are_named_and_the_good_ones_sent(tmp_path: Path) -> None:
    bad_field = {**CONNECTION, "orig_h": "nobody"}
    missing = {key: value for key, value in CONNECTION.items() if key != "uid"}
    lines = "\n".join([json.dumps(CONNECTION), "{", json.dumps(bad_field), json.dumps(missing), "[]", ""])
    with background("tail", "--listen", PLAIN, "--count", "1", cwd=tmp_path) as tail:
        options = ["--type", "rapini.Connection", "--connect", tail.url]
        done = rapini("publish", *options, cwd=tmp_path, stdin=lines)
        assert tail.finish().status == 0
    assert done.status == 2
    assert done.errors[0].startswith("rapini: error: line 2: not JSON")
    assert done.errors[1].startswith("rapini: error: line 3: $.orig_h: 'nobody' is not an address")
    assert done.errors[2:] == [
        "rapini: error: line 4: $.uid: is missing",
        "rapini: error: line 5: $: expected an object with the fields of Connection",
        "rapini: error: 4 lines could not be sent",
    ]
    assert "published 1, acknowledged 1, dropped 0" in done.err


def test_what_nobody_subscribed_to_is_not_a_success(tmp_path: Path) -> None:
    with background("tail", "other/", "--listen", PLAIN, cwd=tmp_path) as tail:
        done = rapini("publish", "-t", "test/x", "1", "--connect", tail.url, cwd=tmp_path)
    assert done.status == 1
    assert "published 1, acknowledged 0, dropped 1 (1 nobody_subscribed)" in done.err


def test_either_side_may_listen(tmp_path: Path) -> None:
    with background("publish", "-t", "t", "1", "--listen", PLAIN, cwd=tmp_path) as publisher:
        done = rapini("tail", "--connect", publisher.url, "--count", "1", cwd=tmp_path)
        assert done.status == 0
        assert "data=1" in done.out
        assert publisher.finish().status == 0


def test_the_configuration_file_serves_and_flags_override_it(tmp_path: Path) -> None:
    make_keys(tmp_path, "tail", "publish")
    with background("tail", "--listen", "zmq+tls://127.0.0.1:0", "--keys", "keys", "--count", "1", cwd=tmp_path) as t:
        (tmp_path / "rapini.toml").write_text('[node]\nkeys = "elsewhere"\nconnect = ["' + t.url + '"]\n')
        refused = rapini("publish", "-t", "t", "1", "--config", "rapini.toml", cwd=tmp_path)
        assert refused.status == 2
        assert "elsewhere/publish.crt" in refused.err
        sent = rapini("publish", "-t", "t", "1", "--config", "rapini.toml", "--keys", "keys", cwd=tmp_path)
        assert sent.status == 0
        assert t.finish().status == 0


def test_rate_is_kept(tmp_path: Path) -> None:
    with background("tail", "--listen", PLAIN, "--count", "5", cwd=tmp_path) as tail:
        url = tail.url
        start = time.monotonic()
        options = ["--count", "5", "--rate", "10", "--connect", url]
        assert rapini("publish", "-t", "t", "1", *options, cwd=tmp_path).status == 0
        assert time.monotonic() - start > 0.4


@pytest.mark.parametrize("command", [("publish", "-t", "t", "1"), ("tail", "--no-status")])
def test_nobody_there_is_status_4_in_one_line(command: tuple[str, ...], tmp_path: Path) -> None:
    done = rapini(*command, "--connect", "zmq+plain://127.0.0.1:1", "--timeout", "0.5", cwd=tmp_path)
    assert (done.status, done.out, done.err.count("\n")) == (4, "", 1)
    assert "not up within 0.5 s: nobody listens on 127.0.0.1:1 (refused)" in done.err


@pytest.mark.parametrize("command", [("publish", "-t", "t", "1"), ("tail", "--no-status")])
def test_nobody_coming_is_status_4(command: tuple[str, ...], tmp_path: Path) -> None:
    done = rapini(*command, "--listen", PLAIN, "--timeout", "0.5", cwd=tmp_path)
    assert done.status == 4
    assert done.errors == ["rapini: error: any peer not up within 0.5 s"]


@pytest.mark.parametrize("scheme", ["zmq+tls", "tcp+tls"])
@pytest.mark.parametrize("command", [("publish", "-t", "t", "1"), ("tail", "--no-status")])
def test_another_authoritys_node_is_status_3_and_a_clear_line_at_both(
    command: tuple[str, ...], scheme: str, tmp_path: Path
) -> None:
    make_keys(tmp_path, "tail")
    make_keys(tmp_path, command[0], folder="foreign")
    with background("tail", "--keys", "keys", "--listen", f"{scheme}://127.0.0.1:0", cwd=tmp_path) as listening:
        done = rapini(*command, "--keys", "foreign", "--connect", listening.url, cwd=tmp_path)
        assert (done.status, done.err.count("\n")) == (3, 1), done
        assert "unknown_ca" in done.err
        listening.await_err(r"rejected \(peer_refused_unknown_ca\)")


def test_plain_against_tls_is_status_3_and_never_a_fallback(tmp_path: Path) -> None:
    make_keys(tmp_path, "tail")
    with background("tail", "--keys", "keys", "--listen", "zmq+tls://127.0.0.1:0", cwd=tmp_path) as listening:
        url = listening.url.replace("tls", "plain")
        done = rapini("publish", "-t", "t", "1", "--connect", url, cwd=tmp_path)
        assert (done.status, done.err.count("\n")) == (3, 1), done
        listening.await_err(r"rejected \(")


def test_a_name_in_use_is_status_3(tmp_path: Path) -> None:
    with background("tail", "--listen", PLAIN, "--name", "hub", cwd=tmp_path) as listening:
        url = listening.url
        with Node("twin") as first:
            first.connect(url)
            done = rapini("publish", "-t", "t", "1", "--name", "twin", "--connect", url, cwd=tmp_path)
    assert (done.status, done.err.count("\n")) == (3, 1), done
    assert "(duplicate_name)" in done.err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_tail_with_a_goodbye(number: signal.Signals, status: int, tmp_path: Path) -> None:
    with background("tail", "--listen", PLAIN, "--name", "hub", cwd=tmp_path) as tail, Node("other") as peer:
        peer.connect(tail.url)
        tail.signal(number)
        assert tail.finish().status == status
        states = [item.state.value for item in peer.items(timeout_s=0.5) if hasattr(item, "state")]
    assert "left" in states
    assert "lost" not in states


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_publish_waiting_for_input_and_what_was_read_arrives(
    number: signal.Signals, status: int, tmp_path: Path
) -> None:
    with (
        background("tail", "--listen", PLAIN, "--count", "1", cwd=tmp_path) as tail,
        background("publish", "-t", "t", "--connect", tail.url, cwd=tmp_path) as publisher,
    ):
        assert publisher.process.stdin is not None
        publisher.process.stdin.write(b"1\n")
        publisher.process.stdin.flush()
        assert tail.finish().status == 0
        publisher.signal(number)
        done = publisher.finish()
    assert done.status == status
    assert "published 1, acknowledged 1, dropped 0" in done.err


def test_a_signal_ends_the_wait_for_a_peer(tmp_path: Path) -> None:
    options = ["--connect", "zmq+plain://127.0.0.1:1", "--listen", PLAIN, "--timeout", "60"]
    for command in (("publish", "-t", "t", "1"), ("tail",)):
        with background(*command, *options, cwd=tmp_path) as waiting:
            assert waiting.url
            waiting.signal(signal.SIGINT)
            assert waiting.finish().status == 130


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    """A reader that takes nothing keeps `publish` waiting for its acknowledgement; nobody has to."""
    with Node("idle") as idle:
        url = idle.listen(PLAIN)
        idle.subscribe("")
        options = ["--timeout", "60", "--connect", url]
        with background("publish", "-t", "t", "1", *options, cwd=tmp_path) as publisher:
            idle.wait_for(timeout_s=10)
            time.sleep(0.3)
            publisher.signal(signal.SIGINT)
            publisher.await_err("once more")
            publisher.signal(signal.SIGINT)
            assert publisher.process.wait(5) == 130


def test_a_reader_that_has_enough_ends_tail_quietly(tmp_path: Path) -> None:
    """`rapini tail | head -1`."""
    with background("tail", "--listen", PLAIN, cwd=tmp_path) as tail:
        url = tail.url
        assert tail.process.stdout is not None
        _publish(tail, url, tmp_path)
        tail.process.stdout.readline()
        tail.process.stdout.close()
        _publish(tail, url, tmp_path)
        assert tail.process.wait(10) == 0
        assert tail.process.stderr is not None
        rest = tail.process.stderr.read().decode()
    assert "error" not in rest
    assert "Traceback" not in rest


def _publish(tail: Running, url: str, cwd: Path) -> None:
    assert tail.process.poll() is None
    subprocess.run([*COMMAND, "publish", "-t", "t", "1", "--connect", url], cwd=cwd, timeout=30, check=False)
