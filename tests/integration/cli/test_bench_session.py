"""`rapini bench session`, small: real processes, every section, what it reports and how it judges; never how fast."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from rapini.bench.session import criteria
from tests.integration.cli.harness import rapini

SMALL = ["--rounds", "1", "--seconds", "0.4", "--reconnects", "5", "--entries", "500", "--peers", "6"]
SMALL += ["--idle-seconds", "0.5", "--json"]

DURABLE = {"rapini durable", "JetStream, fsync always", "JetStream, fsync by default"}
LINKS = {f"{scheme}, {how}" for scheme in ("zmq+tls", "tcp+tls") for how in ("TLS resumed", "full handshakes")}


def run(tmp_path: Path, sections: str) -> dict[str, Any]:
    """The report of these sections; its status and its promises must agree, and nothing may be left behind."""
    done = rapini("bench", "session", "--only", sections, *SMALL, cwd=tmp_path)
    assert done.status in (0, 1), done.err
    report: dict[str, Any] = json.loads(done.out)
    assert done.status == any(row["is_kept"] is False for row in report["criteria"])
    assert set(report) == {"machine", "rounds", "seconds", "criteria", *sections.split(",")}
    assert list(tmp_path.iterdir()) == []
    return report


def test_reliable_beside_best_effort(tmp_path: Path) -> None:
    report = run(tmp_path, "reliable")
    variants = report["reliable"]["variants"]
    assert set(variants) == {"best_effort", "reliable"}
    ratio = variants["reliable"]["events_per_s"] / variants["best_effort"]["events_per_s"]
    assert report["reliable"]["reliable_to_best_effort"]["median"] == pytest.approx(ratio)
    assert [row["name"] for row in report["criteria"]] == ["S1"]


def test_durable_beside_the_control(tmp_path: Path) -> None:
    report = run(tmp_path, "durable")
    durable = report["durable"]
    assert set(durable["variants"]) == DURABLE
    for row in durable["variants"].values():
        assert row["events_per_s"] > 0
        assert row["publisher_cpu_us_per_event"] > 0
    rates = {name: row["events_per_s"] for name, row in durable["variants"].items()}
    ours = rates["rapini durable"]
    assert durable["to_jetstream"]["always"]["median"] == pytest.approx(ours / rates["JetStream, fsync always"])
    assert durable["to_jetstream"]["default"]["median"] == pytest.approx(ours / rates["JetStream, fsync by default"])
    assert "fsync before every acknowledgement" in durable["variants"]["JetStream, fsync always"]["says"]
    assert set(durable["publish_durable_per_s"]) == {"1", "8", "64"}
    assert durable["disk"]["file_system"] != "unknown"
    assert durable["disk"]["fsyncs_per_s"] > 0
    assert [row["name"] for row in report["criteria"]] == ["S2", "S2", "S2"]


def test_reconnects(tmp_path: Path) -> None:
    report = run(tmp_path, "reconnect")
    variants = report["reconnect"]["variants"]
    assert set(variants) == LINKS
    for name, row in variants.items():
        assert 0 < row["both_up_ms"] <= row["both_up_max_ms"]
        assert row["both_up_ms"] >= max(row["dialler_up_ms"], row["listener_up_ms"]) * 0.999
        assert (row["handshakes_resumed"] > 0) == ("resumed" in name)
        assert set(row["growth"]) == {"listener", "dialler"}
    assert [row["name"] for row in report["criteria"]] == ["S3", "S3", "S3"]


def test_stores_and_idle_peers(tmp_path: Path) -> None:
    report = run(tmp_path, "clone,store,idle")
    missed = report["clone"]["missed"]
    assert {name: row["missed_changes"] for name, row in missed.items()} == {
        "first": 500,
        "nothing": 0,
        "a part": 50,
        "all": 500,
    }
    assert all(row["up_s"] > 0 and 0 < row["in_sync_s"] <= row["in_sync_s_max"] for row in missed.values())
    assert report["store"]["put_unique_per_s"] > 0
    assert report["store"]["cpu_us_per_call"] > 0
    for row in report["idle"]["variants"].values():
        assert row["cpu_percent_of_a_core"] > 0
        assert row["sockets"] > 6
    assert [row["name"] for row in report["criteria"]] == ["S4", "S4", "S5", "S6"]


def test_the_tables_for_people_name_what_was_measured(tmp_path: Path) -> None:
    arguments = [word for word in SMALL if word != "--json"]
    done = rapini("bench", "session", "--only", "store", *arguments, cwd=tmp_path)
    assert "put_unique" in done.out
    assert "S5" in done.out
    assert "store: round 1 of 1" in done.err


def test_an_unknown_section_and_a_spool_that_is_not_there_are_said(tmp_path: Path) -> None:
    for arguments in (("--only", "reliable,fast"), ("--spool", "nowhere")):
        done = rapini("bench", "session", *arguments, cwd=tmp_path)
        assert done.status == 2
        assert len(done.errors) == 1
        assert arguments[0] in done.errors[0]


# -- how it judges -----------------------------------------------------------------------------------------------------

GROWTH = {"rss_kb": 500.0, "sockets": 0, "descriptors": 1, "threads": 0}
GOOD: dict[str, Any] = {
    "reliable": {"reliable_to_best_effort": {"median": 0.85}},
    "durable": {
        "variants": {"rapini durable": {"events_per_s": 100_000}},
        "to_jetstream": {"always": {"median": 3.0}, "default": {"median": 0.5}},
    },
    "reconnect": {
        "reconnects": 1000,
        "variants": {
            "default": {"both_up_ms": 15.0, "growth": {"listener": GROWTH, "dialler": GROWTH}},
            "another": {"both_up_ms": 99.0, "growth": {"listener": GROWTH, "dialler": GROWTH}},
        },
    },
    "clone": {"entries": 100_000, "missed": {"first": {"in_sync_s": 9.0}, "all": {"in_sync_s": 1.0}}},
    "store": {"put_unique_per_s": 200_000},
    "idle": {"peers": 200, "variants": {"zmq+tls": {"cpu_percent_of_a_core": 5.0}}},
}


def verdicts(result: dict[str, Any]) -> list[tuple[str, bool | None]]:
    return [(row["name"], row["is_kept"]) for row in criteria(result)]


def test_what_is_just_as_promised_is_kept_and_what_is_reported_is_not_judged() -> None:
    assert verdicts(GOOD) == [
        ("S1", True),
        ("S2", True),
        ("S2", True),
        ("S2", None),
        ("S3", True),
        ("S3", True),
        ("S3", True),
        ("S4", True),
        ("S4", None),
        ("S5", True),
        ("S6", True),
    ]


@pytest.mark.parametrize(
    ("place", "worse", "row"),
    [
        (("reliable", "reliable_to_best_effort", "median"), 0.849, 0),
        (("durable", "variants", "rapini durable", "events_per_s"), 99_999, 1),
        (("durable", "to_jetstream", "always", "median"), 2.99, 2),
        (("reconnect", "variants", "default", "both_up_ms"), 15.1, 4),
        (("reconnect", "variants", "another", "growth", "dialler", "rss_kb"), 2001.0, 5),
        (("reconnect", "variants", "another", "growth", "listener", "sockets"), 1, 6),
        (("reconnect", "variants", "default", "growth", "dialler", "threads"), 1, 6),
        (("clone", "missed", "all", "in_sync_s"), 1.01, 7),
        (("store", "put_unique_per_s"), 199_999, 9),
        (("idle", "variants", "zmq+tls", "cpu_percent_of_a_core"), 5.1, 10),
    ],
)
def test_what_is_a_little_worse_is_not_kept(place: tuple[str, ...], worse: float, row: int) -> None:
    result = copy.deepcopy(GOOD)
    part: Any = result
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = worse
    assert [number for number, (_, is_kept) in enumerate(verdicts(result)) if is_kept is False] == [row]


def test_without_jetstream_its_ratio_is_not_judged() -> None:
    result = {"durable": {**GOOD["durable"], "to_jetstream": {"always": None, "default": None}}}
    assert verdicts(result) == [("S2", True), ("S2", None), ("S2", None)]


def test_without_jetstream_the_rest_is_measured(tmp_path: Path) -> None:
    """A Python that has not got nats-py: the row says so, and the status does not depend on it."""
    (tmp_path / "hidden" / "nats").mkdir(parents=True)
    (tmp_path / "hidden" / "nats" / "__init__.py").write_text("raise ModuleNotFoundError('nats')\n")
    (tmp_path / "work").mkdir()
    program = "import sys; sys.path.insert(0, sys.argv.pop(1)); from rapini.cli import main; sys.exit(main())"

    command = (sys.executable, "-c", program, str(tmp_path / "hidden"))
    done = rapini("bench", "session", "--only", "durable", *SMALL, cwd=tmp_path / "work", command=command)
    report = json.loads(done.out)
    for name in DURABLE - {"rapini durable"}:
        assert report["durable"]["variants"][name]["events_per_s"] is None
        assert "nats-py is not installed" in report["durable"]["variants"][name]["says"]
    assert report["durable"]["variants"]["rapini durable"]["events_per_s"] > 0
    assert [row["is_kept"] for row in report["criteria"][1:]] == [None, None]
