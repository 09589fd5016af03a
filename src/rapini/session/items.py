"""What stands in a flow's queue: batches, and the holes where events are not kept; see `flow`. Sans-IO."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import msgspec

__all__ = ["Batch", "DropCause", "Entry", "Hole", "Item", "joined_doubts", "split", "widen"]

DropCause = str
"""`queue_full`, `shed`, `expired`, `peer_lost`, `lost_in_transit`, `unacknowledged`, `lease_expired`,
`peer_left` or `closing`."""


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


class Entry(msgspec.Struct):
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


def split(entry: Entry, at: int) -> Entry:
    """Part a joined hole in two: returns the first part, leaves the second. Which topics are in which is unknown."""
    if not isinstance(entry.item, Hole):
        raise AssertionError("a batch is not parted")
    head = Hole(at - entry.first, {}, entry.item.reason)
    first = entry.first
    entry.item, entry.first = Hole(entry.after - at, {}, entry.item.reason), at
    return Entry(first, at, head, 0, entry.put_at, in_doubt=True)


def joined_doubts(sent: deque[Entry]) -> deque[Entry]:
    """Join holes in doubt that stand next to each other."""
    joined: deque[Entry] = deque()
    for entry in sent:
        last = joined[-1] if joined else None
        if last is not None and entry.in_doubt and last.in_doubt:
            hole, more = last.item, entry.item
            if isinstance(hole, Hole) and isinstance(more, Hole) and hole.reason == more.reason:
                widen(hole, more.count, more.topics)
                last.after = entry.after
                continue
        joined.append(entry)
    return joined


def widen(hole: Hole, count: int, topics: Mapping[str, int]) -> None:
    """Join more events to a hole."""
    hole.count += count
    for topic, number in topics.items():
        hole.topics[topic] = hole.topics.get(topic, 0) + number
