"""The sending end of one delivery class in one session: every number ends acknowledged or in exactly one hole.

Events for one peer are numbered, per session and class, when they are put: so a subscription that filters makes no
gaps, and what cannot be kept leaves a *hole* in its place in the queue. The peer hears of a hole in order, as a `Gap`,
and acknowledges it like events; holes next to each other become one, so what is remembered of any amount of loss is
small.

    put ──> queued ──sendable()──> sent ──acknowledge()──> gone
               │  full, old, shed     │
               └───────> Hole <───────┘  connection lost (best effort), lease over, peer restarted

What a lost connection means is what the class promises. *best effort*: what was never sent becomes a hole at once
(`peer_lost`); what was sent is in doubt until the peer, back with the same memory, says how far it got, and the rest
becomes `lost_in_transit`. *reliable*: everything stays, and what the peer did not receive is sent again under the same
numbers.

Source: the numbering and the explicit hole are those of PGM's NAK'd sequence and of `lossy` streams in QUIC-style
transports; the account is `docs/explanation/accounting.md`. Sans-IO.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from rapini import limits
from rapini.session.spill import Spill

__all__ = ["Batch", "DropCause", "Hole", "Item", "Overflow", "SendFlow", "Spill"]

DropCause = str
"""`queue_full`, `shed`, `expired`, `peer_lost`, `lost_in_transit`, `unacknowledged`, `lease_expired`,
`peer_left` or `closing`."""

Overflow = Literal["block", "drop_oldest", "drop_newest", "spill", "disconnect"]
"""What happens when a queue is full. `block` and `disconnect` are the owner's to do: the flow itself drops the newest
if it is asked to take more than it holds."""

_COMPACT_AT: Final = 64
"""So many holes between batches are joined at the latest when they are this many."""


class Batch(msgspec.Struct, frozen=True):
    """Encoded events for one peer, with their number by topic (one mapping shared by all peers that get the same)."""

    data: bytes
    count: int
    topics: Mapping[str, int]
    priority: int = 0
    """Lower ones are dropped first when the queue is full."""


class Hole(msgspec.Struct):
    """Numbers that no event will come for."""

    count: int
    topics: dict[str, int]
    """Events by topic; empty where it is not known any more."""
    reason: DropCause


Item = Batch | Hole


class _Entry(msgspec.Struct):
    """An item in its place."""

    first: int
    after: int
    item: Item
    size: int
    """Bytes that it takes in memory."""
    put_at: float
    spilled: int = -1
    """Where its bytes are, if not in memory."""
    in_doubt: bool = False
    """A hole that was sent as a batch, and given up: the peer may have it."""


class SendFlow:
    """One class's events for one peer. Thread: the owner's.

    Args:
        max_bytes: Bound on the bytes kept in memory, queued and unacknowledged ones together.
        is_reliable: Whether a lost connection loses nothing.
        overflow: What to do when it is full.
        spill: Where to spill, for the policy of that name.
    """

    def __init__(
        self,
        max_bytes: int,
        *,
        is_reliable: bool = False,
        overflow: Overflow = "drop_newest",
        spill: Spill | None = None,
    ) -> None:
        self.max_bytes = max_bytes
        self.is_reliable = is_reliable
        self.overflow: Overflow = overflow
        self.next_sequence = 0
        """Number of the next event to be put."""
        self.sent_sequence = 0
        """Number after the last event or hole that was sent."""
        self.acknowledged = 0
        """Events that the peer has taken."""
        self.dropped: dict[DropCause, Counter[str]] = {}
        """Events that were not delivered, by cause and topic."""
        self.sent_bytes = 0
        """Bytes sent and unacknowledged."""
        self.queued_bytes = 0
        """Bytes in memory that wait to be sent."""
        self.spilled_bytes = 0
        """Bytes on disk that wait to be sent."""
        self._spill = spill
        self._queued: deque[_Entry] = deque()
        self._sent: deque[_Entry] = deque()
        self._holes_queued = 0
        self._sent_gap_bytes = 0
        """Credit that holes under way take; no memory of ours."""
        self._has_priorities = False

    # -- what there is -------------------------------------------------------------------------------------------

    @property
    def kept_bytes(self) -> int:
        """Bytes in memory, queued and unacknowledged."""
        return self.queued_bytes + self.sent_bytes - self._sent_gap_bytes

    @property
    def is_idle(self) -> bool:
        """Whether everything was acknowledged."""
        return not self._queued and not self._sent

    @property
    def acknowledged_sequence(self) -> int:
        """The number after the last that was acknowledged."""
        return self._sent[0].first if self._sent else self.sent_sequence

    @property
    def has_queued(self) -> bool:
        """Whether something is to be sent now.

        A hole at the end of the queue may still grow while the peer is behind; it waits until a batch stands behind it
        or everything before it was acknowledged, so that a slow peer is not sent a gap for each batch that it misses.
        """
        queued = self._queued
        if not queued:
            return False
        return len(queued) > 1 or not self._sent or isinstance(queued[0].item, Batch)

    @property
    def pending_events(self) -> int:
        """Events queued or unacknowledged, holes excepted."""
        return sum(e.item.count for q in (self._queued, self._sent) for e in q if isinstance(e.item, Batch))

    @property
    def oldest_put_at(self) -> float | None:
        """When the event at the head of the queue was put, in monotonic seconds."""
        return self._queued[0].put_at if self._queued else None

    def has_room(self) -> bool:
        """Whether the next batch would be taken without dropping anything."""
        if self.kept_bytes < self.max_bytes:
            return True
        return self._spill is not None and self._spill.has_room(1)

    # -- putting -------------------------------------------------------------------------------------------------

    def put(self, batch: Batch, now: float = 0.0, *, may_exceed: bool = False) -> bool:
        """Number and queue a batch; false if it, or something of lower rank, was dropped to stay within the bounds.

        An empty queue takes a batch of any size, so that no event is too large to be sent at all.

        Args:
            batch: Encoded events.
            now: Monotonic seconds; ages count from here.
            may_exceed: Take it, though it goes over the bound, because there was room before: for a publisher that
                waited for room and cannot know how large its batch will be.
        """
        size = len(batch.data)
        kept = self.queued_bytes + self.sent_bytes - self._sent_gap_bytes
        if batch.priority:
            self._has_priorities = True
        if not kept or may_exceed or kept + size <= self.max_bytes:
            self._append(batch, size, now)
            return True
        if self._spill is not None and self._spill.has_room(size):
            token = self._spill.put(batch.data)
            if token is not None:
                self._append(batch, size, now, spilled=token)
                return True
        if self.overflow == "drop_oldest" or self._has_priorities:
            return self._make_room(batch, size, now)
        self._append_hole(batch, "queue_full")
        return False

    def lose(self, batch: Batch, cause: DropCause) -> None:
        """Number a batch that is not kept: it leaves a hole."""
        self._append_hole(batch, cause)

    def _append(self, batch: Batch, size: int, now: float, spilled: int = -1) -> None:
        first = self.next_sequence
        self.next_sequence = first + batch.count
        if spilled >= 0:
            self.spilled_bytes += size
            batch = msgspec.structs.replace(batch, data=b"")
        else:
            self.queued_bytes += size
        self._queued.append(_Entry(first, self.next_sequence, batch, size, now, spilled))

    def _append_hole(self, batch: Batch, cause: DropCause) -> None:
        self.count_drop(batch.topics, cause)
        first = self.next_sequence
        self.next_sequence = first + batch.count
        last = self._queued[-1] if self._queued else None
        if last is not None and isinstance(last.item, Hole) and last.item.reason == cause:
            last.after = self.next_sequence
            _widen(last.item, batch.count, batch.topics)
            return
        self._queued.append(_Entry(first, self.next_sequence, Hole(batch.count, dict(batch.topics), cause), 0, 0.0))
        self._holes_queued += 1

    def _make_room(self, batch: Batch, size: int, now: float) -> bool:
        """Drop what ranks lowest, the oldest of it first, or the newcomer itself if nothing ranks lower."""
        oldest_first = self.overflow == "drop_oldest"
        while self.kept_bytes and self.kept_bytes + size > self.max_bytes:
            at = self._victim(batch.priority, oldest_first=oldest_first)
            if at is None:
                self._append_hole(batch, "queue_full" if not self._has_priorities else "shed")
                return False
            entry = self._queued[at]
            self._to_hole(entry, "queue_full" if not self._has_priorities else "shed")
        self._compact_if_due()
        self._append(batch, size, now)
        return False

    def _victim(self, priority: int, *, oldest_first: bool) -> int | None:
        best, best_rank = None, priority + (1 if oldest_first else 0)
        for at, entry in enumerate(self._queued):
            if isinstance(entry.item, Batch) and entry.spilled < 0 and entry.item.priority < best_rank:
                best, best_rank = at, entry.item.priority
                if not self._has_priorities:
                    break
        return best

    # -- sending -------------------------------------------------------------------------------------------------

    def next_size(self) -> int:
        """Bytes of credit that what `take` would return needs. Only if `has_queued`."""
        return self._queued[0].size or limits.GAP_CREDIT_BYTES

    def take(self) -> tuple[int, Item]:
        """Take what is to be sent next, with its first number; it counts as sent. Only if `has_queued`."""
        entry = self._queued.popleft()
        item = entry.item
        if isinstance(item, Hole):
            self._holes_queued -= 1
            while self._queued and isinstance(joined := self._queued[0].item, Hole) and joined.reason == item.reason:
                entry.after = self._queued.popleft().after
                self._holes_queued -= 1
                _widen(item, joined.count, joined.topics)
            entry.size = limits.GAP_CREDIT_BYTES
            self._sent_gap_bytes += entry.size
        elif entry.spilled >= 0:
            item = entry.item = self._unspill(entry, item)
        else:
            self.queued_bytes -= entry.size
        self.sent_bytes += entry.size
        self.sent_sequence = entry.after
        self._sent.append(entry)
        return entry.first, item

    def _unspill(self, entry: _Entry, batch: Batch) -> Batch:
        if self._spill is None:
            raise AssertionError("what was spilled can be read back")
        data = self._spill.get(entry.spilled)
        self._spill.discard(entry.spilled)
        self.spilled_bytes -= entry.size
        entry.spilled = -1
        return msgspec.structs.replace(batch, data=data)

    def acknowledge(self, taken: int) -> bool:
        """The peer took everything before number `taken` (cumulative). False if that is more than was sent."""
        if taken > self.sent_sequence:
            return False
        sent = self._sent
        while sent and sent[0].after <= taken:
            entry = sent.popleft()
            self.sent_bytes -= entry.size
            if isinstance(entry.item, Batch):
                self.acknowledged += entry.item.count
            elif entry.in_doubt:
                self._void(entry.item)
            else:
                self._sent_gap_bytes -= entry.size
        return True

    # -- what happens to the peer --------------------------------------------------------------------------------

    def channel_lost(self) -> None:
        """The channel is gone: a reliable flow keeps everything, another what was sent, in doubt."""
        if self.is_reliable:
            return
        for entry in self._queued:
            self._to_hole(entry, "peer_lost")
        self._compact()

    def resumed(self, received: int) -> bool:
        """The peer is back and says what it had received: the rest is sent again, or was lost.

        What it received stays unacknowledged until it was taken there: else nobody would hear of it if the peer died
        with it.

        Returns:
            False if its word contradicts ours.
        """
        if not self.acknowledged_sequence <= received <= self.sent_sequence:
            return False
        if any(entry.first < received < entry.after and not entry.in_doubt for entry in self._sent):
            return False  # a batch, or a gap, comes whole or not at all
        self._unsend(received)
        if not self.is_reliable:
            for entry in self._queued:
                if entry.first >= self.sent_sequence:
                    break
                self._to_hole(entry, "lost_in_transit")
        self.sent_sequence = received
        self._compact()
        return True

    def _unsend(self, received: int) -> None:
        """What was sent and not received is back at the head of the queue."""
        while self._sent and self._sent[-1].after > received:
            entry = self._sent.pop()
            if entry.first < received:
                self._sent.append(_split(entry, received))
            self.sent_bytes -= entry.size
            if isinstance(entry.item, Hole):
                self._holes_queued += 1
                self._sent_gap_bytes -= entry.size
                entry.size = 0
                entry.in_doubt = False
            else:
                self.queued_bytes += entry.size
            self._queued.appendleft(entry)

    def _void(self, hole: Hole) -> None:
        """The peer had received what was given up in doubt, and took it: it was delivered after all."""
        self.acknowledged += hole.count
        self._count_less(hole)

    def _count_less(self, hole: Hole) -> Counter[str]:
        """Take a hole's events out of the account; returns them by topic, a guess where that is not known any more."""
        counted = self.dropped[hole.reason]
        topics = Counter(hole.topics)
        if topics.total() != hole.count:
            topics = Counter()
            for topic, count in counted.items():
                topics[topic] = min(count, hole.count - topics.total())
        counted.subtract(topics)
        return topics

    def give_up(self, cause: DropCause) -> None:
        """Keep nothing: what the peer has not acknowledged becomes holes, under its numbers.

        What was sent stays where it is: the peer may say one day how far it had got.
        """
        for entry in self._queued:
            self._to_hole(entry, cause)
        for entry in self._sent:
            if isinstance(entry.item, Batch):
                self.sent_bytes -= entry.size
                self.count_drop(entry.item.topics, cause)
                entry.item, entry.size = Hole(entry.item.count, dict(entry.item.topics), cause), 0
                entry.in_doubt = True
        self._compact()
        if len(self._queued) > _COMPACT_AT:
            self._compact(join_as=cause)
        if len(self._sent) > _COMPACT_AT:
            self._sent = _joined_doubts(self._sent)

    def restarted(self) -> None:
        """The peer is another incarnation: what the old one did not acknowledge are holes before the new numbers."""
        self.give_up("unacknowledged")
        self._unsend(self.acknowledged_sequence)
        self._compact()
        if len(self._queued) > _COMPACT_AT:
            self._compact(join_as="unacknowledged")
        self.next_sequence = self.sent_sequence = 0
        for entry in self._queued:
            entry.first, self.next_sequence = self.next_sequence, self.next_sequence + entry.item.count
            entry.after = self.next_sequence

    def expire(self, before: float) -> None:
        """Drop what was put before this time (monotonic seconds) and has not been sent."""
        if not self._queued or (self._queued[0].put_at >= before and not self._holes_queued):
            return
        for entry in self._queued:
            if isinstance(entry.item, Batch):
                if entry.put_at >= before:
                    break
                self._to_hole(entry, "expired")
        self._compact_if_due()

    # -- holes ---------------------------------------------------------------------------------------------------

    def count_drop(self, topics: Mapping[str, int], cause: DropCause) -> None:
        """Count events as dropped."""
        self.dropped.setdefault(cause, Counter()).update(topics)

    def _to_hole(self, entry: _Entry, cause: DropCause) -> None:
        """A queued entry becomes a hole, if it is not one."""
        batch = entry.item
        if not isinstance(batch, Batch):
            return
        if entry.spilled >= 0 and self._spill is not None:
            self._spill.discard(entry.spilled)
            self.spilled_bytes -= entry.size
            entry.spilled = -1
        else:
            self.queued_bytes -= entry.size
        self.count_drop(batch.topics, cause)
        entry.item = Hole(batch.count, dict(batch.topics), cause)
        entry.size = 0
        self._holes_queued += 1

    def _compact_if_due(self) -> None:
        if self._holes_queued > _COMPACT_AT:
            self._compact()

    def _compact(self, *, join_as: DropCause = "") -> None:
        """Join holes that stand next to each other; with `join_as`, of different reasons too, for that one.

        The account goes with what the peer is told: one reason for all.
        """
        joined: deque[_Entry] = deque()
        for entry in self._queued:
            item = entry.item
            last = joined[-1] if joined else None
            before = last.item if last is not None else None
            if join_as and isinstance(item, Hole) and item.reason != join_as:
                self.count_drop(self._count_less(item), join_as)
                item.reason = join_as
            if isinstance(item, Hole) and isinstance(before, Hole) and before.reason == item.reason:
                _widen(before, item.count, item.topics)
                joined[-1].after = entry.after
            else:
                joined.append(entry)
        self._queued = joined
        self._holes_queued = sum(isinstance(entry.item, Hole) for entry in joined)


def _split(entry: _Entry, at: int) -> _Entry:
    """Part a joined hole in two: returns the first half, leaves the second. Which topics are in which is unknown."""
    if not isinstance(entry.item, Hole):
        raise AssertionError("a batch is not parted")
    head = Hole(at - entry.first, {}, entry.item.reason)
    first = entry.first
    entry.item, entry.first = Hole(entry.after - at, {}, entry.item.reason), at
    return _Entry(first, at, head, 0, entry.put_at, in_doubt=True)


def _joined_doubts(sent: deque[_Entry]) -> deque[_Entry]:
    """Join holes in doubt that stand next to each other."""
    joined: deque[_Entry] = deque()
    for entry in sent:
        last = joined[-1] if joined else None
        if last is not None and entry.in_doubt and last.in_doubt:
            hole, more = last.item, entry.item
            if isinstance(hole, Hole) and isinstance(more, Hole) and hole.reason == more.reason:
                _widen(hole, more.count, more.topics)
                last.after = entry.after
                continue
        joined.append(entry)
    return joined


def _widen(hole: Hole, count: int, topics: Mapping[str, int]) -> None:
    hole.count += count
    for topic, number in topics.items():
        hole.topics[topic] = hole.topics.get(topic, 0) + number
