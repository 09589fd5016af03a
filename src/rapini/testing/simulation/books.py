"""The books of best-effort and reliable events: what each number of a session stands for, and where it ended.

One `FlowBook` for each class between two incarnations. When the sender numbers an event, before it keeps or drops it,
the book notes which event that is; at the receiver each batch and each gap is then held against it: numbers continue
without a jump, each is delivered or in one gap and never both, a number brings its own event, a gap names the topics of
its events, and gives a reason that its class allows. So order, completeness, `nothing twice` and the truth of gaps are
one comparison.

Numbers below `base` were owed to the receiver's former incarnation, whose word on what it had is not known here: of
them only the count is checked.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from rapini.codec import Codec
from rapini.events.delivery import Delivery
from rapini.node.inbox import EventRun, ReceivedBatch
from rapini.node.sessions import Session
from rapini.node.status import Gap
from rapini.session.outbox import Batch
from rapini.testing.simulation.events import SimEvent, SimLog
from rapini.testing.simulation.process import Process
from rapini.testing.simulation.violation import Violation

__all__ = ["FlowBook", "FlowBooks", "Incarnations"]

_CLASSES: Final = (Delivery.BEST_EFFORT, Delivery.RELIABLE)
_REASONS: Final = {
    Delivery.BEST_EFFORT: frozenset(
        {
            "queue_full", "shed", "expired", "peer_lost", "lost_in_transit", "unacknowledged", "lease_expired",
            "peer_left",
        }
    ),
    Delivery.RELIABLE: frozenset({"queue_full", "shed", "expired", "lease_expired", "peer_left"}),
}  # fmt: skip
"""Why numbers of this session may be in a gap. Only what was owed to a former incarnation is `unacknowledged`."""

Run = tuple[str, int]
"""A node's name and which start of it."""


class Incarnations:
    """Who is who: incarnations to runs."""

    def __init__(self) -> None:
        self._runs: dict[bytes, Run] = {}

    def add(self, process: Process) -> None:
        """A new one."""
        if process.incarnation in self._runs:
            raise Violation("incarnations differ", f"{process.name} run {process.run} has another's")
        self._runs[process.incarnation] = (process.name, process.run)

    def of_peer(self, process: Process, peer: str) -> Run:
        """The run that a process has its session with."""
        return self._runs[process.core.peers.sessions[peer].incarnation]


@dataclass(slots=True)
class FlowBook:
    """One class from one incarnation to another."""

    base: int = 0
    """The first number that was given for this receiver."""
    events: list[tuple[int, str]] = field(default_factory=list)
    """The event's own number and its topic, from `base` on."""
    received: int = 0
    """Number after the last one that came."""
    taken: int = 0
    """Number after the last one that the application took."""
    delivered: int = 0
    gaps: Counter[str] = field(default_factory=Counter)
    """Numbers in gaps that were received, by reason."""
    former: int = 0
    """Events that were numbered for it in sessions that it never heard of."""
    is_first: bool = True
    """Whether the sender's session with this name began with it."""

    @property
    def end(self) -> int:
        """The next number."""
        return self.base + len(self.events)

    def between(self, first: int, after: int) -> list[tuple[int, str]]:
        """Events with these numbers."""
        return self.events[max(0, first - self.base) : max(0, after - self.base)]


class FlowBooks:
    """All flow books of a run.

    Args:
        incarnations: Who is who.
    """

    def __init__(self, incarnations: Incarnations) -> None:
        self.delivered = 0
        self.gaps: Counter[str] = Counter()
        """Gaps that were told, by class and reason."""
        self.policies: dict[str, tuple[str, str]] = {}
        """Overflow policies of each node, by class."""
        self._incarnations = incarnations
        self._books: dict[tuple[Run, Run, Delivery], FlowBook] = {}
        self._codec = Codec()
        self._decoded: tuple[Batch | None, list[tuple[int, str]]] = (None, [])

    def book(self, sender: Run, receiver: Run, delivery: Delivery) -> FlowBook:
        """The book of one class from one incarnation to another."""
        found = self._books.get((sender, receiver, delivery))
        if found is None:
            found = self._books[sender, receiver, delivery] = FlowBook()
        return found

    # -- the sender ----------------------------------------------------------------------------------------------

    def owed(self, process: Process, session: Session, delivery: Delivery, batch: Batch) -> None:
        """A batch gets its numbers."""
        receiver = self._incarnations.of_peer(process, session.name)
        book = self.book((process.name, process.run), receiver, delivery)
        flow = session.outbox.flows[delivery]
        if flow.next_sequence != book.end:
            detail = f"{process.name} gives {session.name} number {flow.next_sequence} next, and gave {book.end - 1}"
            raise Violation("numbers go on", detail)
        if batch is not self._decoded[0]:
            self._decoded = batch, self._events_of(process, batch)
        book.events += self._decoded[1]
        if sum(batch.topics.values()) != batch.count or len(self._decoded[1]) != batch.count:
            raise Violation("batches are what they say", f"{process.name}: {batch.count} events, {batch.topics}")

    def _events_of(self, process: Process, batch: Batch) -> list[tuple[int, str]]:
        return [
            (event.number, run.topic)
            for run in self._codec.decode_batch_untrusted(batch.data, process.core.publisher.strings.pairs)
            for event in run.events
            if isinstance(event, (SimEvent, SimLog))
        ]

    def renumbered(self, process: Process, session: Session) -> None:
        """A session began anew with a receiver."""
        sender, receiver = (process.name, process.run), self._incarnations.of_peer(process, session.name)
        for delivery, flow in zip(_CLASSES, session.outbox.flows, strict=True):
            known = self._books.get((sender, receiver, delivery))
            if known is not None and known.received:
                detail = f"{process.name} forgot what {session.name} has, and both are the same"
                raise Violation("a session goes on between the same incarnations", detail)
            before = [
                book
                for (who, whom, kind), book in self._books.items()
                if (who, whom[0], kind) == (sender, receiver[0], delivery)
            ]
            last = before[-1] if before else FlowBook()
            carried = flow.next_sequence
            if not last.end - last.taken <= carried <= last.end:
                detail = (
                    f"{process.name} carries {carried} {delivery.label} events over to the new {session.name}; "
                    f"of {last.end} the old one took {last.taken}"
                )
                raise Violation("a restart loses what was not acknowledged, and no more", detail)
            known = self._books.pop((sender, receiver, delivery), None)  # of which nothing had come
            former = known.former + len(known.events) if known is not None else 0
            self._books[sender, receiver, delivery] = FlowBook(base=carried, is_first=not before, former=former)

    # -- the receiver --------------------------------------------------------------------------------------------

    def received(self, process: Process, batch: ReceivedBatch) -> None:
        """A batch, or a gap, has come."""
        sender = self._incarnations.of_peer(process, batch.peer)
        book = self.book(sender, (process.name, process.run), batch.delivery)
        after = batch.first_sequence + batch.count
        if batch.first_sequence != book.received:
            detail = f"{process.name} got number {batch.first_sequence} of {batch.peer}, after {book.received - 1}"
            raise Violation("numbers come without a jump", detail)
        if after > book.end:
            detail = f"{process.name} got number {after - 1} of {batch.peer}, which gave {book.end - 1} last"
            raise Violation("only what was numbered comes", detail)
        book.received = after
        if batch.gap is not None:
            self._check_gap(process, book, batch.gap, self.policies.get(sender[0], ("", ""))[batch.delivery])
            book.gaps[batch.gap.reason] += batch.count
            self.gaps[f"{batch.delivery.label} {batch.gap.reason}"] += 1

    def _check_gap(self, process: Process, book: FlowBook, gap: Gap, policy: str) -> None:
        if gap.last - gap.first + 1 != gap.count:
            raise Violation("gaps are what they say", f"{process.name}: {gap}")
        delivery = Delivery.RELIABLE if gap.delivery == "reliable" else Delivery.BEST_EFFORT
        own = book.between(gap.first, gap.last + 1)
        reasons = _REASONS[delivery]
        if policy == "block":  # its publisher waits, and drops nothing; nor does it where a peer is away
            reasons = reasons - {"queue_full", "shed"}
        if (own and gap.reason not in reasons) or (not own and gap.reason not in reasons | {"unacknowledged"}):
            raise Violation("a gap has a reason that its class allows", f"{process.name}: {gap}")
        topics = Counter(topic for _, topic in own)
        told = Counter(gap.topics)
        if told.total() == gap.count and topics - told:
            raise Violation("a gap names its topics", f"{process.name}: {gap} {dict(told)}, of which {dict(topics)}")

    def taken(self, process: Process, batch: ReceivedBatch, item: list[EventRun] | Gap, sender: Run) -> None:
        """The application takes a batch, or the gap in its place."""
        book = self.book(sender, (process.name, process.run), batch.delivery)
        if batch.first_sequence != book.taken:
            detail = f"{process.name} is given number {batch.first_sequence} of {batch.peer} after {book.taken - 1}"
            raise Violation("exactly once and in order", detail)
        book.taken = batch.first_sequence + batch.count
        if not isinstance(item, list):
            return
        prefixes = process.inbox.prefixes
        expected = book.between(batch.first_sequence, book.taken)
        found = []
        for run in item:
            for event in run.events:
                if not isinstance(event, (SimEvent, SimLog)) or (event.origin, event.run) != sender:
                    raise Violation("events arrive as they were", f"{process.name}: {event!r} of {sender}")
                found.append((event.number, run.origin.topic))
        if found != [pair for pair in expected if pair[1].startswith(prefixes)] or len(expected) != batch.count:
            detail = f"{process.name}: {batch.peer} numbered {expected}, and {found} came"
            raise Violation("a number brings its own event", detail)
        book.delivered += len(found)
        self.delivered += len(found)

    # -- the end -------------------------------------------------------------------------------------------------

    def total(self, sender: Run, receiver: str) -> int:
        """Events that were numbered for all incarnations of a receiver."""
        books = (book for (who, whom, _), book in self._books.items() if (who, whom[0]) == (sender, receiver))
        return sum(book.former + len(book.events) for book in books)

    def check_settled(self, sender: Process, receiver: Process) -> None:
        """All is quiet: both ends agree with the book, and every number has ended."""
        theirs, ours = sender.core.peers.sessions[receiver.name], receiver.core.peers.sessions[sender.name]
        runs = (sender.name, sender.run), (receiver.name, receiver.run)
        for delivery, flow, intake in zip(_CLASSES, theirs.outbox.flows, ours.intakes, strict=True):
            book = self.book(*runs, delivery)
            ends = flow.next_sequence, flow.sent_sequence, intake.position, intake.taken, book.received, book.taken
            if set(ends) != {book.end} or not flow.is_idle:
                detail = f"{sender.name} to {receiver.name}, {delivery.label}: {ends}, of {book.end}"
                raise Violation("every number ends delivered or in one gap", detail)
            counted = {cause: topics.total() for cause, topics in flow.dropped.items() if topics.total()}
            told = {reason: count for reason, count in book.gaps.items() if count}
            if book.is_first and counted != told:
                detail = f"{sender.name} to {receiver.name}, {delivery.label}: counted {counted}, told {told}"
                raise Violation("what the sender counts the receiver is told", detail)
        accounted = theirs.outbox.acknowledged + theirs.outbox.pending_events
        accounted += sum(topics.total() for topics in theirs.outbox.dropped.values())
        total = self.total(runs[0], receiver.name)
        if accounted != total:
            raise Violation(
                "every event ends in one account", f"{sender.name} owed {receiver.name} {total}: {accounted}"
            )
