"""The outbox: whatever happens, every event ends in exactly one account."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from rapini.session.outbox import Batch, Outbox


def batch(count: int = 1, size: int = 10, topic: str = "t") -> Batch:
    return Batch(bytes(size), count, {topic: count})


def opened(window: int = 100, max_bytes: int = 1000) -> Outbox:
    outbox = Outbox(max_bytes)
    outbox.window_bytes = window
    return outbox


def dropped(outbox: Outbox) -> dict[str, int]:
    return {cause: topics.total() for cause, topics in outbox.dropped.items()}


def test_events_are_numbered_in_order_and_sent_within_the_credit() -> None:
    outbox = opened(window=25)
    for count in (1, 2, 3):
        assert outbox.put(batch(count))
    assert [(first, sent.count) for first, sent in outbox.sendable()] == [(0, 1), (1, 2)]
    assert (outbox.in_flight_bytes, outbox.kept_bytes, outbox.pending_events) == (20, 30, 6)
    assert outbox.acknowledge(1)
    assert [(first, sent.count) for first, sent in outbox.sendable()] == [(3, 3)]
    assert outbox.acknowledge(6)
    assert (outbox.acknowledged, outbox.is_idle, outbox.kept_bytes, dropped(outbox)) == (6, True, 0, {})


def test_a_batch_larger_than_the_credit_goes_alone() -> None:
    outbox = opened(window=5)
    outbox.put(batch())
    outbox.put(batch())
    assert len(list(outbox.sendable())) == 1
    assert list(outbox.sendable()) == []


def test_a_full_queue_drops_the_newest_and_takes_any_first_one() -> None:
    outbox = opened(max_bytes=100)
    assert outbox.put(batch(size=5000))
    assert not outbox.has_room()
    assert not outbox.put(batch(7, size=1, topic="late"))
    assert outbox.dropped == {"queue_full": Counter({"late": 7})}


def test_who_waited_for_room_may_exceed_the_bound_by_one_batch() -> None:
    outbox = opened(max_bytes=100)
    outbox.put(batch(size=99))
    assert not outbox.put(batch(size=50))
    assert outbox.put(batch(size=50), may_exceed=True)
    assert not outbox.put(batch(size=1), may_exceed=True)
    assert outbox.kept_bytes == 149


def test_an_acknowledgement_of_what_was_never_sent_is_refused_and_changes_nothing() -> None:
    outbox = opened()
    outbox.put(batch(3))
    assert not outbox.acknowledge(1)
    assert len(list(outbox.sendable())) == 1
    assert not outbox.acknowledge(4)
    assert not outbox.resumed(4)
    assert (outbox.acknowledged, outbox.pending_events, dropped(outbox)) == (0, 3, {})


def test_an_old_or_partial_acknowledgement_frees_nothing() -> None:
    outbox = opened()
    outbox.put(batch(3))
    outbox.put(batch(3))
    list(outbox.sendable())
    assert outbox.acknowledge(3)
    assert outbox.acknowledge(0)
    assert outbox.acknowledge(5)
    assert (outbox.acknowledged, outbox.pending_events) == (3, 3)


def test_a_lost_channel_drops_the_unsent_and_leaves_the_sent_in_doubt() -> None:
    outbox = opened(window=10)
    for topic in ("sent", "unsent"):
        outbox.put(batch(2, topic=topic))
    list(outbox.sendable())
    outbox.channel_lost()
    assert outbox.dropped == {"peer_lost": Counter({"unsent": 2})}
    assert outbox.pending_events == 2


@pytest.mark.parametrize(
    ("received", "acknowledged", "in_transit"), [(0, 0, 6), (2, 2, 4), (6, 6, 0)], ids=["none", "some", "all"]
)
def test_a_peer_that_is_back_settles_what_was_in_doubt(received: int, acknowledged: int, in_transit: int) -> None:
    outbox = opened()
    for _ in range(3):
        outbox.put(batch(2))
    list(outbox.sendable())
    outbox.channel_lost()
    assert outbox.resumed(received)
    assert outbox.acknowledged == acknowledged
    assert dropped(outbox).get("lost_in_transit", 0) == in_transit
    assert outbox.is_idle
    assert outbox.next_sequence == 6


def test_another_incarnation_starts_at_zero_and_the_account_goes_on() -> None:
    outbox = opened()
    for _ in range(2):
        outbox.put(batch(2))
        list(outbox.sendable())
    outbox.acknowledge(2)
    outbox.session_restarted()
    assert (outbox.next_sequence, outbox.acknowledged, dropped(outbox)) == (0, 2, {"unacknowledged": 2})
    assert outbox.acknowledge(0)
    assert not outbox.acknowledge(1)


@given(st.sampled_from(["peer_left", "closing"]))
def test_giving_up_counts_everything_under_the_one_cause(cause: str) -> None:
    outbox = opened(window=10)
    for _ in range(3):
        outbox.put(batch(2))
    list(outbox.sendable())
    outbox.give_up(cause)
    assert (dropped(outbox), outbox.is_idle, outbox.kept_bytes) == ({cause: 6}, True, 0)


class EveryEventIsAccountedFor(RuleBasedStateMachine):
    """All that can happen to an outbox, in any order."""

    @initialize(max_bytes=st.integers(1, 200), window=st.integers(0, 100))
    def begin(self, max_bytes: int, window: int) -> None:
        self.outbox = opened(window, max_bytes)
        self.put_events: Counter[str] = Counter()

    @rule(count=st.integers(1, 5), size=st.integers(1, 80), topic=st.sampled_from("abc"), may_exceed=st.booleans())
    def put(self, count: int, size: int, topic: str, may_exceed: bool) -> None:
        had_room, was_empty = self.outbox.has_room(), not self.outbox.kept_bytes
        taken = self.outbox.put(batch(count, size, topic), may_exceed=may_exceed)
        self.put_events[topic] += count
        assert taken or not was_empty
        assert not (taken and not had_room)
        if may_exceed:
            assert taken is had_room

    @rule(data=st.data())
    def send(self, data: st.DataObject) -> None:
        sequence = self.outbox.next_sequence
        take = data.draw(st.integers(0, 5))
        for _, (first, sent) in zip(range(take), self.outbox.sendable(), strict=False):
            assert first == sequence
            sequence += sent.count

    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        received = data.draw(st.integers(0, self.outbox.next_sequence + 2))
        assert self.outbox.acknowledge(received) is (received <= self.outbox.next_sequence)

    @rule()
    def lose_channel(self) -> None:
        self.outbox.channel_lost()

    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        self.outbox.channel_lost()
        assert self.outbox.resumed(data.draw(st.integers(0, self.outbox.next_sequence)))
        assert self.outbox.in_flight_bytes == 0

    @rule()
    def restart(self) -> None:
        self.outbox.session_restarted()
        assert self.outbox.next_sequence == 0

    @rule()
    def give_up(self) -> None:
        self.outbox.give_up("closing")

    @invariant()
    def each_event_is_in_one_account(self) -> None:
        outbox = self.outbox
        ended = outbox.acknowledged + sum(dropped(outbox).values())
        assert ended + outbox.pending_events == self.put_events.total()
        by_topic = Counter[str]()
        for topics in outbox.dropped.values():
            by_topic += topics
        assert by_topic <= self.put_events

    @invariant()
    def bytes_add_up(self) -> None:
        outbox = self.outbox
        assert outbox.is_idle is (outbox.kept_bytes == 0)
        assert 0 <= outbox.in_flight_bytes <= outbox.kept_bytes


TestEveryEventIsAccountedFor = EveryEventIsAccountedFor.TestCase
