"""What one peer is owed: a flow for each delivery class kept in memory, under one credit.

The peer's credit (`Greeting.window_bytes`) is shared by all classes, so that neither 0MQ's nor the kernel's queues fill
behind our back; each class has a bound of its own in bytes. `flow` says how numbers, holes and lost connections work;
durable events are kept on disk and come from there (`rapini.storage`). Sans-IO.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from rapini.events.delivery import Delivery
from rapini.session.flow import Batch, DropCause, Hole, Item, Overflow, SendFlow, Spill

__all__ = ["Batch", "DropCause", "Hole", "Item", "Outbox", "Overflow"]


class Outbox:
    """Batches for one peer in one session. Thread: the owner's.

    Args:
        max_bytes: Bound on the bytes that each class keeps, queued and unacknowledged ones together.
        overflow: What the best-effort class does when it is full.
        reliable_overflow: The same for the reliable class.
        spill: Where the reliable class spills to.
    """

    def __init__(
        self,
        max_bytes: int,
        *,
        overflow: Overflow = "drop_newest",
        reliable_overflow: Overflow = "block",
        spill: Spill | None = None,
    ) -> None:
        self.max_bytes = max_bytes
        self.window_bytes = 0
        """The peer's credit in bytes; set from its greeting."""
        self.best_effort = SendFlow(max_bytes, overflow=overflow)
        self.reliable = SendFlow(max_bytes, is_reliable=True, overflow=reliable_overflow, spill=spill)
        self.flows = (self.best_effort, self.reliable)
        """By delivery class."""
        self.durable_bytes = 0
        """Bytes of durable events under way, which share the credit."""

    @property
    def kept_bytes(self) -> int:
        """Bytes in memory, queued and unacknowledged."""
        return self.best_effort.kept_bytes + self.reliable.kept_bytes

    @property
    def in_flight_bytes(self) -> int:
        """Bytes sent and unacknowledged."""
        return self.best_effort.sent_bytes + self.reliable.sent_bytes + self.durable_bytes

    @property
    def is_idle(self) -> bool:
        """Whether everything was acknowledged or dropped."""
        return self.best_effort.is_idle and self.reliable.is_idle

    @property
    def pending_events(self) -> int:
        """Events queued or unacknowledged."""
        return sum(flow.pending_events for flow in self.flows)

    @property
    def acknowledged(self) -> int:
        """Events that the peer has taken, durable ones excepted."""
        return self.best_effort.acknowledged + self.reliable.acknowledged

    @property
    def dropped(self) -> dict[DropCause, Counter[str]]:
        """Events that were not delivered, by cause and topic: a copy."""
        total: dict[DropCause, Counter[str]] = {}
        for flow in self.flows:
            for cause, topics in flow.dropped.items():
                if counted := +topics:
                    total.setdefault(cause, Counter()).update(counted)
        return total

    def put(self, batch: Batch, delivery: Delivery, now: float, *, may_exceed: bool = False) -> bool:
        """Queue a batch; see `SendFlow.put`."""
        return self.flows[delivery].put(batch, now, may_exceed=may_exceed)

    def lose(self, batch: Batch, delivery: Delivery, cause: DropCause) -> None:
        """A batch that is not kept: it leaves a hole."""
        self.flows[delivery].lose(batch, cause)

    def count_drop(self, topics: Mapping[str, int], delivery: Delivery, cause: DropCause) -> None:
        """Count events as dropped that have no number and will have none: the session is over."""
        self.flows[delivery].count_drop(topics, cause)

    def sendable(self) -> Iterator[tuple[Delivery, int, Item]]:
        """Take what the credit allows, as (class, first number, batch or hole); each one yielded counts as sent.

        The classes take turns; a batch larger than the credit goes alone.
        """
        reliable, best_effort = self.reliable, self.best_effort
        turn = reliable if reliable.has_queued else best_effort
        while turn.has_queued:
            size = turn.next_size()
            in_flight = self.in_flight_bytes
            if in_flight and in_flight + size > self.window_bytes:
                return
            first, item = turn.take()
            yield (Delivery.RELIABLE if turn is reliable else Delivery.BEST_EFFORT), first, item
            other = best_effort if turn is reliable else reliable
            if other.has_queued:
                turn = other

    def acknowledge(self, taken: Sequence[int]) -> bool:
        """The peer took everything before these numbers, by class. False if that is more than was sent."""
        return all(flow.acknowledge(number) for flow, number in zip(self.flows, taken, strict=False))

    def channel_lost(self) -> None:
        """The channel is gone; see `SendFlow.channel_lost`."""
        self.durable_bytes = 0
        for flow in self.flows:
            flow.channel_lost()

    def resumed(self, received: Sequence[int]) -> bool:
        """The same incarnation is back and says what it had received, by class. False if that contradicts us."""
        numbers = [*received, *([0] * len(self.flows))]
        return all(flow.resumed(number) for flow, number in zip(self.flows, numbers, strict=False))

    def give_up(self, cause: DropCause) -> None:
        """Keep nothing; see `SendFlow.give_up`."""
        self.durable_bytes = 0
        for flow in self.flows:
            flow.give_up(cause)

    def session_restarted(self) -> None:
        """The peer is another incarnation: a new session, numbered from 0 (the account goes on)."""
        self.durable_bytes = 0
        for flow in self.flows:
            flow.restarted()
