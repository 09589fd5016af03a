"""What one peer has not acknowledged yet: a queue bounded in bytes, credit, and the account of every event.

Each batch ends in exactly one of: acknowledged, or dropped with a cause, counted by topic. Batches wait here while the
peer's credit (`Greeting.window_bytes`) is used up, so that neither 0MQ's nor the kernel's queues fill behind our back.

When a channel is lost, batches that were never sent are dropped (`peer_lost`); those sent and unacknowledged are *in
doubt*. A peer that returns as the same incarnation says how many events it had received, and that settles them: the
rest was `lost_in_transit`. A peer that returns as another incarnation, or never, cannot say: they count as
`unacknowledged`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping

import msgspec

__all__ = ["Batch", "DropCause", "Outbox"]

DropCause = str
"""`queue_full`, `peer_lost`, `lost_in_transit`, `unacknowledged`, `peer_left` or `closing`."""


class Batch(msgspec.Struct, frozen=True):
    """Encoded events for one peer, with their number by topic (one mapping shared by all peers that get the same)."""

    data: bytes
    count: int
    topics: Mapping[str, int]


class Outbox:
    """Batches for one peer in one session. Thread: the owner's.

    Args:
        max_bytes: Bound on the bytes kept, queued and unacknowledged ones together.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.window_bytes = 0
        """The peer's credit in bytes; set from its greeting."""
        self.next_sequence = 0
        """Number of the next event to be sent in this session."""
        self.acknowledged = 0
        """Events that the peer has taken."""
        self.dropped: dict[DropCause, Counter[str]] = {}
        """Events that were not delivered, by cause and topic."""
        self._queued: deque[Batch] = deque()
        self._sent: deque[tuple[int, Batch]] = deque()  # with the sequence number after the batch's last event
        self._queued_bytes = 0
        self._sent_bytes = 0

    @property
    def kept_bytes(self) -> int:
        """Bytes queued and unacknowledged."""
        return self._queued_bytes + self._sent_bytes

    @property
    def in_flight_bytes(self) -> int:
        """Bytes sent and unacknowledged."""
        return self._sent_bytes

    @property
    def is_idle(self) -> bool:
        """Whether everything was acknowledged or dropped."""
        return not self._queued and not self._sent

    @property
    def pending_events(self) -> int:
        """Events queued or unacknowledged."""
        return sum(batch.count for batch in self._queued) + sum(batch.count for _, batch in self._sent)

    def has_room(self) -> bool:
        """Whether the next batch would be taken."""
        return self._queued_bytes + self._sent_bytes < self.max_bytes

    def put(self, batch: Batch, *, may_exceed: bool = False) -> bool:
        """Queue a batch; when the queue is full the batch is dropped (`queue_full`) and the answer is false.

        An empty queue takes a batch of any size, so that no event is too large to be sent at all.

        Args:
            batch: Encoded events.
            may_exceed: Take it if there `has_room`, though it goes over the bound by its own size: for a publisher that
                waited for room and cannot know how large its batch will be.
        """
        size = len(batch.data)
        kept = self._queued_bytes + self._sent_bytes
        if kept and (kept >= self.max_bytes or (kept + size > self.max_bytes and not may_exceed)):
            self.drop(batch.topics, "queue_full")
            return False
        self._queued.append(batch)
        self._queued_bytes += size
        return True

    def sendable(self) -> Iterator[tuple[int, Batch]]:
        """Take what the credit allows, as (first sequence number, batch); each one yielded counts as sent."""
        while self._queued:
            batch = self._queued[0]
            size = len(batch.data)
            if self._sent and self._sent_bytes + size > self.window_bytes:
                return
            self._queued.popleft()
            self._queued_bytes -= size
            first = self.next_sequence
            self.next_sequence = first + batch.count
            self._sent.append((self.next_sequence, batch))
            self._sent_bytes += size
            yield first, batch

    def acknowledge(self, received_events: int) -> bool:
        """The peer took `received_events` in all (cumulative). False if that is more than were sent."""
        if received_events > self.next_sequence:
            return False
        while self._sent and self._sent[0][0] <= received_events:
            _, batch = self._sent.popleft()
            self._sent_bytes -= len(batch.data)
            self.acknowledged += batch.count
        return True

    def channel_lost(self) -> None:
        """The channel is gone: drop what was never sent, keep the rest in doubt."""
        self._drop_queued("peer_lost")

    def resumed(self, received_events: int) -> bool:
        """The same incarnation is back and says what it had received. False if that is more than were sent."""
        if not self.acknowledge(received_events):
            return False
        self._drop_sent("lost_in_transit")
        return True

    def give_up(self, cause: DropCause) -> None:
        """Nothing more will be acknowledged: count everything under `cause`, what was never sent too."""
        self._drop_queued(cause)
        self._drop_sent(cause)

    def session_restarted(self) -> None:
        """The peer is another incarnation: a new session, numbered from 0 (the account goes on)."""
        self.give_up("unacknowledged")
        self.next_sequence = 0

    def drop(self, topics: Mapping[str, int], cause: DropCause) -> None:
        """Count events as dropped."""
        self.dropped.setdefault(cause, Counter()).update(topics)

    def _drop_queued(self, cause: DropCause) -> None:
        for batch in self._queued:
            self.drop(batch.topics, cause)
        self._queued.clear()
        self._queued_bytes = 0

    def _drop_sent(self, cause: DropCause) -> None:
        for _, batch in self._sent:
            self.drop(batch.topics, cause)
        self._sent.clear()
        self._sent_bytes = 0
