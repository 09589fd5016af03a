"""Sensor, logger and manager as processes of their own, told by flags and by a file, ended by signals."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from rapini import Authority, Event, Node, PeerState, PeerStatus
from rapini.apps.ledger import Ledger
from rapini.apps.programs.replay import Replay
from rapini.apps.programs.report import printable, status_text
from rapini.apps.programs.stopping import Stop
from rapini.apps.schema import Connection
from rapini.apps.sensor import Analyzer, AnalyzerConfig, open_capture
from rapini.data import demo_capture
from tests.integration.apps.helpers import CAPTURES, events_of, next_line, rapini, running, stop, tsv_rows

_ANY_PORT = "zmq+tls://127.0.0.1:0"
_CAPTURE = CAPTURES / "vlan.pcap"


class Stranger(Event, topic="conn/strange", name="tests.apps.Stranger"):
    """A type that no program of ours knows, under a topic that the logger wants."""

    number: int


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Keys of one cluster."""
    authority = Authority.create(tmp_path / "keys", "tests")
    for node in ("logger", "manager", "sensor", "other"):
        authority.issue(node, hosts=["127.0.0.1"])
    return tmp_path / "keys"


def test_a_file_starts_a_logger_and_a_manager_that_a_sensor_joins(keys: Path, tmp_path: Path) -> None:
    """The whole cluster once: events in the logs, goodbyes as `left`, SIGTERM is 0 and Ctrl-C 130."""
    config = tmp_path / "rapini.toml"
    node = f'[node]\nkeys = "{keys}"\nlisten = ["{_ANY_PORT}"]\n'
    config.write_text(f'{node}[logger]\nlog_dir = "{tmp_path / "logs"}"\n[manager]\ninterval_s = 0.3\n')
    with (
        running("logger", "--config", config, "--json") as logger,
        running("manager", "--config", config, "--json") as manager,
    ):
        ends = [next_line(process.stdout, "listening")["endpoint"] for process in (logger, manager)]
        arguments = ("--keys", keys, "--read", _CAPTURE, "--wait-for", "logger", "--wait-for", "manager")
        ended = rapini("sensor", *arguments, "--connect", ends[0], "--connect", ends[1])
        assert ended.status == 0, ended.stderr
        for process in (logger, manager):
            left = next_line(process.stdout, "status", peer="sensor", state="left")
            assert left["code"] == "goodbye"
        told = next_line(manager.stdout, "traffic")
        assert told["total"] == len(events_of(_CAPTURE))
        assert told["services"]
        assert stop(manager, signal.SIGINT).status == 130
        assert stop(logger, signal.SIGTERM).status == 0
    connections = [event for event in events_of(_CAPTURE) if isinstance(event, Connection)]
    assert len(tsv_rows(tmp_path / "logs" / "conn.log")) == len(connections)


def test_a_sensor_told_to_stop_delivers_what_it_published(keys: Path, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    with (
        Node("other", keys=str(keys)) as node,
        demo_capture() as capture,
    ):
        received: list[Event] = []
        node.subscribe("", callback=lambda event, _origin: received.append(event))
        url = node.listen(_ANY_PORT)
        arguments = ("--keys", keys, "--connect", url, "--read", capture, "--loop", "--rate", "4000")
        with running("sensor", *arguments, "--ledger", ledger, "--json") as sensor:
            next_line(sensor.stdout, "status", state="up", peer="other")
            time.sleep(1.0)
            ended = stop(sensor, signal.SIGTERM)
    summary = json.loads(ended.stdout.splitlines()[-1])
    assert ended.status == 0
    assert summary["kind"] == "summary"
    assert summary["published"] == len(received) > 0
    assert summary["packets"] < 4000 * 3  # the rate holds: it ran for little more than a second


def test_types_without_a_log_are_counted_and_told_once(keys: Path, tmp_path: Path) -> None:
    arguments = ("--keys", keys, "--listen", _ANY_PORT, "--log-dir", tmp_path / "logs", "--json")
    with running("logger", *arguments) as logger:
        endpoint = next_line(logger.stdout, "listening")["endpoint"]
        with Node("other", keys=str(keys)) as node:
            node.connect(endpoint)
            for number in range(100):
                node.publish(Stranger(number))
            node.publish(next(event for event in events_of(_CAPTURE) if isinstance(event, Connection)))
            assert node.flush()
        ended = stop(logger, signal.SIGTERM)
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [line["type"] for line in lines if line["kind"] == "unknown_type"] == ["tests.apps.Stranger"]
    counters = [line["counters"] for line in lines if line["kind"] == "counters"][-1]
    assert counters["logloss/unknown/type"] == 100
    assert counters["logged/conn"] == len(tsv_rows(tmp_path / "logs" / "conn.log")) == 1
    assert ended.status == 0


def test_a_sensor_whose_peers_refuse_it_says_so_in_one_line(keys: Path, tmp_path: Path) -> None:
    Authority.create(tmp_path / "foreign", "tests").issue("sensor")
    with Node("other", keys=str(keys)) as node:
        url = node.listen(_ANY_PORT)
        ended = rapini("sensor", "--keys", tmp_path / "foreign", "--connect", url, "--read", _CAPTURE)
    assert ended.status == 3
    assert "unknown_ca" in ended.stderr.splitlines()[-1]


def test_a_sensor_without_anybody_there_gives_up_in_time(keys: Path) -> None:
    began = time.monotonic()
    nobody = "zmq+tls://127.0.0.1:1"
    ended = rapini("sensor", "--keys", keys, "--connect", nobody, "--read", _CAPTURE, "--wait-timeout", "1")
    assert ended.status == 4
    assert nobody in ended.stderr
    assert time.monotonic() - began < 10


def test_bad_command_lines_are_one_line_and_status_2(keys: Path, tmp_path: Path) -> None:
    config = tmp_path / "bad.toml"
    config.write_text("[sensor]\nrate = -1\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "conn.log").write_text("precious")
    endpoint = ("--keys", keys, "--listen", _ANY_PORT)
    for arguments, complaint in (
        (("sensor", *endpoint), "nothing to read"),
        (("sensor", "--keys", keys, "--read", _CAPTURE), "no endpoint"),
        (("sensor", *endpoint, "--read", tmp_path / "nowhere.pcap"), "no such file"),
        (("sensor", *endpoint, "--read", _CAPTURE, "--rate", "1", "--speed", "1"), "exclude each other"),
        (("sensor", *endpoint, "--config", config), "bad.toml:2 [sensor] rate"),
        (("sensor", *endpoint, "--read", _CAPTURE, "--local-net", "10.0.0.0/99"), "10.0.0.0/99"),
        (("logger", *endpoint), "no folder for the logs"),
        (("logger", *endpoint, "--log-dir", tmp_path / "full"), "exists already"),
        (("manager", "--keys", keys), "no endpoint"),
    ):
        ended = rapini(*arguments)
        assert (ended.status, len(ended.stderr.splitlines())) == (2, 1), ended.stderr
        assert complaint in ended.stderr


def test_later_rounds_of_a_loop_go_on_in_time() -> None:
    class Watching(Analyzer):
        def packet(self, ts: float, link_type: int, frame: bytes, wire_bytes: int) -> None:
            times.append(ts)
            super().packet(ts, link_type, frame, wire_bytes)

    times: list[float] = []
    with open_capture(_CAPTURE) as capture:
        recorded = [packet[0] for packet in capture]
    with Stop() as stopping, Ledger() as ledger:
        analyzer = Watching(AnalyzerConfig(uid_seed=b"seed"))
        for _ in Replay([str(_CAPTURE)], analyzer, ledger, stopping, is_loop=True):
            if ledger.snapshot().get("rounds", 0) == 2:
                break
    span = recorded[-1] - recorded[0]
    assert times[: len(recorded)] == recorded
    second = times[len(recorded) : 2 * len(recorded)]
    assert second[0] == pytest.approx(recorded[-1] + 1.0)
    assert second[-1] - second[0] == pytest.approx(span)
    third = times[2 * len(recorded) :]
    assert third[0] == pytest.approx(second[-1] + 1.0)


@pytest.mark.parametrize(("option", "seconds"), [("rate", 1.0), ("speed", 1.0)])
def test_the_pace_is_what_was_asked_for(option: str, seconds: float) -> None:
    with open_capture(_CAPTURE) as capture:
        times = [packet[0] for packet in capture]
    pace = len(times) / seconds if option == "rate" else (times[-1] - times[0]) / seconds
    with Stop() as stopping, Ledger() as ledger:
        analyzer = Analyzer(AnalyzerConfig(uid_seed=b"seed"))
        replay = Replay(
            [str(_CAPTURE)],
            analyzer,
            ledger,
            stopping,
            rate=pace if option == "rate" else 0.0,
            speed=pace if option == "speed" else 0.0,
        )
        began = time.monotonic()
        for _ in replay:
            pass
        took = time.monotonic() - began
    assert replay.packets == len(times)
    assert seconds * 0.9 < took < seconds * 2


@pytest.mark.parametrize("command", ["sensor", "logger", "manager", "run", "demo"])
def test_help_shows_its_examples_line_by_line(command: str) -> None:
    text = rapini(command, "--help").stdout
    assert "\\b" not in text
    assert f"\n    rapini {command} " in text or "\n    0 everything happened as told" in text


def test_what_comes_from_outside_cannot_command_a_terminal() -> None:
    status = PeerStatus(state=PeerState.LEFT, peer="sensor", code="goodbye", detail="\x1b]0;owned\x07\n+ fake: up")
    assert printable(status_text(status)).endswith(r"sensor: left (goodbye): \x1b]0;owned\x07\n+ fake: up")
