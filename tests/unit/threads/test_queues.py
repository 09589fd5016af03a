"""What every queue promises, for every implementation there is: order, bounds, and an account without gaps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapini.errors import LocalError
from rapini.threads import LockedQueue, Overflow, Queue

MakeQueue = Callable[[int, int, Overflow], Queue[int]]


def _locked(max_items: int, max_bytes: int, overflow: Overflow) -> Queue[int]:
    return LockedQueue(max_items=max_items, max_bytes=max_bytes, overflow=overflow)


IMPLEMENTATIONS: Final = [pytest.param(_locked, id="locked")]
each_queue: Final = pytest.mark.parametrize("make", IMPLEMENTATIONS)


def _account_is_closed(queue: Queue[int]) -> bool:
    s = queue.statistics()
    return s.offered == s.taken + s.dropped + s.refused + s.discarded + s.items


@each_queue
def test_items_come_out_in_order_and_once(make: MakeQueue) -> None:
    queue = make(100, 1000, Overflow.BLOCK)
    assert queue.put_batch([1, 2, 3], 10) == 3
    assert queue.put(4, 1)
    assert queue.get_batch(2) == [1, 2]
    assert queue.get_batch() == [3, 4]
    assert queue.get_batch(timeout_s=0) == []
    assert (queue.position, queue.departed) == (4, 4)
    assert _account_is_closed(queue)


@each_queue
def test_a_partial_take_gives_back_exactly_its_cost(make: MakeQueue) -> None:
    queue = make(100, 1000, Overflow.DROP_NEWEST)
    queue.put_batch([1, 2, 3], 10)
    queue.put_batch([4, 5], 100)
    assert queue.statistics().cost_bytes == 230
    queue.get_batch(4)
    assert queue.statistics().cost_bytes == 100
    queue.get_batch()
    assert queue.statistics().cost_bytes == 0


@each_queue
def test_drop_newest_keeps_what_is_there(make: MakeQueue) -> None:
    queue = make(3, 1000, Overflow.DROP_NEWEST)
    assert queue.put_batch([1, 2], 1) == 2
    assert queue.put_batch([3, 4, 5], 1) == 1
    assert queue.get_batch() == [1, 2, 3]
    assert queue.statistics().dropped == 2


@each_queue
def test_drop_oldest_keeps_what_came_last(make: MakeQueue) -> None:
    queue = make(3, 1000, Overflow.DROP_OLDEST)
    assert queue.put_batch([1, 2], 1) == 2
    assert queue.put_batch([3, 4], 1) == 2
    assert queue.get_batch(1) == [2]
    assert queue.put_batch([5, 6, 7, 8, 9], 1) == 5
    assert queue.get_batch() == [7, 8, 9]
    assert queue.statistics().dropped == 1 + 4
    assert (queue.position, queue.departed) == (9, 9)
    assert _account_is_closed(queue)


@each_queue
def test_the_bound_in_bytes_holds_by_itself(make: MakeQueue) -> None:
    queue = make(1000, 100, Overflow.DROP_NEWEST)
    assert queue.put_batch(list(range(50)), 30) == 3
    assert not queue.put(9, 30)
    assert queue.put(9, 10)
    assert queue.statistics().high_water_bytes == 100


@each_queue
@pytest.mark.parametrize("overflow", Overflow)
def test_an_item_larger_than_the_bound_is_dropped_at_once(make: MakeQueue, overflow: Overflow) -> None:
    queue = make(10, 100, overflow)
    queue.put(1, 100)
    assert not queue.put(2, 101)
    assert queue.get_batch() == [1]
    assert queue.statistics().dropped == 1


@each_queue
def test_a_blocked_producer_waits_for_room_and_loses_nothing(make: MakeQueue) -> None:
    queue = make(2, 1000, Overflow.BLOCK)
    producer = threading.Thread(target=lambda: queue.put_batch(list(range(9)), 1))
    producer.start()
    got: list[int] = []
    while len(got) < 9:
        batch = queue.get_batch(timeout_s=5)
        assert 0 < len(batch) <= 2
        got += batch
    producer.join(5)
    assert got == list(range(9))
    assert queue.statistics().dropped == 0
    assert queue.statistics().waits == 1


@each_queue
def test_a_blocked_producer_gives_up_after_its_timeout_and_counts(make: MakeQueue) -> None:
    queue = make(2, 1000, Overflow.BLOCK)
    began = time.monotonic()
    assert queue.put_batch([1, 2, 3, 4], 1, timeout_s=0.05) == 2
    assert 0.04 <= time.monotonic() - began < 5
    statistics = queue.statistics()
    assert (statistics.dropped, statistics.waits) == (2, 1)
    assert statistics.wait_s >= 0.04


@each_queue
def test_close_frees_producers_and_lets_the_consumer_drain(make: MakeQueue) -> None:
    queue = make(2, 1000, Overflow.BLOCK)
    accepted: list[int] = []
    producer = threading.Thread(target=lambda: accepted.append(queue.put_batch([1, 2, 3], 1)))
    producer.start()
    while not queue.statistics().waits:
        time.sleep(0.001)
    queue.close()
    producer.join(5)
    assert accepted == [2]
    assert not queue.put(9, 1)
    assert queue.get_batch() == [1, 2]
    assert queue.get_batch() == []  # returns at once
    assert queue.statistics().refused == 2
    assert _account_is_closed(queue)


@each_queue
def test_wake_returns_a_waiting_consumer_empty_handed(make: MakeQueue) -> None:
    queue = make(2, 1000, Overflow.BLOCK)
    results: list[list[int]] = []
    consumer = threading.Thread(target=lambda: results.append(queue.get_batch(timeout_s=20)))
    consumer.start()
    queue.wake()
    consumer.join(5)
    assert results == [[]]


@each_queue
def test_discard_is_counted_and_makes_room(make: MakeQueue) -> None:
    queue = make(2, 1000, Overflow.DROP_NEWEST)
    queue.put_batch([1, 2], 500)
    assert queue.discard() == 2
    assert queue.put(3, 1000)
    assert _account_is_closed(queue)


def test_a_queue_without_room_is_refused() -> None:
    with pytest.raises(LocalError) as raised:
        LockedQueue(max_items=0, max_bytes=1, overflow=Overflow.BLOCK)
    assert raised.value.code == "bad_bound"


@each_queue
def test_drop_oldest_drops_what_waited_before_what_comes(make: MakeQueue) -> None:
    """Found by the property test below: a cheap old item survived while a newer one was dropped."""
    queue = make(5, 20, Overflow.DROP_OLDEST)
    queue.put(0, 1)
    queue.put_batch([1, 2], 11)
    assert queue.get_batch() == [2]


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 6), st.integers(0, 12)),
        st.tuples(st.just("get"), st.integers(1, 6), st.just(0)),
        st.tuples(st.just("get_all"), st.just(0), st.just(0)),
        st.tuples(st.just("discard"), st.just(0), st.just(0)),
    ),
    max_size=40,
)


@each_queue
@given(steps=_STEPS, overflow=st.sampled_from(Overflow))
def test_it_behaves_as_a_list_with_bounds(
    make: MakeQueue, steps: list[tuple[str, int, int]], overflow: Overflow
) -> None:
    """Against a plain list that is written to be obviously right."""
    queue, model, number = make(5, 20, overflow), list[tuple[int, int]](), 0
    for step, count, cost in steps:
        match step:
            case "put":
                items = list(range(number, number + count))
                number += count
                queue.put_batch(items, cost, timeout_s=0)
                for item in items:
                    if overflow is Overflow.DROP_OLDEST:
                        while model and (len(model) >= 5 or sum(c for _, c in model) + cost > 20):
                            del model[0]
                    if len(model) < 5 and sum(c for _, c in model) + cost <= 20:
                        model.append((item, cost))
            case "get":
                expected = [item for item, _ in model[:count]]
                assert queue.get_batch(count, timeout_s=0) == expected
                del model[:count]
            case "get_all":
                assert queue.get_batch(timeout_s=0) == [item for item, _ in model]
                model.clear()
            case _:
                assert queue.discard() == len(model)
                model.clear()
        assert _account_is_closed(queue)
        assert queue.statistics().cost_bytes == sum(cost for _, cost in model)
        assert queue.position - queue.departed == len(model)


@each_queue
@pytest.mark.parametrize("overflow", Overflow)
def test_under_stress_order_bounds_and_account_hold(make: MakeQueue, overflow: Overflow) -> None:
    """Four producers against one consumer: each producer's items come out in its order, none twice, all accounted."""
    producers, rounds, size = 4, 300, 7
    queue = make(50, 10_000, overflow)
    accepted = [0] * producers

    def produce(me: int) -> None:
        for i in range(rounds):
            first = me * 1_000_000 + i * size
            accepted[me] += queue.put_batch(range(first, first + size), 100)

    threads = [threading.Thread(target=produce, args=(me,)) for me in range(producers)]
    got: list[int] = []

    def consume() -> None:
        while not (queue.closed and queue.position == queue.departed):
            batch = queue.get_batch(11, timeout_s=0.2)
            assert len(batch) <= 11
            got.extend(batch)

    consumer = threading.Thread(target=consume)
    consumer.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    queue.close()
    consumer.join(30)
    assert not consumer.is_alive()

    statistics = queue.statistics()
    assert statistics.offered == producers * rounds * size
    assert statistics.taken == len(got) == statistics.offered - statistics.dropped
    assert statistics.high_water_items <= 50
    assert statistics.high_water_bytes <= 10_000
    for me in range(producers):
        mine = [item for item in got if item // 1_000_000 == me]
        assert all(a < b for a, b in pairwise(mine))
        if overflow is not Overflow.DROP_OLDEST:
            assert len(mine) == accepted[me]
    if overflow is Overflow.BLOCK:
        assert statistics.dropped == 0
