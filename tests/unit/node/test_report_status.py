"""The picture of a node: bounded, quick, complete in its totals; and readable by an older or newer reader."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator

import msgspec
import pytest

from rapini import Node, NodeStatus, SessionStatus
from rapini.errors import LocalError
from rapini.events.delivery import Delivery
from rapini.node import report_status
from rapini.node.report_status import StatusSource
from rapini.node.sessions import Session
from rapini.session.messages import Epoch, Incarnation
from rapini.session.outbox import Batch, Outbox
from rapini.session.outcomes import GapReceived


@pytest.fixture
def node() -> Iterator[Node]:
    with Node("n", role="manager") as node:
        yield node


def source_of(node: Node) -> StatusSource:
    return StatusSource(node._core, name=node.name, cluster=node.cluster, role="manager")


def away(name: str) -> Session:
    """A peer that was lost with three events under way and two that it never got."""
    session = Session(name=name, outbox=Outbox(10_000), window_bytes=100, incarnation=Incarnation(b"\xab" * 16))
    session.epoch = Epoch(3)
    session.outbox.window_bytes = 1000
    session.outbox.put(Batch(b"x" * 30, 3, {"a": 1, "b": 2}), Delivery.BEST_EFFORT, 0.0)
    list(session.outbox.sendable())
    session.outbox.lose(Batch(b"", 2, {"a": 2}), Delivery.BEST_EFFORT, "peer_lost")
    session.held_bytes = 5
    return session


def test_a_lonely_node(node: Node) -> None:
    status = source_of(node).take()
    assert (status.name, status.cluster, status.role, status.state) == ("n", "rapini", "manager", "running")
    assert (status.sessions, status.dials, status.listening, status.gaps, status.stores) == ([], [], [], [], [])
    assert len(status.incarnation) == 8
    assert 0 <= status.uptime_s < 60
    assert abs(status.time - time.time()) < 60


def test_a_peer_that_is_away_keeps_its_account(node: Node) -> None:
    with node._lock:
        session = node._core.peers.sessions["p"] = away("p")
        session.changed_at = time.monotonic() - 7
    (told,) = source_of(node).take().sessions
    assert (told.name, told.status, told.epoch, told.incarnation) == ("p", "lost", 3, "abababab")
    assert (told.in_flight_bytes, told.queued_bytes, told.max_queue_bytes, told.held_bytes) == (30, 0, 10_000, 5)
    assert told.dropped == {"peer_lost": 2}
    assert 7 <= told.since_s < 60
    with node._lock:
        session.departed("peer_left", time.monotonic())
    (told,) = source_of(node).take().sessions
    assert (told.status, told.in_flight_bytes) == ("left", 0)
    assert told.dropped == {"peer_lost": 2, "peer_left": 3}


def test_flows_gaps_and_stores_are_told(node: Node) -> None:
    with node._lock:
        session = node._core.peers.sessions["p"] = away("p")
        told = GapReceived(delivery=Delivery.RELIABLE, first_sequence=4, count=3, reason="queue_full", topics={})
        node._core.peers.reports.gap(session, told)
    node.store("hosts", master=True).put("a", 1)
    node.store("copy")
    status = source_of(node).take()
    (flow,) = status.sessions[0].flows
    assert (flow["class"], flow["numbered"], flow["sent"], flow["in_flight_bytes"]) == ("best_effort", 5, 3, 30)
    (gap,) = status.gaps
    assert (gap["peer"], gap["class"], gap["first"], gap["last"]) == ("p", "reliable", 4, 6)
    hosts, copy = status.stores
    assert (hosts["name"], hosts["kind"], hosts["version"], hosts["entries"]) == ("hosts", "master", 1, 1)
    assert (copy["kind"], copy["master"]) == ("clone", None)
    assert isinstance(copy["stale_s"], float)


def test_what_is_listed_is_bounded_and_the_totals_cover_all(node: Node) -> None:
    many = report_status.MAX_SESSIONS + 500
    prefixes = tuple(f"topic/{number}" for number in range(100))
    with node._lock:
        for number in range(many):
            session = node._core.peers.sessions[f"p{number}"] = away(f"p{number}")
            session.prefixes = prefixes
        node._core.counters.received.update({f"p{number}": 1 for number in range(many)})
        node._core.counters.rejected.update(Counter(denied=3))
    began = time.monotonic()
    status = source_of(node).take()
    assert time.monotonic() - began < 1.0, "the node's lock is held meanwhile"
    assert (len(status.sessions), status.sessions_total) == (report_status.MAX_SESSIONS, many)
    assert len(status.sessions[0].subscriptions) == report_status.MAX_SUBSCRIPTIONS
    assert status.sessions[0].subscriptions_total == 100
    totals = status.totals
    assert (totals.received, totals.dropped, totals.in_flight_bytes) == (many, {"peer_lost": 2 * many}, 30 * many)
    assert (totals.held_bytes, totals.rejected) == (5 * many, {"denied": 3})


def test_a_lock_that_somebody_holds_is_not_waited_for_long(node: Node) -> None:
    caught: list[str] = []

    def take() -> None:
        try:
            source_of(node).take(lock_timeout_s=0.05)
        except LocalError as error:
            caught.append(error.code)

    with node._lock:
        thread = threading.Thread(target=take)
        thread.start()
        thread.join(10)
    assert caught == ["busy"]


def test_a_reader_ignores_what_it_does_not_know_and_needs_only_the_first_fields() -> None:
    first = {"name", "cluster", "role", "pid", "incarnation", "version", "state", "time", "uptime_s"}
    required = {field.name for field in msgspec.structs.fields(NodeStatus) if field.required}
    assert required == first, "a field that is added needs a default, or older nodes cannot be shown"
    required = {field.name for field in msgspec.structs.fields(SessionStatus) if field.required}
    assert required == {"name", "status", "since_s"}
    least = dict.fromkeys(first, "") | {"pid": 1, "time": 0.0, "uptime_s": 0.0}
    assert msgspec.convert({**least, "from_the_future": [1]}, NodeStatus).pid == 1
