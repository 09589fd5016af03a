"""Bounded queues between threads: one small interface, interchangeable implementations.

Between every producer and every thread of ours. A queue is bounded in items *and* in bytes, because items alone do not
bound memory; the caller says what an item costs, since only it knows. What happens at the bound has a name
(`Overflow`), and every item that does not come out again is counted.

Measured, one producer and one consumer on CPython 3.11 (`requirements.md`, row 58): `queue.Queue` 0.3 M items/s, a lock
with a list that the consumer swaps out 2.8 M/s by single items, and the lock hardly shows once items travel in batches.
So the first implementation is `LockedQueue`: a lock, a condition, and a swap.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, TypeVar, assert_never

from rapini.errors import LocalError

__all__ = ["LockedQueue", "Overflow", "Queue", "QueueStatistics"]

T = TypeVar("T")


class Overflow(Enum):
    """What a full queue does with more."""

    BLOCK = "block"
    """The producer waits (and after its timeout loses what still did not fit)."""
    DROP_NEWEST = "drop_newest"
    """What does not fit is lost."""
    DROP_OLDEST = "drop_oldest"
    """What waits longest is lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStatistics:
    """A queue at one moment.

    `offered == taken + dropped + refused + discarded + items`, plus what producers just wait with.
    """

    items: int
    """Waiting now."""
    cost_bytes: int
    """What those cost, in bytes as stated by the producers."""
    offered: int
    """Items that producers brought."""
    taken: int
    """Items that the consumer got."""
    dropped: int
    """Items lost at the bound, by the overflow policy or by a producer's timeout."""
    refused: int
    """Items brought after the queue was closed."""
    discarded: int
    """Items thrown away by `discard`."""
    waits: int
    """How often a producer had to wait."""
    wait_s: float
    """How long producers waited, all together."""
    high_water_items: int
    high_water_bytes: int


class Queue(Protocol[T]):
    """What every queue promises. Any number of producers, one consumer; first in, first out for each producer."""

    def put(self, item: T, cost_bytes: int, *, timeout_s: float | None = None) -> bool:
        """Put one item; say whether it was taken in. See `put_batch`."""

    def put_batch(self, items: Sequence[T], cost_bytes: int, *, timeout_s: float | None = None) -> int:
        """Put items in order; return how many were taken in (the first ones, but for `DROP_OLDEST`: all).

        Args:
            items: What to put. A batch larger than the bound goes in piece by piece.
            cost_bytes: What *each* of them costs. One that alone exceeds the bound is dropped.
            timeout_s: Longest wait under `BLOCK`, in seconds; `None` waits until there is room or the queue closes.

        Never raises for a full or closed queue: what was not taken in is counted. Any thread.
        """

    def get_batch(self, max_items: int | None = None, *, timeout_s: float | None = None) -> list[T]:
        """Take what waits, at most `max_items`; wait for the first up to `timeout_s` seconds (`None`: for ever).

        Empty after the timeout, a `wake`, or when the queue is closed and empty. Thread: the consumer's.
        """

    def wake(self) -> None:
        """Let a waiting (or else the next) `get_batch` return, even with nothing. Any thread."""

    def close(self) -> None:
        """Take nothing more in; what is inside can still be taken out. Producers that wait return. Any thread."""

    def discard(self) -> int:
        """Throw away what waits; return how many items that was. Any thread."""

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""

    @property
    def position(self) -> int:
        """Items ever taken in. An item put now comes out after these."""

    @property
    def departed(self) -> int:
        """Items taken in that have left since, taken out or lost."""

    def statistics(self) -> QueueStatistics:
        """The queue at this moment, consistent in itself. Any thread."""


class LockedQueue(Queue[T]):
    """A lock, two conditions and a deque that the consumer swaps out whole.

    Args:
        max_items: Most items that may wait.
        max_bytes: Most bytes that they may cost together.
        overflow: What happens at these bounds.
    """

    def __init__(self, *, max_items: int, max_bytes: int, overflow: Overflow) -> None:
        if max_items < 1 or max_bytes < 1:
            raise LocalError("bad_bound", "a queue has room for at least one item and one byte")
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._overflow = overflow
        self._lock = threading.Lock()
        self._not_empty = threading.Condition(self._lock)
        self._not_full = threading.Condition(self._lock)
        self._items: deque[T] = deque()
        self._runs: deque[list[int]] = deque()
        """[number of items, cost of each] in the order of the items: a cost per run, not per item."""
        self._cost = 0
        self._closed = False
        self._woken = False
        self._offered = self._taken = self._dropped = self._evicted = self._refused = self._discarded = 0
        self._waits = 0
        self._wait_s = 0.0
        self._high_items = self._high_cost = 0

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def position(self) -> int:
        """Items ever taken in."""
        with self._lock:
            return self._left() + len(self._items)

    @property
    def departed(self) -> int:
        """Items taken in that have left since."""
        with self._lock:
            return self._left()

    def put(self, item: T, cost_bytes: int, *, timeout_s: float | None = None) -> bool:
        """Put one item; say whether it was taken in. See `Queue.put_batch`."""
        return self.put_batch((item,), cost_bytes, timeout_s=timeout_s) == 1

    def put_batch(self, items: Sequence[T], cost_bytes: int, *, timeout_s: float | None = None) -> int:
        """Put items in order; return how many were taken in. See `Queue.put_batch`."""
        cost = max(0, cost_bytes)
        count = len(items)
        with self._lock:
            self._offered += count
            if self._closed:
                self._refused += count
                return 0
            if cost > self._max_bytes:
                self._dropped += count
                return 0
            match self._overflow:
                case Overflow.BLOCK:
                    accepted = self._put_blocking(items, cost, timeout_s)
                case Overflow.DROP_NEWEST:
                    accepted = self._append(items, 0, cost)
                    self._dropped += count - accepted
                case Overflow.DROP_OLDEST:
                    self._put_evicting(items, cost)
                    accepted = count
                case _:
                    assert_never(self._overflow)
            return accepted

    def get_batch(self, max_items: int | None = None, *, timeout_s: float | None = None) -> list[T]:
        """Take what waits. See `Queue.get_batch`."""
        with self._lock:
            if not self._items and not self._closed and not self._woken:
                self._not_empty.wait_for(lambda: self._items or self._closed or self._woken, timeout_s)
            self._woken = False
            if max_items is None or len(self._items) <= max_items:
                swapped, self._items = self._items, deque()
                self._runs.clear()
                self._cost = 0
                batch = list(swapped)
            else:
                pop = self._items.popleft
                batch = [pop() for _ in range(max_items)]
                self._settle(max_items)
            self._taken += len(batch)
            if batch:
                self._not_full.notify_all()
            return batch

    def wake(self) -> None:
        """Let a waiting (or else the next) `get_batch` return."""
        with self._lock:
            self._woken = True
            self._not_empty.notify()

    def close(self) -> None:
        """Take nothing more in."""
        with self._lock:
            self._closed = True
            self._not_empty.notify_all()
            self._not_full.notify_all()

    def discard(self) -> int:
        """Throw away what waits; return how many items that was."""
        with self._lock:
            count = len(self._items)
            self._items.clear()
            self._runs.clear()
            self._cost = 0
            self._discarded += count
            self._not_full.notify_all()
            return count

    def statistics(self) -> QueueStatistics:
        """The queue at this moment."""
        with self._lock:
            return QueueStatistics(
                items=len(self._items),
                cost_bytes=self._cost,
                offered=self._offered,
                taken=self._taken,
                dropped=self._dropped,
                refused=self._refused,
                discarded=self._discarded,
                waits=self._waits,
                wait_s=self._wait_s,
                high_water_items=self._high_items,
                high_water_bytes=self._high_cost,
            )

    # --- Under the lock ------------------------------------------------------------------------------------------

    def _left(self) -> int:
        return self._taken + self._discarded + self._evicted

    def _room(self, cost: int) -> int:
        room = self._max_items - len(self._items)
        return min(room, (self._max_bytes - self._cost) // cost) if cost else room

    def _append(self, items: Sequence[T], start: int, cost: int) -> int:
        """Append what fits of `items[start:]`; return how many."""
        count = min(len(items) - start, self._room(cost))
        if count <= 0:
            return 0
        was_empty = not self._items
        self._items.extend(items if count == len(items) else items[start : start + count])
        if self._runs and self._runs[-1][1] == cost:
            self._runs[-1][0] += count
        else:
            self._runs.append([count, cost])
        self._cost += count * cost
        self._high_items = max(self._high_items, len(self._items))
        self._high_cost = max(self._high_cost, self._cost)
        if was_empty:
            self._not_empty.notify()
        return count

    def _put_blocking(self, items: Sequence[T], cost: int, timeout_s: float | None) -> int:
        done = self._append(items, 0, cost)
        if done == len(items):
            return done
        began = time.monotonic()
        deadline = None if timeout_s is None else began + timeout_s
        self._waits += 1
        while done < len(items) and not self._closed:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            self._not_full.wait(left)
            if not self._closed:
                done += self._append(items, done, cost)
        self._wait_s += time.monotonic() - began
        if self._closed:
            self._refused += len(items) - done
        else:
            self._dropped += len(items) - done
        return done

    def _put_evicting(self, items: Sequence[T], cost: int) -> None:
        """Append all, making room by dropping the oldest, the first of `items` themselves among them."""
        most = min(self._max_items, self._max_bytes // cost if cost else self._max_items)
        skipped = max(0, len(items) - most)
        # Where even some of these must go, all that waited before them goes first.
        self._evict(len(items), cost)
        self._append(items if not skipped else items[skipped:], 0, cost)
        self._dropped += skipped
        self._evicted += skipped

    def _evict(self, count: int, cost: int) -> None:
        evicted = 0
        while self._items and self._room(cost) < count:
            self._items.popleft()
            self._settle(1)
            evicted += 1
        self._dropped += evicted
        self._evicted += evicted

    def _settle(self, count: int) -> None:
        """Take `count` items' costs off the front."""
        while count:
            run = self._runs[0]
            part = min(count, run[0])
            run[0] -= part
            self._cost -= part * run[1]
            count -= part
            if not run[0]:
                self._runs.popleft()
