"""The outbox: the classes share the credit and take turns."""

from __future__ import annotations

from collections import Counter

from rapini.events.delivery import Delivery
from rapini.session.outbox import Batch, Hole, Outbox

BEST, RELIABLE = Delivery.BEST_EFFORT, Delivery.RELIABLE


def batch(count: int = 1, size: int = 10, topic: str = "t") -> Batch:
    return Batch(bytes(size), count, {topic: count})


def opened(window: int = 100, max_bytes: int = 1000) -> Outbox:
    outbox = Outbox(max_bytes)
    outbox.window_bytes = window
    return outbox


def test_events_are_sent_within_the_credit_which_an_acknowledgement_gives_back() -> None:
    outbox = opened(window=25)
    for count in (1, 2, 3):
        assert outbox.put(batch(count), BEST, 0.0)
    assert [(first, sent.count) for _, first, sent in outbox.sendable()] == [(0, 1), (1, 2)]
    assert (outbox.in_flight_bytes, outbox.kept_bytes, outbox.pending_events) == (20, 30, 6)
    assert outbox.acknowledge([1])
    assert [(first, sent.count) for _, first, sent in outbox.sendable()] == [(3, 3)]
    assert outbox.acknowledge([6, 0])
    assert (outbox.acknowledged, outbox.is_idle, outbox.kept_bytes, outbox.dropped) == (6, True, 0, {})


def test_a_batch_larger_than_the_credit_goes_alone() -> None:
    outbox = opened(window=5)
    outbox.put(batch(), BEST, 0.0)
    outbox.put(batch(), RELIABLE, 0.0)
    assert len(list(outbox.sendable())) == 1
    assert list(outbox.sendable()) == []


def test_the_classes_take_turns_and_each_counts_for_itself() -> None:
    outbox = opened(window=1000)
    for delivery in (BEST, BEST, RELIABLE, RELIABLE, RELIABLE):
        outbox.put(batch(), delivery, 0.0)
    order = [(delivery, first) for delivery, first, _ in outbox.sendable()]
    assert order == [(RELIABLE, 0), (BEST, 0), (RELIABLE, 1), (BEST, 1), (RELIABLE, 2)]
    assert not outbox.acknowledge([3, 0])
    assert outbox.acknowledge([2, 3])
    assert outbox.is_idle


def test_a_lost_channel_means_to_each_class_what_it_promises() -> None:
    outbox = opened(window=20)
    for delivery in (BEST, RELIABLE) * 2:
        outbox.put(batch(2), delivery, 0.0)
    assert len(list(outbox.sendable())) == 2
    outbox.channel_lost()
    assert outbox.dropped == {"peer_lost": Counter({"t": 2})}
    assert outbox.resumed([0, 2])
    outbox.window_bytes = 1000
    assert list(outbox.sendable()) == [
        (RELIABLE, 2, batch(2)),
        (BEST, 0, Hole(2, {"t": 2}, "lost_in_transit")),
    ]
    assert outbox.acknowledge([2, 4])
    assert list(outbox.sendable()) == [(BEST, 2, Hole(2, {"t": 2}, "peer_lost"))]
    assert outbox.acknowledge([4, 4])
    assert (outbox.acknowledged, outbox.is_idle) == (4, True)


def test_a_peer_that_says_less_than_all_classes_received_nothing_of_the_rest() -> None:
    outbox = opened()
    outbox.put(batch(), RELIABLE, 0.0)
    list(outbox.sendable())
    outbox.channel_lost()
    assert outbox.resumed([])
    assert [first for _, first, _ in outbox.sendable()] == [0]
