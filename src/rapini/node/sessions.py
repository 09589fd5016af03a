"""What a node keeps for each peer across its connections: the outbox, the account of what came, the subscriptions.

The wire's side of a peer is a `rapini.session.link.Link`, which ends with its connection; a `Session` outlives it. All
of it is touched under the node's lock, `taken` (called by consumers) takes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rapini.session.link import EventsReceived
from rapini.session.messages import Epoch, Greeting, Incarnation
from rapini.session.outbox import Outbox

if TYPE_CHECKING:
    from rapini.node.links import LinkRecord

__all__ = ["Session"]

ACK_SHARE = 4
"""An acknowledgement goes out at once when a window's fourth has been taken, else with `ACK_DELAY_S`."""

ACK_DELAY_S = 0.02

_NO_INCARNATION = Incarnation(b"")
_NO_EPOCH = Epoch(0)


@dataclass(slots=True, eq=False)
class Session:
    """One peer, across connections."""

    name: str
    outbox: Outbox
    window_bytes: int
    """Our credit to the peer."""
    incarnation: Incarnation = _NO_INCARNATION
    epoch: Epoch = _NO_EPOCH
    record: LinkRecord | None = None
    """The link on which events flow; `None` while it is away."""
    prefixes: tuple[str, ...] = ()
    """What the peer subscribed to; kept while it is away, so that what it misses is counted."""
    is_departed: bool = False
    """It said goodbye, or was never up: nothing is owed to it."""
    generation: int = 0
    """Counts the sessions with this name: numbers of an older one mean nothing to a newer."""
    position: int = 0
    """Sequence number after the last event received."""
    taken: int = 0
    """Sequence number after the last event taken by the application."""
    acknowledged: int = 0
    """What we told the peer last."""
    ack_is_due: bool = False
    credit_used: int = 0
    """Bytes of batches that came over the present channel and were not taken yet."""
    held_bytes: int = 0
    """The same over all channels so far: a peer that reconnects gets new credit while the old waits for consumers."""
    is_verified: bool = False
    """Whether its name was ever proven."""
    waiting: dict[int, int] = field(default_factory=dict)
    """Sequence numbers after batches that were taken out of order, by the number before."""
    lost_at: float = 0.0

    def greeting(self, cluster: str, node: str, role: str, incarnation: Incarnation) -> Greeting:
        """What we say to this peer: who we are and what we remember of it."""
        return Greeting(
            cluster=cluster,
            node=node,
            role=role,
            incarnation=incarnation,
            window_bytes=self.window_bytes,
            known_incarnation=self.incarnation,
            known_epoch=self.epoch,
            received_events=self.position,
        )

    def admitted(self, said: Greeting, heard: Greeting, epoch: Epoch) -> bool:
        """The peer is admitted; settle what was in doubt. False if its word contradicts what we sent.

        The session goes on if both sides remember the other's present incarnation, which both can tell from the same
        two greetings; else it is a new one for both.
        """
        continues = said.known_incarnation == heard.incarnation and heard.known_incarnation == said.incarnation
        self.outbox.window_bytes = heard.window_bytes
        self.incarnation = Incarnation(heard.incarnation)
        self.epoch = epoch
        self.is_departed = False
        self.credit_used = 0
        if continues:
            return self.outbox.resumed(heard.received_events)
        self.outbox.session_restarted()
        self.generation += 1
        self.position = self.taken = self.acknowledged = 0
        self.waiting.clear()
        return True

    def received(self, batch: EventsReceived) -> int | None:
        """Account for a batch; returns how many events are missing before it, or `None` if it goes back."""
        missing = batch.first_sequence - self.position
        if missing < 0 or batch.count <= 0:
            return None
        size = len(batch.batch)
        self.credit_used += size
        self.held_bytes += size
        if missing:
            self._take(self.position, batch.first_sequence)
        self.position = batch.first_sequence + batch.count
        return missing

    def _take(self, first: int, after: int) -> None:
        """Mark events as taken; consumers may finish out of order, the position moves in order."""
        self.waiting[first] = after
        while (next_position := self.waiting.pop(self.taken, None)) is not None:
            self.taken = next_position

    def exceeds_credit(self, size: int) -> bool:
        """Whether a batch of this size is more than the peer may send now; a single one may have any size."""
        return self.credit_used > 0 and self.credit_used + size > self.window_bytes

    def unmask(self) -> None:
        """Its name is proven for the first time: what somebody was told or said under it before is not the peer's."""
        self.is_verified = True
        self.incarnation, self.epoch = _NO_INCARNATION, _NO_EPOCH

    def released(self, epoch: int, size: int) -> None:
        """A batch waits for no consumer any more."""
        self.held_bytes -= size
        if epoch == self.epoch:
            self.credit_used -= size

    def batch_taken(self, generation: int, first: int, count: int) -> None:
        """The application took a batch."""
        if generation == self.generation:
            self._take(first, first + count)

    def acknowledge(self, now: float) -> None:
        """Tell the peer what was taken, if there is news."""
        if self.record is not None and self.taken > self.acknowledged:
            self.record.link.acknowledge(self.taken, now)
            self.acknowledged = self.taken

    def lost(self, now: float) -> None:
        """The link is gone without a goodbye."""
        self.record = None
        self.lost_at = now
        self.outbox.channel_lost()

    def departed(self, cause: str) -> None:
        """The peer left on purpose, or we do: nothing is owed any more."""
        self.record = None
        self.is_departed = True
        self.prefixes = ()  # it is owed nothing, from here until it says anew what it wants
        self.outbox.give_up(cause)
