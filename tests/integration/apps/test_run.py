"""`rapini run` with real processes: what the analyzer sees is what the logs hold, whatever happens on the way."""

from __future__ import annotations

import json
import resource
import signal
import struct
from collections import Counter
from pathlib import Path

import pytest

from rapini.apps.schema import Connection, DnsExchange
from rapini.data import demo_capture
from rapini.events import Event
from tests.conftest import require_component
from tests.integration.apps.helpers import (
    CAPTURES,
    are_gone,
    descendants,
    events_of,
    finish,
    rapini,
    running,
    stop,
    temporary,
    tsv_rows,
    wait_until,
)

Key = tuple[str, int, str, int, str]


def _key(event: Event) -> Key:
    assert isinstance(event, Connection | DnsExchange)
    return (str(event.orig_h), event.orig_p, str(event.resp_h), event.resp_p, event.proto)


def _row_key(row: dict[str, object]) -> Key:
    ports = [int(str(row[f"id.{end}_p"])) for end in ("orig", "resp")]
    return (str(row["id.orig_h"]), ports[0], str(row["id.resp_h"]), ports[1], str(row["proto"]))


def _keys(events: list[Event], kind: type[Event]) -> Counter[Key]:
    return Counter(_key(event) for event in events if isinstance(event, kind))


def _long_capture(path: Path, rounds: int) -> Path:
    """The shipped capture again and again, with times that go on: many megabytes of connections of their own."""
    with demo_capture() as shipped:
        data = shipped.read_bytes()
    records, position = [], 24
    while position < len(data):
        seconds, fraction, captured, length = struct.unpack_from("<4I", data, position)
        frame = data[position + 16 : position + 16 + captured]
        records.append((seconds, fraction, captured, length, frame))
        position += 16 + captured
    with path.open("wb") as file:
        file.write(data[:24])
        for number in range(rounds):
            shift = number * 400
            file.write(b"".join(struct.pack("<4I", s + shift, *rest) + frame for s, *rest, frame in records))
    return path


@pytest.mark.parametrize("log_format", ["tsv", "json"])
def test_every_event_of_the_shipped_capture_is_a_row(log_format: str, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    with demo_capture() as capture:
        ended = rapini("run", capture, "--log-dir", logs, "--log-format", log_format)
        events = events_of(capture)
    assert ended.status == 0, ended.stderr
    for name, kind in (("conn", Connection), ("dns", DnsExchange)):
        log = logs / f"{name}.log"
        if log_format == "tsv":
            rows = tsv_rows(log)
        else:
            rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        assert Counter(map(_row_key, rows)) == _keys(events, kind)
        assert len({row["uid"] for row in rows}) > 1
    assert "0 lost" in ended.stdout


def test_a_stranger_reads_the_logs(tmp_path: Path) -> None:
    require_component("python:zat", hint="make test installs it")
    from zat.zeek_log_reader import ZeekLogReader

    with demo_capture() as capture:
        assert rapini("run", capture, "--log-dir", tmp_path / "logs").status == 0
        events = events_of(capture)
    rows = list(ZeekLogReader(str(tmp_path / "logs" / "conn.log")).readrows())
    assert Counter(map(_row_key, rows)) == _keys(events, Connection)
    assert sum(row["orig_pkts"] for row in rows) == sum(e.orig_pkts for e in events if isinstance(e, Connection))


def test_several_captures_are_parts_of_one(tmp_path: Path) -> None:
    captures = [CAPTURES / "vlan.pcap", CAPTURES / "demo.pcapng"]
    ended = rapini("run", *captures, "--log-dir", tmp_path / "logs", "--json")
    report = json.loads(ended.stdout)
    assert (ended.status, report["lost"]) == (0, {})
    assert report["published"] == report["received"] == report["logged"] == len(events_of(*captures))
    assert Counter(map(_row_key, (tsv_rows(tmp_path / "logs" / "conn.log")))) == _keys(events_of(*captures), Connection)


def test_a_damaged_capture_is_logged_as_far_as_it_goes(tmp_path: Path) -> None:
    capture = CAPTURES / "truncated.pcap"
    ended = rapini("run", capture, "--log-dir", tmp_path / "logs")
    assert ended.status == 1
    assert f"{capture}: packet 250: " in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert Counter(map(_row_key, (tsv_rows(tmp_path / "logs" / "conn.log")))) == _keys(events_of(capture), Connection)


def test_what_cannot_be_used_is_refused_before_anything_starts(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    good, bad = CAPTURES / "vlan.pcap", tmp_path / "bad.pcap"
    bad.write_text("no capture")
    for arguments, complaint in (
        ((good, bad), f"{bad}: is neither a pcap nor a pcapng file"),
        ((good, tmp_path / "nowhere.pcap"), "no such file"),
        ((tmp_path,), "cannot be read"),
        ((), "missing argument"),
    ):
        ended = rapini("run", *arguments, "--log-dir", logs)
        assert ended.status == 2
        assert complaint in ended.stderr.lower() or complaint in ended.stderr
        assert len(ended.stderr.splitlines()) == 1
        assert not logs.exists()


def test_a_folder_with_something_in_it_is_refused_unless_forced(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "conn.log").write_text("precious")
    ended = rapini("run", CAPTURES / "vlan.pcap", "--log-dir", logs)
    assert ended.status == 2
    assert f"{logs}: this folder for the logs is not empty" in ended.stderr
    assert (logs / "conn.log").read_text() == "precious"
    assert rapini("run", CAPTURES / "vlan.pcap", "--log-dir", logs, "--force").status == 0
    assert tsv_rows(logs / "conn.log")


def test_ctrl_c_closes_the_logs_and_leaves_nobody(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    capture = _long_capture(tmp_path / "long.pcap", 300)
    with running("run", capture, "--log-dir", logs, "--json") as process:
        assert wait_until((logs / "conn.log").exists, 15)
        family = descendants(process.pid)
        assert len(family) == 2
        ended = stop(process, signal.SIGINT)
    assert ended.status == 130
    assert are_gone(family)
    report = json.loads(ended.stdout)
    rows = len(tsv_rows(logs / "conn.log")) + len(tsv_rows(logs / "dns.log"))
    assert report["published"] == report["logged"] == rows > 0
    assert 0 < report["packets"] < 300 * 3681
    assert not report["lost"]


def test_a_killed_parent_leaves_nobody(tmp_path: Path) -> None:
    capture = _long_capture(tmp_path / "long.pcap", 300)
    with running("run", capture, "--log-dir", tmp_path / "logs", env=temporary(tmp_path)) as process:
        assert wait_until((tmp_path / "logs" / "conn.log").exists, 15)
        family = descendants(process.pid)
        assert len(family) == 2
        process.kill()
        assert are_gone(family)


def test_a_log_that_fails_is_a_loss_that_is_counted(tmp_path: Path) -> None:
    """The disk takes 256 KiB of each file and no more (EFBIG, like a full disk)."""
    capture = _long_capture(tmp_path / "long.pcap", 10)
    limit = 256 * 1024

    def lower_limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    with running("run", capture, "--log-dir", tmp_path / "logs", "--json", preexec_fn=lower_limit) as process:
        ended = finish(process)
    report = json.loads(ended.stdout)
    assert ended.status == 1
    assert "conn.log is no longer written" in ended.stderr
    assert report["published"] == len(events_of(capture))
    assert report["published"] == report["logged"] + sum(report["lost"]["logger"].values())
    assert report["lost"].keys() == {"logger"}
    assert report["lost"]["logger"].keys() == {"log_failed"}
    rows = [line for line in (tmp_path / "logs" / "conn.log").read_text().splitlines() if line[0] != "#"]
    assert report["rows"]["conn"] == len(rows)


def test_a_killed_logger_ends_the_run_with_what_is_known(tmp_path: Path) -> None:
    capture = _long_capture(tmp_path / "long.pcap", 300)
    with running("run", capture, "--log-dir", tmp_path / "logs", "--json") as process:
        assert wait_until((tmp_path / "logs" / "conn.log").exists, 15)
        family = descendants(process.pid)
        logger = next(child for child in family if "logger" in child.cmdline())
        logger.kill()
        ended = finish(process)
    assert ended.status == 1
    assert "the logger ended" in ended.stderr
    assert are_gone(family)
    report = json.loads(ended.stdout)
    assert report["published"] == report["logged"] + report["lost"]["logger"]["process_killed"]


def test_a_killed_sensor_is_accounted_for_to_the_last_event(tmp_path: Path) -> None:
    """It dies at full speed, with events in its hands; the logger's count and its ledger tell how many those were."""
    capture = _long_capture(tmp_path / "long.pcap", 300)
    with running("run", capture, "--log-dir", tmp_path / "logs", "--json") as process:
        assert wait_until((tmp_path / "logs" / "conn.log").exists, 15)
        family = descendants(process.pid)
        next(child for child in family if "sensor" in child.cmdline()).kill()
        ended = finish(process)
    assert ended.status == 1
    assert "the sensor ended" in ended.stderr
    assert are_gone(family)
    report = json.loads(ended.stdout)
    rows = len(tsv_rows(tmp_path / "logs" / "conn.log")) + len(tsv_rows(tmp_path / "logs" / "dns.log"))
    assert report["logged"] == report["received"] == rows > 0
    assert report["lost"].get("sensor", {}).keys() <= {"process_killed"}
    assert report["published"] == rows + report["lost"].get("sensor", {}).get("process_killed", 0)
