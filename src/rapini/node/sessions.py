"""What a node keeps for each peer across its connections: the outbox, the account of what came, the subscriptions.

The wire's side of a peer is a `rapini.session.link.Link`, which ends with its connection; a `Session` outlives it. All
of it is touched under the node's lock, `taken` (called by consumers) takes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rapini import limits
from rapini.events.delivery import Delivery
from rapini.node.status import PeerInfo
from rapini.session.intake import Intake
from rapini.session.messages import Epoch, Greeting, Incarnation
from rapini.session.outbox import Outbox
from rapini.session.outcomes import EventsReceived, GapReceived
from rapini.session.roster import Relation
from rapini.session.stream import StreamIntake

if TYPE_CHECKING:
    from rapini.node.durable import Place
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
    """What the peer subscribed to; kept while it is away, so that what it misses is kept or counted."""
    is_departed: bool = False
    """It said goodbye, its lease is over, or it was never up: nothing is owed to it."""
    generation: int = 0
    """Counts the sessions with this name: numbers of an older one mean nothing to a newer."""
    intakes: tuple[Intake, Intake] = field(default_factory=lambda: (Intake(), Intake()))
    """What has come, by delivery class."""
    place: Place | None = None
    """Its place in our durable stream, while it is connected and said where it is."""
    stream: StreamIntake | None = None
    """Our place in its durable stream."""
    durable_acknowledged: int = 0
    """Durable events that it has taken, over all connections."""
    ack_is_due: bool = False
    credit_used: int = 0
    """Bytes of what came over the present channel and was not taken yet."""
    held_bytes: int = 0
    """The same over all channels so far: a peer that reconnects gets new credit while the old waits for consumers."""
    is_verified: bool = False
    """Whether its name was ever proven."""
    progress_at: float = 0.0
    """When the peer last acknowledged something, or had nothing to, in monotonic seconds."""
    lost_at: float | None = None
    """When it was lost, in monotonic seconds; its lease counts from here. `None` while it is here or has departed."""

    changed_at: float = 0.0
    """When it came up, was lost or left; monotonic seconds."""
    relation: Relation = Relation.FIRST
    """What the last link that came up was to us."""
    last_info: PeerInfo | None = None
    """The peer as it was when its last link came up, for reports while it is away."""

    @property
    def has_news(self) -> bool:
        """Whether something was taken that the peer was not told of."""
        best_effort, reliable = self.intakes
        if best_effort.taken > best_effort.told or reliable.taken > reliable.told:
            return True
        return self.stream is not None and self.stream.told != (self.stream.taken, self.stream.settled)

    @property
    def holds_something(self) -> bool:
        """Whether something that came was not taken yet."""
        best_effort, reliable = self.intakes
        if best_effort.taken < best_effort.position or reliable.taken < reliable.position:
            return True
        return self.stream is not None and self.stream.taken < self.stream.position

    @property
    def acknowledged_events(self) -> int:
        """Events that it has taken, of all classes."""
        place = self.place.acknowledged if self.place is not None else 0
        return self.outbox.acknowledged + self.durable_acknowledged + place

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
            received=[intake.position for intake in self.intakes],
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
        self.credit_used = 0
        if continues:
            for intake in self.intakes:
                intake.told = -1  # what we told last may have been lost with the connection
            return self.outbox.resumed(heard.received)
        self.outbox.session_restarted()
        self.generation += 1
        for intake in self.intakes:
            intake.restart()
        return True

    def received(self, events: EventsReceived) -> bool:
        """Account for a batch; false if it does not continue what has come so far."""
        if events.delivery >= len(self.intakes) or not self.intakes[events.delivery].receive(
            events.first_sequence, events.count
        ):
            return False
        size = len(events.batch)
        self.credit_used += size
        self.held_bytes += size
        return True

    def received_gap(self, gap: GapReceived) -> bool:
        """Account for a gap; false if it does not continue what has come so far."""
        if gap.delivery >= len(self.intakes) or not self.intakes[gap.delivery].receive(gap.first_sequence, gap.count):
            return False
        self.credit_used += limits.GAP_CREDIT_BYTES
        self.held_bytes += limits.GAP_CREDIT_BYTES
        return True

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

    def was_taken(self, generation: int, delivery: Delivery, first: int, count: int) -> None:
        """The application took a batch or a gap."""
        if generation == self.generation:
            self.intakes[delivery].take(first, count)

    def acknowledge(self, now: float) -> None:
        """Tell the peer what was taken, if there is news."""
        if self.record is not None and self.has_news:
            taken = [intake.taken for intake in self.intakes]
            for intake in self.intakes:
                intake.told = intake.taken
            if self.stream is not None:
                self.stream.told = (self.stream.taken, self.stream.settled)
                taken += self.stream.told
            self.record.link.acknowledge(taken, now)

    def came_up(self, record: LinkRecord, now: float) -> None:
        """Events may flow over this link."""
        self.record = record
        self.is_departed = False
        self.lost_at = None
        self.prefixes = record.prefixes
        self.relation = record.relation
        self.last_info = record.info()
        self.changed_at = self.progress_at = now

    def lost(self, now: float) -> None:
        """The link is gone without a goodbye."""
        self.record = None
        self.lost_at = self.changed_at = now
        self._leave_streams()
        self.outbox.channel_lost()

    def departed(self, cause: str, now: float, *, is_returning: bool = False) -> None:
        """Nothing is owed any more: the peer left, its lease is over (though it may be returning), or we leave."""
        self.record = None
        self.is_departed = True
        self.lost_at = None
        self.changed_at = now
        if not is_returning:  # else it has said already where it is in our stream
            self._leave_streams()
        self.prefixes = ()  # it is owed nothing, from here until it says anew what it wants
        self.outbox.give_up(cause)

    def _leave_streams(self) -> None:
        if self.place is not None:
            self.durable_acknowledged += self.place.acknowledged
        self.place = None
