"""What a relay does with what comes, run by run: whom it goes to, what is cut, how gaps are told on."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapini.codec import Codec, join_runs
from rapini.events import Event, RawEvent
from rapini.events.delivery import Delivery
from rapini.node.counters import Counters
from rapini.node.links import LinkRecord
from rapini.node.publisher import Publisher
from rapini.node.relay import Relay
from rapini.node.sessions import Session
from rapini.node.settings import NodeSettings
from rapini.session.outbox import Batch, Hole, Outbox
from rapini.session.outcomes import EventsReceived, GapReceived

STREAM = b"s" * 16


_RECORD = cast(LinkRecord, SimpleNamespace(link=SimpleNamespace(peer_strings=[])))
"""A link whose peer has told no table."""


class Bench:
    """A relay between sessions whose outboxes are looked into."""

    def __init__(self, prefix: str = "a/", hop_limit: int = 3, relays: Sequence[str] = ()) -> None:
        self.counters = Counters()
        self.lock = threading.RLock()
        self.sessions: dict[str, Session] = {}
        self.publisher = Publisher(
            settings=NodeSettings(),
            counters=self.counters,
            lock=self.lock,
            sessions=self.sessions,
            pump=lambda session, now: None,
            wake=lambda: None,
        )
        self.relay = Relay(
            name="me",
            prefixes=(prefix,),
            hop_limit=hop_limit,
            counters=self.counters,
            publisher=self.publisher,
            relays=relays,
        )

    def add(self, name: str, *prefixes: str) -> Session:
        session = Session(name=name, outbox=Outbox(1 << 20, reliable_overflow="drop_newest"), window_bytes=1 << 20)
        session.prefixes = prefixes
        self.sessions[name] = session
        with self.lock:
            self.publisher.reroute()
        return session

    def comes(self, session: Session, *batches: bytes, delivery: Delivery = Delivery.RELIABLE) -> None:
        for batch in batches:
            events = EventsReceived(delivery=delivery, first_sequence=0, count=1, batch=batch)
            self.relay.forward(_RECORD, session, events, 0.0)

    def sent(self, session: Session, delivery: Delivery = Delivery.RELIABLE) -> Iterator[tuple[str, int, int, int]]:
        """Origin, hops, first number and count of the runs that wait for a peer."""
        flow = session.outbox.flows[delivery]
        session.outbox.window_bytes = 1 << 30
        while flow.has_queued:
            _, item = flow.take()
            assert isinstance(item, Batch)
            for run in Codec().decode_batch_untrusted(item.data):
                yield run.origin, run.hops, run.first, len(run.events)


def batch(topic: str, first: int, count: int, origin: str = "", hops: int = 1, stream: bytes = STREAM) -> bytes:
    codec = Codec()
    events: list[Event] = [RawEvent(bytes([number % 256])) for number in range(first, first + count)]
    runs, _ = codec.encode_run(topic, events, first)
    if not origin:
        return join_runs(runs)
    split, _ = codec.split_batch_untrusted(join_runs(runs))
    return join_runs(
        [codec.forward_run(msgspec.structs.replace(r, origin=origin, stream=stream, hops=hops)) for r in split]
    )


def test_a_run_goes_to_those_who_asked_but_not_back() -> None:
    bench = Bench()
    source, origin, other, deaf = bench.add("r", "a/"), bench.add("o", "a/"), bench.add("x", ""), bench.add("d", "b/")
    bench.comes(source, batch("a/1", 0, 3, origin="o"))
    assert list(bench.sent(other)) == [("o", 2, 0, 3)]
    assert [list(bench.sent(session)) for session in (source, origin, deaf)] == [[], [], []]
    assert bench.counters.relayed == {"a/1": 3}


def test_a_direct_run_gets_its_senders_name_and_incarnation() -> None:
    bench = Bench()
    source, other = bench.add("o"), bench.add("x", "a/")
    source.incarnation = STREAM  # type: ignore[assignment]
    bench.comes(source, batch("a/1", 0, 3))
    assert list(bench.sent(other)) == [("o", 1, 0, 3)]
    bench.comes(bench.add("r"), batch("a/1", 0, 3, origin="o"))
    assert bench.counters.relay_cut == {"duplicate": 3}


def test_topics_that_are_not_relayed_stay_and_are_no_cut() -> None:
    bench = Bench()
    source, other = bench.add("o"), bench.add("x", "")
    source.incarnation = STREAM  # type: ignore[assignment]
    bench.comes(source, batch("b/1", 0, 3))
    assert list(bench.sent(other)) == []
    assert (bench.counters.relay_cut, bench.counters.relayed) == ({}, {})


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (batch("a/1", 0, 2, origin="me"), "own"),
        (batch("a/1", 0, 2, origin="o", hops=3), "hop_limit"),
        (b"\x91\x94\xacrapini.RawEvent"[:4], "bad_run"),
        (msgspec.msgpack.encode([["rapini.RawEvent", "a/1", 1, b"\x91\x90"]]), "bad_run"),
    ],
    ids=["own", "hop limit", "garbage", "unnumbered"],
)
def test_what_is_cut_is_counted(data: bytes, cause: str) -> None:
    bench = Bench()
    source, other = bench.add("r"), bench.add("x", "a/")
    bench.comes(source, data)
    assert list(bench.sent(other)) == []
    assert set(bench.counters.relay_cut) == {cause}


def test_what_the_hop_limit_cut_may_still_come_by_a_shorter_way() -> None:
    bench = Bench()
    source, other = bench.add("r"), bench.add("x", "a/")
    bench.comes(source, batch("a/1", 0, 2, origin="o", hops=3), batch("a/1", 0, 2, origin="o", hops=1))
    assert list(bench.sent(other)) == [("o", 2, 0, 2)]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 8), st.sampled_from(["l", "r"])), max_size=30))
def test_each_event_goes_on_once_however_ways_overlap(runs: list[tuple[int, int, str]]) -> None:
    bench = Bench()
    ways = {"l": bench.add("l"), "r": bench.add("r")}
    other = bench.add("x", "a/")
    for first, count, way in runs:
        bench.comes(ways[way], batch("a/1", first, count, origin="o"))
    numbers = [first + at for _, _, first, count in bench.sent(other) for at in range(count)]
    wanted = {number for first, count, _ in runs for number in range(first, first + count)}
    assert sorted(numbers) == sorted(wanted)
    assert bench.counters.relay_cut["duplicate"] + len(wanted) == sum(count for _, count, _ in runs)


def test_the_class_is_the_one_it_came_in() -> None:
    bench = Bench()
    source, other = bench.add("r"), bench.add("x", "a/")
    bench.comes(source, batch("a/1", 0, 1, origin="o"), delivery=Delivery.BEST_EFFORT)
    other.record = None
    assert bench.counters.relayed == {"a/1": 1}
    assert list(holes(other, Delivery.BEST_EFFORT)) == [("peer_lost", 1, {"a/1": 1})]  # it is away
    bench.comes(source, batch("a/1", 1, 1, origin="o"), delivery=Delivery.RELIABLE)
    assert list(bench.sent(other)) == [("o", 2, 1, 1)]


def holes(session: Session, delivery: Delivery) -> Iterator[tuple[str, int, dict[str, int]]]:
    flow = session.outbox.flows[delivery]
    while flow.has_queued:
        _, item = flow.take()
        assert isinstance(item, Hole)
        yield item.reason, item.count, item.topics
    flow.acknowledge(flow.sent_sequence)


def gap(reason: str, topics: dict[str, int], count: int = 0) -> GapReceived:
    return GapReceived(
        delivery=Delivery.RELIABLE,
        first_sequence=0,
        count=count or sum(topics.values()),
        reason=reason,
        topics=topics,
    )


def test_a_gap_is_told_to_those_whom_it_concerns() -> None:
    bench = Bench()
    source, both, one, deaf = bench.add("r", "a/"), bench.add("x", "a/"), bench.add("y", "a/1"), bench.add("d", "b/")
    bench.relay.forward_gap(source, gap("queue_full", {"a/1": 2, "a/2": 3, "b/": 4}), 0.0)
    assert list(holes(both, Delivery.RELIABLE)) == [("upstream_1", 5, {"a/1": 2, "a/2": 3})]
    assert list(holes(one, Delivery.RELIABLE)) == [("upstream_1", 2, {"a/1": 2})]
    assert list(holes(deaf, Delivery.RELIABLE)) == []
    assert list(holes(source, Delivery.RELIABLE)) == []


def test_a_gap_of_unknown_topics_is_told_to_all_whom_it_may_concern() -> None:
    bench = Bench()
    source, other, deaf = bench.add("r", "a/"), bench.add("x", "a/1"), bench.add("d", "b/")
    bench.relay.forward_gap(source, gap("unacknowledged", {}, 7), 0.0)
    assert list(holes(other, Delivery.RELIABLE)) == [("upstream_1", 7, {})]
    assert list(holes(deaf, Delivery.RELIABLE)) == []


def test_gaps_count_their_relays_and_end_at_the_limit() -> None:
    bench = Bench(hop_limit=3)
    source, other = bench.add("r"), bench.add("x", "a/")
    for told, told_on in (("upstream_1", "upstream_2"), ("upstream_2", "upstream_3"), ("upstream_x", "upstream_1")):
        bench.relay.forward_gap(source, gap(told, {"a/1": 1}), 0.0)
        assert [reason for reason, _, _ in holes(other, Delivery.RELIABLE)] == [told_on]
    bench.relay.forward_gap(source, gap("upstream_3", {"a/1": 4}), 0.0)
    assert list(holes(other, Delivery.RELIABLE)) == []
    assert bench.counters.relay_cut == {"hop_limit": 4}


def test_only_named_relays_may_bring_events_of_others() -> None:
    bench = Bench(relays=["good"])
    good, evil, other = bench.add("good"), bench.add("evil"), bench.add("x", "a/")
    evil.incarnation = b"e" * 16  # type: ignore[assignment]
    bench.comes(evil, batch("a/1", 0, 100, origin="o"), batch("a/1", 5, 1))
    bench.comes(good, batch("a/1", 0, 2, origin="o"))
    assert list(bench.sent(other)) == [("evil", 1, 5, 1), ("o", 2, 0, 2)]
    assert bench.counters.relay_cut == {"not_a_relay": 100}


def test_durable_events_are_counted_and_not_forwarded() -> None:
    bench = Bench()
    bench.add("x", "a/")
    bench.relay.skip_durable(join_runs(Codec().encode_run("a/1", [RawEvent(b"")] * 3)[0]), 3)
    bench.relay.skip_durable(join_runs(Codec().encode_run("b/1", [RawEvent(b"")] * 3)[0]), 3)
    bench.relay.skip_durable(b"\xc1", 2)
    assert bench.counters.relay_cut == {"durable": 3, "bad_run": 2}
