"""One class's flow to one peer: whatever happens, every number is acknowledged or in exactly one hole."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from rapini import limits
from rapini.session.flow import Batch, Hole, Item, Overflow, SendFlow


def batch(count: int = 1, size: int = 10, topic: str = "t", priority: int = 0) -> Batch:
    return Batch(bytes(size), count, {topic: count}, priority)


def dropped(flow: SendFlow) -> dict[str, int]:
    return {cause: topics.total() for cause, topics in flow.dropped.items() if topics.total()}


def drain(flow: SendFlow) -> list[tuple[int, Item]]:
    """All that is to be sent, also the hole at the end that would wait for acknowledgements."""
    sent = []
    while flow._queued:
        sent.append(flow.take())
    return sent


def holes(sent: list[tuple[int, Item]]) -> list[tuple[int, int, str]]:
    return [(first, item.count, item.reason) for first, item in sent if isinstance(item, Hole)]


class MemorySpill:
    """Keeps what is spilled in a dictionary, up to a bound."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.kept: dict[int, bytes] = {}
        self.tokens = 0

    def has_room(self, size: int) -> bool:
        return sum(map(len, self.kept.values())) + size <= self.room

    def put(self, data: bytes) -> int:
        self.tokens += 1
        self.kept[self.tokens] = data
        return self.tokens

    def get(self, token: int) -> bytes:
        return self.kept[token]

    def discard(self, token: int) -> None:
        del self.kept[token]


def test_events_are_numbered_when_they_are_put_and_sent_in_order() -> None:
    flow = SendFlow(1000)
    for count in (1, 2, 3):
        assert flow.put(batch(count))
    assert (flow.next_sequence, flow.sent_sequence) == (6, 0)
    assert [(first, item.count) for first, item in drain(flow)] == [(0, 1), (1, 2), (3, 3)]
    assert (flow.sent_sequence, flow.sent_bytes, flow.pending_events) == (6, 30, 6)
    assert flow.acknowledge(3)
    assert (flow.acknowledged, flow.pending_events) == (3, 3)
    assert flow.acknowledge(6)
    assert (flow.acknowledged, flow.is_idle, flow.kept_bytes, dropped(flow)) == (6, True, 0, {})


def test_a_full_queue_drops_the_newest_which_leaves_a_hole_in_its_place() -> None:
    flow = SendFlow(100)
    assert flow.put(batch(2, size=5000))
    assert not flow.has_room()
    assert not flow.put(batch(7, size=1, topic="late"))
    assert not flow.put(batch(1, size=1, topic="later"))
    assert flow.dropped == {"queue_full": Counter({"late": 7, "later": 1})}
    assert holes(drain(flow)) == [(2, 8, "queue_full")]
    flow.acknowledge(10)
    assert flow.put(batch(1))
    assert drain(flow) == [(10, batch(1))]


def test_a_hole_at_the_end_grows_until_a_batch_follows_or_all_before_it_was_taken() -> None:
    flow = SendFlow(1000)
    flow.put(batch())
    flow.take()
    flow.lose(batch(2), "queue_full")
    assert not flow.has_queued
    flow.lose(batch(3), "queue_full")
    flow.acknowledge(1)
    assert flow.has_queued
    assert holes([flow.take()]) == [(1, 5, "queue_full")]
    flow.lose(batch(1), "queue_full")
    assert not flow.has_queued
    flow.put(batch())
    assert flow.has_queued


def test_holes_next_to_each_other_become_one_and_keep_their_topics() -> None:
    flow = SendFlow(10)
    for topic in "aab":
        flow.lose(batch(2, topic=topic), "queue_full")
    assert drain(flow) == [(0, Hole(6, {"a": 4, "b": 2}, "queue_full"))]
    assert flow.sent_bytes == limits.GAP_CREDIT_BYTES
    assert flow.acknowledge(6)
    assert (flow.acknowledged, flow.is_idle, flow.sent_bytes) == (0, True, 0)


def test_the_policy_may_drop_the_oldest_that_was_not_sent() -> None:
    flow = SendFlow(40, overflow="drop_oldest")
    flow.put(batch(topic="sent"))
    flow.take()
    for topic in "abcde":
        flow.put(batch(topic=topic))
    assert flow.dropped == {"queue_full": Counter({"a": 1, "b": 1})}
    sent = drain(flow)
    assert holes(sent) == [(1, 2, "queue_full")]
    assert [next(iter(item.topics)) for _, item in sent[1:]] == ["c", "d", "e"]


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
def test_the_lowest_priority_goes_first_whatever_the_policy(overflow: Overflow) -> None:
    flow = SendFlow(30, overflow=overflow)
    for topic, priority in (("high", 1), ("low", -1), ("middle", 0), ("high", 1), ("low", -1)):
        flow.put(batch(topic=topic, priority=priority))
    assert flow.dropped == {"shed": Counter({"low": 2})}
    flow.put(batch(topic="high", priority=1))
    assert flow.dropped == {"shed": Counter({"low": 2, "middle": 1})}


def test_what_spills_comes_back_in_order_and_is_bounded() -> None:
    spill = MemorySpill(30)
    flow = SendFlow(20, is_reliable=True, overflow="spill", spill=spill)
    for number in range(5):
        assert flow.put(Batch(bytes([number]) * 10, 1, {"t": 1}))
    assert (flow.kept_bytes, flow.spilled_bytes, flow.has_room()) == (20, 30, False)
    assert not flow.put(batch())
    sent = drain(flow)
    assert [item.data[0] for _, item in sent if isinstance(item, Batch)] == [0, 1, 2, 3, 4]
    assert (spill.kept, flow.spilled_bytes) == ({}, 0)
    assert holes(sent) == [(5, 1, "queue_full")]


def test_giving_up_frees_what_was_spilled() -> None:
    spill = MemorySpill(1000)
    flow = SendFlow(10, is_reliable=True, overflow="spill", spill=spill)
    for _ in range(5):
        flow.put(batch())
    flow.give_up("lease_expired")
    assert (spill.kept, flow.spilled_bytes, flow.kept_bytes) == ({}, 0, 0)


def test_what_is_too_old_is_dropped_unless_it_was_sent() -> None:
    flow = SendFlow(1000)
    for at in (1.0, 2.0, 3.0):
        flow.put(batch(topic=str(at)), at)
    flow.take()
    flow.expire(2.5)
    assert flow.dropped == {"expired": Counter({"2.0": 1})}
    assert holes(drain(flow)) == [(1, 1, "expired")]


def test_an_acknowledgement_of_what_was_never_sent_is_refused_and_changes_nothing() -> None:
    flow = SendFlow(1000)
    flow.put(batch(3))
    assert not flow.acknowledge(1)
    flow.take()
    assert not flow.acknowledge(4)
    assert not flow.resumed(4)
    assert (flow.acknowledged, flow.pending_events, dropped(flow)) == (0, 3, {})


def test_an_old_or_partial_acknowledgement_frees_nothing() -> None:
    flow = SendFlow(1000)
    flow.put(batch(3))
    flow.put(batch(3))
    drain(flow)
    assert flow.acknowledge(3)
    assert flow.acknowledge(0)
    assert flow.acknowledge(5)
    assert (flow.acknowledged, flow.pending_events) == (3, 3)


def test_best_effort_drops_the_unsent_with_the_channel_and_leaves_the_sent_in_doubt() -> None:
    flow = SendFlow(1000)
    flow.put(batch(2, topic="sent"))
    flow.take()
    flow.put(batch(2, topic="unsent"))
    flow.channel_lost()
    assert flow.dropped == {"peer_lost": Counter({"unsent": 2})}
    assert flow.pending_events == 2


@pytest.mark.parametrize(
    ("received", "acknowledged", "in_transit"), [(0, 0, 6), (2, 2, 4), (6, 6, 0)], ids=["none", "some", "all"]
)
def test_a_peer_that_is_back_settles_what_was_in_doubt(received: int, acknowledged: int, in_transit: int) -> None:
    flow = SendFlow(1000)
    for _ in range(3):
        flow.put(batch(2))
    drain(flow)
    flow.channel_lost()
    assert flow.resumed(received)
    assert flow.acknowledged == 0, "received is not taken: the peer may die with it"
    assert flow.acknowledge(received)
    assert flow.acknowledged == acknowledged
    assert dropped(flow).get("lost_in_transit", 0) == in_transit
    assert holes(drain(flow)) == ([(received, in_transit, "lost_in_transit")] if in_transit else [])
    assert flow.next_sequence == 6


@pytest.mark.parametrize("received", [0, 2, 4, 6])
def test_reliable_events_are_sent_again_from_where_the_peer_got_to(received: int) -> None:
    flow = SendFlow(1000, is_reliable=True)
    for _ in range(3):
        flow.put(batch(2))
    first_time = drain(flow)
    flow.put(batch(2, topic="unsent"))
    flow.channel_lost()
    assert flow.resumed(received)
    again = drain(flow)
    assert flow.acknowledge(received)
    assert again == [*first_time[received // 2 :], (6, batch(2, topic="unsent"))]
    assert (flow.acknowledged, dropped(flow)) == (received, {})


def test_a_batch_cannot_have_been_received_in_part() -> None:
    flow = SendFlow(1000, is_reliable=True)
    flow.put(batch(2))
    flow.take()
    flow.channel_lost()
    assert not flow.resumed(1)


def test_a_gap_that_was_lost_with_its_channel_is_told_again() -> None:
    for is_reliable in (False, True):
        flow = SendFlow(1000, is_reliable=is_reliable)
        flow.lose(batch(3), "queue_full")
        assert holes(drain(flow)) == [(0, 3, "queue_full")]
        flow.channel_lost()
        assert flow.resumed(0)
        assert holes(drain(flow)) == [(0, 3, "queue_full")]
        assert dropped(flow) == {"queue_full": 3}


def test_what_was_given_up_in_doubt_and_had_arrived_is_no_gap() -> None:
    flow = SendFlow(1000, is_reliable=True)
    for topic in "abc":
        flow.put(batch(2, topic=topic))
    flow.take()
    flow.take()
    flow.channel_lost()
    flow.give_up("lease_expired")
    assert (dropped(flow), flow.kept_bytes) == ({"lease_expired": 6}, 0)
    assert flow.resumed(2)
    assert dropped(flow) == {"lease_expired": 6}, "received is not taken"
    assert flow.acknowledge(2)
    assert holes(drain(flow)) == [(2, 4, "lease_expired")]
    assert (flow.acknowledged, dropped(flow)) == (2, {"lease_expired": 4})


def test_what_a_peer_had_received_and_not_taken_when_it_died_is_told_to_its_next_incarnation() -> None:
    flow = SendFlow(1000, is_reliable=True)
    for _ in range(3):
        flow.put(batch(2))
    drain(flow)
    flow.channel_lost()
    assert flow.resumed(6)
    flow.channel_lost()
    flow.restarted()
    assert holes(drain(flow)) == [(0, 6, "unacknowledged")]


def test_a_peer_cannot_take_back_what_it_acknowledged() -> None:
    flow = SendFlow(1000, is_reliable=True)
    for _ in range(3):
        flow.put(batch(2))
    drain(flow)
    assert flow.acknowledge(4)
    flow.channel_lost()
    assert not flow.resumed(2)


def test_a_gap_that_arrived_before_the_lease_was_over_is_no_delivery() -> None:
    flow = SendFlow(1000, is_reliable=True)
    flow.lose(batch(3), "queue_full")
    drain(flow)
    flow.channel_lost()
    flow.give_up("lease_expired")
    assert flow.resumed(3)
    assert flow.acknowledge(3)
    assert (flow.acknowledged, dropped(flow), flow.is_idle) == (0, {"queue_full": 3}, True)


def test_many_batches_in_doubt_are_joined_and_the_sums_stay_true() -> None:
    flow = SendFlow(100_000, is_reliable=True)
    for number in range(200):
        flow.put(batch(2, topic="ab"[number % 2]))
    drain(flow)
    flow.channel_lost()
    flow.give_up("lease_expired")
    assert flow.resumed(101)
    assert flow.acknowledge(101)
    assert (flow.acknowledged, dropped(flow)) == (101, {"lease_expired": 299})
    assert holes(drain(flow)) == [(101, 299, "lease_expired")]


def test_holes_of_many_reasons_are_joined_in_the_account_as_in_the_gap() -> None:
    flow = SendFlow(1 << 20, is_reliable=True)
    for number in range(100):
        flow.put(batch(1), now=float(number))
        flow.lose(batch(1), "queue_full")
    flow.channel_lost()
    flow.give_up("lease_expired")
    told = Counter({reason: count for _, count, reason in holes(drain(flow))})
    assert told == {"lease_expired": 200} == dropped(flow)


def test_another_incarnation_hears_of_what_the_old_one_may_have_missed_and_starts_after_it() -> None:
    flow = SendFlow(1000, is_reliable=True)
    for _ in range(3):
        flow.put(batch(2))
    drain(flow)
    flow.acknowledge(2)
    flow.restarted()
    assert dropped(flow) == {"unacknowledged": 4}
    assert (flow.next_sequence, flow.acknowledged) == (4, 2)
    assert drain(flow) == [(0, Hole(4, {"t": 4}, "unacknowledged"))]
    assert not flow.acknowledge(5)
    assert flow.acknowledge(4)
    assert flow.put(batch())
    assert flow.take()[0] == 4


@given(st.sampled_from(["peer_left", "closing"]))
def test_giving_up_counts_everything_under_the_one_cause(cause: str) -> None:
    flow = SendFlow(1000)
    for _ in range(3):
        flow.put(batch(2))
    flow.take()
    flow.give_up(cause)
    assert (dropped(flow), flow.pending_events, flow.kept_bytes) == ({cause: 6}, 0, 0)


class EveryNumberHasOneEnd(RuleBasedStateMachine):
    """All that can happen to a flow, in any order; the peer of the test receives what it likes."""

    @initialize(
        max_bytes=st.integers(1, 200),
        is_reliable=st.booleans(),
        overflow=st.sampled_from(["drop_newest", "drop_oldest", "spill"]),
    )
    def begin(self, max_bytes: int, is_reliable: bool, overflow: Overflow) -> None:
        self.spill = MemorySpill(300)
        spill = self.spill if overflow == "spill" else None
        self.flow = SendFlow(max_bytes, is_reliable=is_reliable, overflow=overflow, spill=spill)
        self.put_events = Counter[str]()
        self.now = 0.0
        self.arrived = 0
        """Number after the last item that reached the peer."""
        self.under_way: list[tuple[int, Item]] = []
        self.is_up = True
        self.is_given_up = False

    @rule(
        count=st.integers(1, 5),
        size=st.integers(1, 80),
        topic=st.sampled_from("abc"),
        priority=st.sampled_from([0, 0, 1]),
        may_exceed=st.booleans(),
    )
    def put(self, count: int, size: int, topic: str, priority: int, may_exceed: bool) -> None:
        if self.is_given_up:
            return
        self.now += 1
        self.put_events[topic] += count
        item = batch(count, size, topic, priority)
        if not self.is_up and not self.flow.is_reliable:
            self.flow.lose(item, "peer_lost")
            return
        was_empty = not self.flow.kept_bytes
        assert self.flow.put(item, self.now, may_exceed=may_exceed) or not was_empty

    @rule(most=st.integers(0, 5))
    def send(self, most: int) -> None:
        while self.is_up and self.flow.has_queued and most:
            most -= 1
            expected = self.flow.sent_sequence
            first, item = self.flow.take()
            assert first == expected, "what is sent continues what was sent"
            self.under_way.append((first, item))

    @rule(most=st.integers(0, 5))
    def arrive(self, most: int) -> None:
        for first, item in self.under_way[:most]:
            assert first == self.arrived, "the peer sees no jump"
            self.arrived = first + item.count
        del self.under_way[:most]

    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        if self.is_up:
            assert self.flow.acknowledge(data.draw(st.integers(0, self.arrived)))
            assert not self.flow.acknowledge(self.flow.sent_sequence + 1)

    @rule()
    def lose_channel(self) -> None:
        self.is_up = False
        self.under_way.clear()
        self.flow.channel_lost()

    @rule()
    def resume(self) -> None:
        self.lose_channel()
        assert self.flow.resumed(self.arrived)
        assert all(entry.after <= self.arrived for entry in self.flow._sent), "the rest is sent again"
        self.is_up, self.is_given_up = True, False

    @rule()
    def restart(self) -> None:
        self.lose_channel()
        self.flow.restarted()
        self.arrived = 0
        self.is_up, self.is_given_up = True, False

    @rule(cause=st.sampled_from(["lease_expired", "peer_left"]))
    def give_up(self, cause: str) -> None:
        self.lose_channel()
        self.flow.give_up(cause)
        self.is_given_up = True
        assert self.flow.kept_bytes == self.flow.spilled_bytes == 0

    @rule(age=st.integers(0, 5))
    def expire(self, age: int) -> None:
        self.flow.expire(self.now - age)

    @invariant()
    def each_event_is_in_one_account(self) -> None:
        flow = self.flow
        ended = flow.acknowledged + sum(dropped(flow).values())
        assert ended + flow.pending_events == self.put_events.total()

    @invariant()
    def numbers_are_contiguous_from_what_was_acknowledged(self) -> None:
        entries = [*self.flow._sent, *self.flow._queued]
        for before, after in pairwise(entries):
            assert before.after == after.first
        for entry in entries:
            assert entry.after - entry.first == entry.item.count > 0
        if entries:
            assert entries[-1].after == self.flow.next_sequence

    @invariant()
    def bytes_add_up(self) -> None:
        flow = self.flow
        queued = [entry for entry in flow._queued if isinstance(entry.item, Batch)]
        assert flow.queued_bytes == sum(entry.size for entry in queued if entry.spilled < 0)
        assert flow.spilled_bytes == sum(entry.size for entry in queued if entry.spilled >= 0)
        assert flow.spilled_bytes == sum(map(len, self.spill.kept.values()))
        assert flow.sent_bytes == sum(entry.size for entry in flow._sent)
        assert len(flow._queued) <= 2 * len(queued) + 70, "holes are joined"


TestEveryNumberHasOneEnd = EveryNumberHasOneEnd.TestCase
