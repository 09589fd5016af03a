"""Where received batches wait, still encoded, for the thread that consumes them.

Batches are decoded by the consumer and not by the I/O thread: so what waits is bounded in bytes by the peers' credit,
and the I/O thread stays free for heartbeats. A batch counts as *taken* when the consumer gets it; only then is it
acknowledged, which gives its sender new credit. Status reports stand between the batches, in order.
"""

from __future__ import annotations

import itertools
import queue
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Final, Protocol

import msgspec

from rapini.codec import Codec, DecodedRun
from rapini.errors import DecodeError, RapiniError
from rapini.events import Event
from rapini.events.delivery import Delivery
from rapini.node.counters import Counters
from rapini.node.signals import GUARD, is_main_thread
from rapini.node.status import Gap, Origin, PeerStatus
from rapini.session.seen import Seen

__all__ = ["EventRun", "Inbox", "ReceivedBatch", "deadline_after", "rest_of"]

MAX_WAITING_STATUSES: Final = 10_000
"""Status reports that wait for a consumer who never comes; later ones are counted and dropped."""


class ReceivedBatch(msgspec.Struct):
    """A batch as it came, with what is needed to account for it."""

    peer: str
    epoch: int
    generation: int
    delivery: Delivery
    first_sequence: int
    count: int
    data: bytes
    taken: Callable[[ReceivedBatch], None]
    holders: int = 0
    """Inboxes that have not taken it yet."""
    gap: Gap | None = None
    """What stands in the place of the events, if the sender could not keep them."""
    incarnation: bytes = b""
    """The sender's."""
    addressed_to: str = ""
    """The topic of an event that was sent to us alone: it is delivered though nobody subscribed."""
    fault: str = ""
    """Why an addressed event could not be delivered: a code; found before it is `taken`."""
    is_settled: bool = False
    """Whether its sender was told that it was taken."""
    is_void: bool = False
    """Whether its sender was told otherwise before it could be taken: then nobody may see it."""
    stream_id: bytes = b""
    """Of durable events: their stream."""
    start: int = 0
    """Of durable events: the position in the stream that this continues from; the one after it is `end`."""
    end: int = 0
    known: int = 0
    """Of durable events: how many of the first ones we had before."""
    strings: Sequence[tuple[str, str]] = ()
    """The sender's table of names and topics; it only grows."""
    size: int = 0
    """Bytes of its sender's credit that it holds until it is taken."""


class EventRun(msgspec.Struct, frozen=True):
    """Events of one type, topic and origin, decoded together: the cheapest way to take them."""

    events: Sequence[Event]
    origin: Origin
    stream_id: bytes = b""
    """Of durable events: the stream they belong to, for ever."""
    first_sequence: int = -1
    """The first one's number: of durable events in their stream, of others among all events that `stream` published;
    the others follow it, but for those that did not fit their type or had come before, which are not here. -1 where
    they are not numbered."""
    stream: bytes = b""
    """The incarnation of the node that published them; empty for durable ones."""


class _End:
    """Marks that nothing follows; with an error, that it should have."""

    def __init__(self, error: RapiniError | None = None) -> None:
        self.error = error


_Item = ReceivedBatch | PeerStatus | _End


class Turns(Protocol):
    """The loop whose turns a waiting consumer takes: see `rapini.node.loop.Loop`."""

    is_in_turn: bool

    def lead(self, is_empty: Callable[[], bool], deadline: float | None) -> None:
        """Take turns while there is nothing to consume."""

    def delivered(self, count: int, *, woke: bool) -> None:
        """The present turn has brought this many events."""

    def wake(self) -> None:
        """End the wait."""


class Inbox:
    """One consumer's queue. `put*` under the node's lock, the rest on the consumer's thread (one at a time).

    Args:
        counters: The node's; decode faults are counted there.
        name: The node's: its own events may come back by way of a relay, and are not delivered.
        relays: Who may bring events of others; with nobody in it, everybody may.
    """

    def __init__(self, counters: Counters, name: str = "", relays: Collection[str] = ()) -> None:
        self.prefixes: tuple[str, ...] = ()
        """What this consumer subscribed to."""
        self.on_put: Callable[[], None] | None = None
        """Called after each put, on the putting thread: wakes an event loop."""
        self.turns: Turns | None = None
        """Where a consumer that waits takes the turns; `None`: it only waits."""
        self._is_leading = False
        self._is_waiting = False
        """Whether the consumer sleeps on the queue, and would rather lead."""
        self._counters = counters
        self._codec = Codec()
        self._name = name
        self._relays = frozenset(relays)
        self._seen = Seen()
        self._queue: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._origins: dict[tuple[str, str, int, str, int], Origin] = {}
        # Two counters with one writer each: the putting side has the node's lock, the consumer has none.
        self.progress: dict[bytes, int] = {}
        """Durable streams, with the position after the last event that was given to the application."""
        self._in_hand: ReceivedBatch | None = None
        self._rest: list[EventRun] = []
        """Of a batch, what its consumer was not given because it stopped."""
        self._statuses_put = 0
        self._statuses_got = 0
        self._ended = False
        self._error: RapiniError | None = None
        self._held: ReceivedBatch | None = None

    def hold(self, batch: ReceivedBatch) -> None:
        """Add a batch at the next `release()`, or before whatever else is put.

        A consumer that is woken needs the interpreter, and would wait for it while the I/O thread finishes its turn.
        """
        if self._held is not None:
            self.release()
        self._held = batch

    def release(self) -> None:
        """Add what is held. After this the putting thread should soon let the interpreter go."""
        held = self._held
        if held is not None:
            self._held = None
            self.put(held)

    def put(self, batch: ReceivedBatch) -> None:
        """Add a batch."""
        self._queue.put(batch)
        turns = self.turns
        if turns is not None and (self._is_leading or self._is_waiting) and turns.is_in_turn:
            turns.delivered(batch.count, woke=self._is_waiting)
            self._is_waiting = False
        self._tell()

    def put_status(self, status: PeerStatus) -> None:
        """Add a status report, unless far too many wait unread."""
        self.release()
        # Of those that name no peer strangers can make any number; they must not crowd out the others.
        room = MAX_WAITING_STATUSES if status.peer else MAX_WAITING_STATUSES // 10
        if self._statuses_put - self._statuses_got >= room:
            self._counters.statuses_dropped += 1
            return
        self._statuses_put += 1
        self._queue.put(status)
        self._tell()

    def end(self, error: RapiniError | None = None) -> None:
        """Nothing more will be put; with an error, the consumer gets that after what is here."""
        self.release()
        self._queue.put(_End(error))
        self._tell()

    def _tell(self) -> None:
        """Something was put: whoever waits elsewhere than on the queue should look."""
        if self._is_leading and self.turns is not None and not self.turns.is_in_turn:
            self.turns.wake()
        if self.on_put is not None:
            self.on_put()

    @property
    def is_ended(self) -> bool:
        """Whether everything was consumed and nothing more will come."""
        return self._ended

    def get(self, timeout_s: float | None) -> list[EventRun] | PeerStatus | Gap | None:
        """Wait for the next batch, gap or status; `None` when the time is over or nothing more will come.

        Raises:
            LocalError: `node_failed`.
        """
        if self._rest:
            rest, self._rest = self._rest, []
            return rest
        self.finish()
        if self._ended:
            if self._error is not None:
                raise self._error
            return None
        try:
            item = self._queue.get_nowait() if timeout_s == 0 or not self._queue.empty() else self._wait(timeout_s)
        except queue.Empty:
            return None
        if isinstance(item, _End):
            self._ended, self._error = True, item.error
            if item.error is not None:
                raise item.error
            return None
        if isinstance(item, PeerStatus):
            self._statuses_got += 1
            return item
        if item.addressed_to:
            return self._take_addressed(item)
        if not item.stream_id:
            item.taken(item)
            return item.gap if item.gap is not None else self._decode(item)
        self._in_hand = item
        if item.gap is None:
            return self._decode(item)
        self.progress[item.stream_id] = item.end
        return item.gap

    def _wait(self, timeout_s: float | None) -> _Item:
        """Wait for the next item: take the loop's turns if they are to be had, else sleep until it is put.

        Raises:
            queue.Empty: The time is over.
        """
        waiting, turns = self._queue, self.turns
        if turns is None:
            return waiting.get(timeout=timeout_s)
        deadline = deadline_after(timeout_s)
        try:
            self._is_leading = True  # before the queue is looked at again, or an item could come unseen between
            turns.lead(waiting.empty, deadline)
        finally:
            self._is_leading = False
        if not waiting.empty():
            return waiting.get_nowait()
        self._is_waiting = True
        try:
            return waiting.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
        finally:
            self._is_waiting = False

    def finish(self) -> None:
        """The application is done with what it was given last. Durable events count as taken only now: what a killed
        process had in hand is sent again.
        """
        if self._in_hand is not None:
            done, self._in_hand = self._in_hand, None
            self.progress[done.stream_id] = done.end
            done.taken(done)

    def put_back(self, runs: Iterable[EventRun]) -> None:
        """A consumer stops in the middle of a batch: the next `get` returns what it was not given."""
        self._rest = [run for run in runs if run.events]

    def events_of(self, run: EventRun, events: Iterator[Event] | None = None) -> Iterator[tuple[Event, Origin]]:
        """The events of a run, noting before each durable one that it is the application's now: see `progress`.

        Args:
            run: All of them.
            events: An iterator over those of the run, for who wants to know which are left.
        """
        origin, stream_id = run.origin, run.stream_id
        for number, event in enumerate(run.events if events is None else events, run.first_sequence + 1):
            if stream_id:
                self.progress[stream_id] = number
            yield event, origin

    def items(self, timeout_s: float | None) -> Iterator[list[EventRun] | PeerStatus | Gap]:
        """Batches, gaps and status reports until the end, or until nothing comes for `timeout_s` seconds."""
        may_lead = self.turns is not None and is_main_thread()
        if may_lead:
            GUARD.retain()
        try:
            while True:
                item = self.get(timeout_s)
                if item is not None:
                    yield item
                elif self._ended or timeout_s is not None:
                    return
        finally:
            if may_lead:
                GUARD.release()

    def _take_addressed(self, batch: ReceivedBatch) -> list[EventRun]:
        """Decode first: its sender waits to hear how it went."""
        runs = self._decode(batch)
        if [len(run.events) for run in runs] != [1] or runs[0].origin.topic != batch.addressed_to:
            runs, batch.fault = [], "bad_event"
        batch.taken(batch)
        return [] if batch.is_void else runs

    def _decode(self, batch: ReceivedBatch) -> list[EventRun]:
        counters = self._counters
        try:
            runs = self._codec.decode_batch_untrusted(batch.data, batch.strings)
        except DecodeError as exc:
            counters.bad_event(batch.peer, "", "$", str(exc), batch.count)
            return []
        taken: list[EventRun] = []
        found = 0
        for run in runs:
            first = batch.first_sequence + found
            found += len(run.events)
            for bad in run.bad:
                found += bad.count
                counters.bad_event(batch.peer, run.name, bad.path, bad.detail, bad.count)
            if not batch.addressed_to and not run.topic.startswith(self.prefixes):
                continue
            origin = self._origin(batch, run)
            if batch.stream_id:
                taken += _durable_run(run, origin, batch, first)
                continue
            events, number = self._unseen(batch, run)
            if events:
                taken.append(EventRun(events, origin, b"", number, run.stream or batch.incarnation))
        if found < batch.count:
            detail = f"{batch.count} events announced, {found} found"
            counters.bad_event(batch.peer, "", "$", detail, batch.count - found)
        return taken

    def _unseen(self, batch: ReceivedBatch, run: DecodedRun) -> tuple[Sequence[Event], int]:
        """The events of a run that did not come before by another way, and the number of the first."""
        first = run.first
        if first < 0 or batch.addressed_to:
            return run.events, first
        origin = run.origin or batch.peer
        stream = run.stream or batch.incarnation
        if run.origin and self._relays and batch.peer not in self._relays:
            self._counters.repeated[batch.peer] += len(run.events)
            return (), first
        if self._seen.follows(origin, stream, first, run.count):  # nearly always; our own never gets in there
            return run.events, first
        new = [] if origin == self._name else self._seen.add(origin, stream, first, run.count)
        after = first + run.count
        if len(new) == 1 and new[0] == (first, after):
            return run.events, first
        kept = set(itertools.chain.from_iterable(itertools.starmap(range, new)))
        bad = {first + each.index for each in run.bad}
        numbers = (number for number in range(first, after) if number not in bad)
        there = [(number, event) for number, event in zip(numbers, run.events, strict=False) if number in kept]
        self._counters.repeated[batch.peer] += len(run.events) - len(there)
        return [event for _, event in there], there[0][0] if there else first

    def _origin(self, batch: ReceivedBatch, run: DecodedRun) -> Origin:
        node = run.origin or batch.peer
        key = (batch.peer, run.topic, batch.epoch, node, run.hops)
        origin = self._origins.get(key)
        if origin is None:
            if len(self._origins) > 4096:
                self._origins.clear()
            origin = self._origins[key] = Origin(
                peer=batch.peer, topic=run.topic, epoch=batch.epoch, node=node, hops=run.hops
            )
        return origin


def _durable_run(run: DecodedRun, origin: Origin, batch: ReceivedBatch, first: int) -> list[EventRun]:
    """A run with its numbers, without those events of it that we had before.

    Where an event of it is bad, the numbers of the others are not contiguous any more: then each is a run of its own.
    """
    bad = {place.index for place in run.bad}
    skip = max(0, batch.first_sequence + batch.known - first)
    if not bad:
        return [EventRun(run.events[skip:], origin, batch.stream_id, first + skip)] if skip < len(run.events) else []
    places = (index for index in range(len(run.events) + len(bad)) if index not in bad)
    numbered = zip(places, run.events, strict=False)
    return [EventRun((event,), origin, batch.stream_id, first + at) for at, event in numbered if at >= skip]


def rest_of(run: EventRun, events: Iterator[Event]) -> EventRun:
    """What is left of a run whose events were given one by one."""
    rest = tuple(events)
    first = run.first_sequence + len(run.events) - len(rest) if run.stream_id else run.first_sequence
    return msgspec.structs.replace(run, events=rest, first_sequence=first)


def deadline_after(timeout_s: float | None) -> float | None:
    """When a wait that starts now is over, in monotonic seconds."""
    return None if timeout_s is None else time.monotonic() + timeout_s
