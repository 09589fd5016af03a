"""The books of durable events: what each number of a stream stands for, for ever, and who was given it.

From outside: what was appended and found again, what the spool said was on the disk, what applications took and
committed. What was said to be on the disk is there after any crash; a number is one event for ever; a receiver takes
numbers in order, each once in one incarnation, and over all of them each once if it commits its positions with its
output; and in the end it has all that it was owed, but for what the spool had to drop, which it was told.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

from rapini.codec import Codec, EncodedRun, join_runs
from rapini.node.inbox import EventRun, ReceivedBatch
from rapini.node.status import Gap
from rapini.storage import Spool
from rapini.testing.simulation.events import SimEvent, SimLog
from rapini.testing.simulation.process import Process
from rapini.testing.simulation.violation import Violation

__all__ = ["StreamBook", "StreamBooks"]

Identity = tuple[str, int, int, str]
"""Origin, run, number and topic of an event."""


@dataclass(slots=True)
class Reader:
    """One subscriber of a stream, over all its incarnations."""

    owed_from: int | None = None
    """The first number that it is owed; `None` when nothing is."""
    prefixes: tuple[str, ...] = ()
    had: set[int] = field(default_factory=set)
    """Numbers that its application was given."""
    missed: set[int] = field(default_factory=set)
    """Numbers in gaps that it was told."""
    next: dict[int, int] = field(default_factory=dict)
    """By incarnation: everything before this number has come, or was told as a gap."""


@dataclass(slots=True)
class StreamBook:
    """One stream."""

    owner: str
    events: dict[int, Identity] = field(default_factory=dict)
    reported: int = 0
    """Everything before it is on the disk, said the spool."""
    oldest: int = 0
    """Everything before it was dropped, though it was owed to somebody, or its lease was over."""
    readers: dict[str, Reader] = field(default_factory=dict)

    def reader(self, name: str) -> Reader:
        """A subscriber's page."""
        return self.readers.setdefault(name, Reader())


class StreamBooks:
    """The books of all streams."""

    def __init__(self) -> None:
        self.delivered = 0
        self.streams: dict[bytes, StreamBook] = {}
        self.gaps: Counter[str] = Counter()
        self.recovered = 0
        """Spools found again with events in them."""
        self._codec = Codec()

    # -- the publisher -------------------------------------------------------------------------------------------

    def opened(self, process: Process, spool: Spool) -> None:
        """A spool was found or made."""
        if spool.damages():
            raise Violation("nothing is damaged by losing power", f"{process.name}: {spool.damages()}")
        for stream_id, book in self.streams.items():
            if book.owner == process.name and book.reported and stream_id != spool.stream_id:
                raise Violation("a stream keeps its id", f"{process.name}: {spool.stream_id.hex()}")
        book = self.streams.setdefault(spool.stream_id, StreamBook(process.name))
        if spool.next_sequence < book.reported:
            detail = f"{process.name} had reported {book.reported} events, and finds {spool.next_sequence}"
            raise Violation("what was reported to be on disk is there", detail)
        book.reported = spool.next_sequence  # what was found is made durable before it is believed
        self.recovered += bool(book.events)
        for number in [number for number in book.events if number >= spool.next_sequence]:
            del book.events[number]
        kept = spool.consumers()
        for name, reader in book.readers.items():
            if reader.owed_from is not None and name not in kept:
                raise Violation("a subscriber is not forgotten", f"{process.name} forgot {name}")

    def stored(self, process: Process, spool: Spool, run: EncodedRun) -> None:
        """A run was appended."""
        book = self.streams[spool.stream_id]
        first = spool.next_sequence - run.count
        for decoded in self._codec.decode_batch_untrusted(join_runs((run,))):
            for number, event in enumerate(decoded.events, first):
                if isinstance(event, (SimEvent, SimLog)):
                    if number in book.events:
                        raise Violation("a number is one event for ever", f"{process.name} gives {number} twice")
                    book.events[number] = (event.origin, event.run, event.number, decoded.topic)

    def synced(self, spool: Spool) -> None:
        """It says that all of it is on the disk."""
        book = self.streams[spool.stream_id]
        book.reported = max(book.reported, spool.synced_sequence)

    def not_wanted(self, process: Process, spool: Spool, topic: str) -> None:
        """Events on a topic are not stored."""
        for name, reader in self.streams[spool.stream_id].readers.items():
            if reader.owed_from is not None and topic.startswith(reader.prefixes):
                raise Violation("a subscriber is owed from its first subscription", f"{process.name}: {name}, {topic}")

    def owes(self, spool: Spool, name: str, prefixes: tuple[str, ...], position: int) -> None:
        """A subscriber is served."""
        reader = self.streams[spool.stream_id].reader(name)
        if reader.owed_from is None:
            reader.owed_from = position
        reader.prefixes = prefixes

    def owed(self, spool: Spool, names: set[str]) -> None:
        """Leases may have ended."""
        book = self.streams[spool.stream_id]
        for name, reader in book.readers.items():
            if reader.owed_from is not None and name not in names:
                reader.owed_from = None
                book.oldest = spool.next_sequence

    def dropped(self, spool: Spool) -> None:
        """The spool was full, and the oldest were dropped."""
        book = self.streams[spool.stream_id]
        book.oldest = max(book.oldest, spool.oldest_sequence)

    # -- the receiver --------------------------------------------------------------------------------------------

    def received(self, process: Process, batch: ReceivedBatch) -> None:
        """Durable events, or a gap, have come."""
        book = self.streams.get(batch.stream_id)
        if book is None or book.owner != batch.peer:
            raise Violation("streams are who they say", f"{process.name}: {batch.peer} {batch.stream_id.hex()}")
        if batch.first_sequence + batch.count > book.reported:
            last = batch.first_sequence + batch.count - 1
            detail = f"{batch.peer} sent number {last}, on its disk is {book.reported - 1}"
            raise Violation("only what is on the disk is sent", detail)

    def taken(self, process: Process, batch: ReceivedBatch, item: list[EventRun] | Gap) -> None:
        """The application is given durable events, or the gap in their place."""
        book = self.streams[batch.stream_id]
        reader = book.reader(process.name)
        least = reader.next.get(process.run, 0)
        if isinstance(item, list):
            for run in item:
                for number, event in enumerate(run.events, run.first_sequence):
                    if number < least:
                        detail = f"{process.name} is given number {number} of {batch.peer} after {least - 1}"
                        raise Violation("durable events come in order, and once", detail)
                    least = number + 1
                    self._given(process, book, reader, number, event, run.origin.topic)
        else:
            self._told(process, book, reader, item, batch, least)
        reader.next[process.run] = max(least, batch.first_sequence + batch.count)

    def _given(
        self, process: Process, book: StreamBook, reader: Reader, number: int, event: object, topic: str
    ) -> None:
        if not isinstance(event, (SimEvent, SimLog)):
            raise Violation("events arrive as they were", f"{process.name}: {event!r}")
        identity = event.origin, event.run, event.number, topic
        if book.events.get(number) != identity:
            detail = f"{process.name}: number {number} is {book.events.get(number)}, and {identity} came"
            raise Violation("a number is one event for ever", detail)
        reader.had.add(number)
        self.delivered += 1

    def _told(
        self, process: Process, book: StreamBook, reader: Reader, gap: Gap, batch: ReceivedBatch, least: int
    ) -> None:
        self.gaps[f"durable {gap.reason}"] += 1
        if gap.reason != "trimmed" or gap.first >= book.oldest:
            raise Violation("a durable gap is what the spool had to drop", f"{process.name}: {gap}, {book.oldest}")
        told = range(gap.first + batch.known, gap.last + 1)
        if told.start < least:
            raise Violation("no gap for what was delivered", f"{process.name}: {gap} after {least - 1}")
        reader.missed.update(told)

    def committed(self, process: Process) -> None:
        """A receiver has committed: its output has each number once, in order."""
        for stream_id, numbers in process.node.output.committed.items():
            tail = numbers[-200:]
            if any(one >= other for one, other in pairwise(tail)):
                owner = self.streams[stream_id].owner
                raise Violation("exactly once with a checkpoint", f"{process.name}: of {owner}, {tail}")

    # -- the end -------------------------------------------------------------------------------------------------

    def missing(self, spool: Spool, receiver: Process) -> list[int]:
        """What a subscriber was owed and has not had."""
        book = self.streams[spool.stream_id]
        reader = book.readers.get(receiver.name)
        if reader is None or reader.owed_from is None or receiver.node.plan.resubscribes_every_s:
            return []
        had = reader.had
        if receiver.node.plan.is_checkpointed:
            had = set(receiver.node.output.committed.get(spool.stream_id, ()))
        return [
            number
            for number, (*_, topic) in book.events.items()
            if number >= reader.owed_from
            and topic.startswith(reader.prefixes)
            and number not in had
            and number not in reader.missed
        ]

    def check_settled(self, spool: Spool, receiver: Process) -> None:
        """All is quiet: a subscriber has everything, once."""
        if missing := self.missing(spool, receiver):
            owner = self.streams[spool.stream_id].owner
            detail = f"{receiver.name} has not had {len(missing)} events of {owner}, from number {missing[0]} on"
            raise Violation("no durable event is lost", detail)
        output = receiver.node.output.committed.get(spool.stream_id, [])
        if len(set(output)) != len(output):
            raise Violation("exactly once with a checkpoint", f"{receiver.name}: {output}")
