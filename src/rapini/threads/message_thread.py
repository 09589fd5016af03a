"""A thread that lives off a bounded queue: it takes batches, works on them, and drains before it ends.

On `thread` and `queues`, below every writer. Zeek's `MsgThread` is the model, with two differences: the queue is
bounded, and nothing that was put in disappears uncounted, whether the thread ends in order, fails or hangs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rapini.threads.queues import Queue, QueueStatistics
from rapini.threads.thread import Thread, ThreadFailure, ThreadStatistics

__all__ = ["MessageThread", "MessageThreadStatistics"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageThreadStatistics(ThreadStatistics):
    """A message thread at one moment."""

    queue: QueueStatistics
    handled: int
    """Items whose work is done."""
    lost_in_hand: int
    """Items taken out of the queue and not finished, because the thread failed or was given up."""

    @property
    def lost(self) -> int:
        """All items that were brought and will not be worked on."""
        return self.queue.dropped + self.queue.refused + self.queue.discarded + self.lost_in_hand


class MessageThread(Thread, Generic[T]):
    """Takes batches from a queue until told to stop, then what is left, then ends.

    Subclasses implement `on_batch`, and the other hooks where they need them. All hooks run on the thread; an
    exception in one ends it, closes the queue, and counts what was in it.

    Args:
        name: The thread's name.
        queue: Where its work comes from. The thread is its only consumer.
        max_batch_items: Most items given to `on_batch` at a time; `None` for all there are.
        heartbeat_interval_s: How often `on_heartbeat` is called and, when idle, the loop comes round.
    """

    def __init__(
        self,
        name: str,
        queue: Queue[T],
        *,
        max_batch_items: int | None = None,
        heartbeat_interval_s: float = 1.0,
    ) -> None:
        super().__init__(name)
        self._queue = queue
        self._max_batch_items = max_batch_items
        self._interval_s = heartbeat_interval_s
        self._next_heartbeat = 0.0
        self._count_lock = threading.Lock()
        self._handled = 0
        self._in_hand = 0
        self._lost_in_hand = 0
        self._flushes: list[tuple[int, threading.Event]] = []

    # --- The front: any thread -----------------------------------------------------------------------------------

    def put_batch(self, items: Sequence[T], cost_bytes: int, *, timeout_s: float | None = None) -> int:
        """Give the thread work; see `Queue.put_batch`. Any thread."""
        return self._queue.put_batch(items, cost_bytes, timeout_s=timeout_s)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was put before this call is worked off and `on_flush` has run; say whether it has.

        False after `timeout_s` seconds, and for a thread that has ended. Any thread but its own.
        """
        done = threading.Event()
        with self._count_lock:
            self._flushes.append((self._queue.position, done))
        self._queue.wake()
        deadline = time.monotonic() + timeout_s
        while not done.wait(min(0.05, max(0.0, deadline - time.monotonic()))):
            if time.monotonic() >= deadline or not self._thread.is_alive():
                return done.is_set()
        return True

    def signal_stop(self) -> None:
        """Take no more work; finish what there is, then end. Any thread."""
        super().signal_stop()
        self._queue.close()

    def abandon(self) -> int:
        """Give up on a hung thread; return how many items it leaves behind. Any thread."""
        super().abandon()
        self._queue.close()
        return self._queue.discard() + self._lose_hand()

    def statistics(self) -> MessageThreadStatistics:
        """The thread at this moment. Any thread."""
        queue = self._queue.statistics()
        with self._count_lock:
            return MessageThreadStatistics(
                name=self.name,
                state=self.state,
                heartbeat_age_s=self._heartbeat_age(),
                failure=self.failure,
                queue=queue,
                handled=self._handled,
                lost_in_hand=self._lost_in_hand,
            )

    # --- Hooks: the thread's own ---------------------------------------------------------------------------------

    def on_start(self) -> None:
        """Before the first batch."""

    def on_batch(self, batch: list[T]) -> None:
        """Work on `batch`, and tell `settle` what is done already, so that a failure is counted exactly."""
        raise NotImplementedError

    def on_flush(self) -> None:
        """Make what was done so far last."""

    def on_heartbeat(self, now: float) -> None:
        """Called about every `heartbeat_interval_s` with monotonic seconds."""

    def on_finish(self) -> None:
        """After the last batch of an orderly stop."""

    def on_abandoned(self) -> None:
        """Instead of `on_finish`, when a hung thread comes back after it was given up: let go, write nothing."""

    def settle(self, count: int) -> int:
        """Say that `count` more items of the batch in hand are done; return how many of them still count as ours.

        None do once the thread was given up: then they are lost already. Thread: its own, within `on_batch`.
        """
        with self._count_lock:
            count = min(count, self._in_hand)
            self._in_hand -= count
            self._handled += count
            return count

    # --- The loop ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Start, batches, finish."""
        self.on_start()
        while not self.abandoned:
            batch = self._queue.get_batch(self._max_batch_items, timeout_s=self._interval_s)
            self.beat()
            if batch:
                self._take(batch)
            self._serve_flushes()
            self._serve_heartbeat()
            if not batch and self._queue.closed and self._queue.position == self._queue.departed:
                break
        if self.abandoned:
            self.on_abandoned()
        else:
            self.on_finish()

    def failed(self, failure: ThreadFailure) -> None:
        """Count what will not be done, and let nobody wait for it."""
        self._queue.close()
        self._queue.discard()
        self._lose_hand()

    def _take(self, batch: list[T]) -> None:
        with self._count_lock:
            self._in_hand = len(batch)
            if self._abandoned:  # between our taking it and now: nobody else can count it any more
                self._lost_in_hand += len(batch)
                self._in_hand = 0
                return
        self.on_batch(batch)
        self.settle(len(batch))

    def _lose_hand(self) -> int:
        with self._count_lock:
            lost, self._in_hand = self._in_hand, 0
            self._lost_in_hand += lost
            return lost

    def _serve_flushes(self) -> None:
        if not self._flushes:
            return
        departed = self._queue.departed
        with self._count_lock:
            due = [done for position, done in self._flushes if position <= departed]
            self._flushes = [(position, done) for position, done in self._flushes if position > departed]
        if due:
            self.on_flush()
            for done in due:
                done.set()

    def _serve_heartbeat(self) -> None:
        now = time.monotonic()
        if now >= self._next_heartbeat:
            self._next_heartbeat = now + self._interval_s
            self.on_heartbeat(now)
