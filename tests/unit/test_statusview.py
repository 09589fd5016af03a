"""The text of `rapini status`: eighty columns, figures that fit, nothing of a peer's that a terminal would obey."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from rapini import DialStatus, NodeStatus, NodeTotals, SessionStatus
from rapini.cli.statusview import duration, node_lines, overview_lines, plain


def node(**fields: Any) -> NodeStatus:
    known: dict[str, Any] = {
        "name": "manager",
        "cluster": "rapini",
        "role": "manager",
        "pid": 4_194_304,
        "incarnation": "0123abcd",
        "version": "0.1.0",
        "state": "running",
        "time": 0.0,
        "uptime_s": 100.0,
    }
    return NodeStatus(**{**known, **fields})


BUSY = SessionStatus(
    name="sensor-in-a-building-with-a-long-name",
    status="restarted",
    since_s=999 * 86_400.0,
    epoch=12_345,
    received=123_456_789_012,
    sent=999_999,
    missed=12_345,
    acknowledged=999_000,
    queued_bytes=8 * 1024 * 1024,
    dropped={"queue_full": 1_000_000, "peer_lost": 12},
    mechanism="tls",
    is_verified=True,
    address="127.0.0.1:50000",
    subscriptions=["", "dns/"],
    subscriptions_total=5,
)


def text(status: NodeStatus, before: NodeStatus | None = None) -> list[str]:
    return [plain(line) for line in node_lines(status, 80, before)]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.9, "0s"),
        (59.9, "59s"),
        (60, "1m00s"),
        (3599, "59m59s"),
        (3600, "1h00m"),
        (86_399, "23h59m"),
        (90_000, "1d01h"),
        (1e7, "115d"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_rows_of_a_table_are_aligned_and_fit_eighty_columns() -> None:
    small = SessionStatus(name="a", status="up", since_s=1.0, epoch=1)
    lines = text(node(sessions=[BUSY, small], sessions_total=2))
    at = next(number for number, line in enumerate(lines) if line.startswith("peer "))
    rows = [line for line in lines[at:] if not line.startswith("  ")]
    assert len(rows) == 3
    assert {len(row) for row in rows} == {80}
    figures = "999d 12345     123G 999,999 12,345   1.00M  8.4 MB"
    assert rows[1] == f"sensor-in-a-buil… restarted   {figures}"


def test_details_are_said_below_their_peer() -> None:
    lines = text(node(sessions=[BUSY], sessions_total=30))
    assert "  tls, verified, 127.0.0.1:50000, incarnation" in "\n".join(lines)
    assert "  wants everything, dns/ and 3 more" in lines
    assert "  dropped 1,000,000 queue_full, 12 peer_lost" in lines
    assert lines[-1] == "and 29 more"


def test_no_peer_is_said() -> None:
    assert text(node())[-1] == "no peers yet"


def test_a_failing_dial_and_losses_are_told() -> None:
    dial = DialStatus(
        endpoint="tcp+tls://h:1", state="waiting", next_attempt_s=2.5, failure_code="refused", failure="no"
    )
    totals = NodeTotals(missed=3, dropped={"peer_lost": 2}, rejected={"denied": 1}, turned_away={"denied": 4})
    said = text(node(dials=[dial], dials_total=3, totals=totals, state="failed", failure="why"))
    assert "  dials       tcp+tls://h:1  waiting, again in 2.5 s (refused: no)" in said
    assert "              and 2 more" in said
    assert "  losses      3 missed, 2 peer_lost" in said
    assert "  refused     5 denied" in said
    assert "  state       failed why" in said


def test_rates_are_of_the_same_incarnation() -> None:
    before = node(totals=NodeTotals(published=1000))
    now = node(totals=NodeTotals(published=3000), uptime_s=102.0)
    assert any("3,000 published (1,000/s)" in line for line in text(now, before))
    other = msgspec.structs.replace(now, incarnation="ffffffff")
    assert not any("/s)" in line for line in text(other, before))


def test_rows_whose_columns_are_not_settled_are_shown_as_they_are() -> None:
    gaps: list[dict[str, Any]] = [{"publisher": "s", "events": 7}, {"publisher": "t", "reason": "spool_full"}]
    assert text(node(gaps=gaps))[-4:] == [
        "  gaps",
        "    publisher  events  reason",
        "    s          7",
        "    t                  spool_full",
    ]


def test_nothing_that_a_peer_said_reaches_the_terminal_unescaped() -> None:
    evil = "\x1b[2J\u202e\n"
    fields = {"name": evil, "status": "up", "since_s": 0.0, "role": evil, "address": evil, "subscriptions": [evil]}
    session = msgspec.convert({**fields, "subscriptions_total": 1, "dropped": {evil: 1}}, SessionStatus)
    totals = NodeTotals(rejected={evil: 1}, dropped={evil: 1}, turned_away={evil: 1})
    dial = DialStatus(endpoint=evil, state=evil, peer=evil, failure_code=evil, failure=evil)
    status = node(
        name=evil,
        cluster=evil,
        role=evil,
        state=evil,
        failure=evil,
        incarnation=evil,
        listening=[evil],
        dials=[dial],
        sessions=[
            msgspec.structs.replace(session, status=evil, mechanism=evil, incarnation=evil, flows=[{evil: evil}])
        ],
        totals=totals,
        gaps=[{evil: evil}],
    )
    for line in (*node_lines(status), *overview_lines([status, status])):
        assert plain(line).isprintable(), line


def test_several_nodes_are_a_line_each_within_eighty_columns() -> None:
    totals = NodeTotals(received=10**12, sent=10**9, missed=10**6, dropped={"queue_full": 10**7})
    lines = [plain(line) for line in overview_lines([node(name="x" * 100, totals=totals), node(state="closing")])]
    assert max(map(len, lines[:2])) <= 80
    assert lines[2].endswith("closing")
