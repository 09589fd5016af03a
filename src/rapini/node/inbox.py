"""Where received batches wait, still encoded, for the thread that consumes them.

Batches are decoded by the consumer and not by the I/O thread: so what waits is bounded in bytes by the peers' credit,
and the I/O thread stays free for heartbeats. A batch counts as *taken* when the consumer gets it; only then is it
acknowledged, which gives its sender new credit. Status reports stand between the batches, in order.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import msgspec

from rapini.codec import Codec, DecodedRun
from rapini.errors import DecodeError, RapiniError
from rapini.events import Event
from rapini.events.delivery import Delivery
from rapini.node.counters import Counters
from rapini.node.status import Gap, Origin, PeerStatus

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
    stream_id: bytes = b""
    """Of durable events: their stream."""
    start: int = 0
    """Of durable events: the position in the stream that this continues from; the one after it is `end`."""
    end: int = 0
    known: int = 0
    """Of durable events: how many of the first ones we had before."""
    size: int = 0
    """Bytes of its sender's credit that it holds until it is taken."""


class EventRun(msgspec.Struct, frozen=True):
    """Events of one type, topic and origin, decoded together: the cheapest way to take them."""

    events: Sequence[Event]
    origin: Origin
    stream_id: bytes = b""
    """Of durable events: the stream they belong to, for ever."""
    first_sequence: int = -1
    """Of durable events: the first one's number in its stream; the others follow it."""


class _End:
    """Marks that nothing follows; with an error, that it should have."""

    def __init__(self, error: RapiniError | None = None) -> None:
        self.error = error


_Item = ReceivedBatch | PeerStatus | _End


class Inbox:
    """One consumer's queue. `put*` under the node's lock, the rest on the consumer's thread (one at a time).

    Args:
        counters: The node's; decode faults are counted there.
    """

    def __init__(self, counters: Counters) -> None:
        self.prefixes: tuple[str, ...] = ()
        """What this consumer subscribed to."""
        self.on_put: Callable[[], None] | None = None
        """Called after each put, on the putting thread: wakes an event loop."""
        self._counters = counters
        self._codec = Codec()
        self._queue: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._origins: dict[tuple[str, str, int], Origin] = {}
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
        if self.on_put is not None:
            self.on_put()

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
        if self.on_put is not None:
            self.on_put()

    def end(self, error: RapiniError | None = None) -> None:
        """Nothing more will be put; with an error, the consumer gets that after what is here."""
        self.release()
        self._queue.put(_End(error))
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
            item = self._queue.get(timeout=timeout_s) if timeout_s != 0 else self._queue.get_nowait()
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
        if not item.stream_id:
            item.taken(item)
            return item.gap if item.gap is not None else self._decode(item)
        self._in_hand = item
        if item.gap is None:
            return self._decode(item)
        self.progress[item.stream_id] = item.end
        return item.gap

    def put_back(self, runs: Iterable[EventRun]) -> None:
        """A consumer stops in the middle of a batch: the next `get` returns what it was not given."""
        self._rest = [run for run in runs if run.events]

    def one_by_one(self, runs: Sequence[EventRun]) -> Iterator[tuple[Event, Origin]]:
        """The events of a batch, noting before each durable one that it is the application's now."""
        for run in runs:
            if run.stream_id:
                yield from self.durable_events(run, iter(run.events))
            else:
                for event in run.events:
                    yield event, run.origin

    def durable_events(self, run: EventRun, events: Iterator[Event]) -> Iterator[tuple[Event, Origin]]:
        """The same for a run of durable events; see `Node.checkpoint`."""
        progress, stream_id, origin = self.progress, run.stream_id, run.origin
        for number, event in enumerate(events, run.first_sequence + 1):
            progress[stream_id] = number
            yield event, origin

    def finish(self) -> None:
        """The application is done with what it was given last. Durable events count as taken only now: what a killed
        process had in hand is sent again.
        """
        if self._in_hand is not None:
            done, self._in_hand = self._in_hand, None
            self.progress[done.stream_id] = done.end
            done.taken(done)

    def items(self, timeout_s: float | None) -> Iterator[list[EventRun] | PeerStatus | Gap]:
        """Batches, gaps and status reports until the end, or until nothing comes for `timeout_s` seconds."""
        while True:
            item = self.get(timeout_s)
            if item is not None:
                yield item
            elif self._ended or timeout_s is not None:
                return

    def _decode(self, batch: ReceivedBatch) -> list[EventRun]:
        counters = self._counters
        try:
            runs = self._codec.decode_batch_untrusted(batch.data)
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
            if not run.topic.startswith(self.prefixes):
                continue
            origin = self._origin(batch.peer, run.topic, batch.epoch)
            if batch.stream_id:
                taken += _durable_run(run, origin, batch, first)
            else:
                taken.append(EventRun(run.events, origin))
        if found < batch.count:
            detail = f"{batch.count} events announced, {found} found"
            counters.bad_event(batch.peer, "", "$", detail, batch.count - found)
        return taken

    def _origin(self, peer: str, topic: str, epoch: int) -> Origin:
        origin = self._origins.get((peer, topic, epoch))
        if origin is None:
            if len(self._origins) > 4096:
                self._origins.clear()
            origin = self._origins[peer, topic, epoch] = Origin(peer=peer, topic=topic, epoch=epoch)
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
    return EventRun(rest, run.origin, run.stream_id, run.first_sequence + len(run.events) - len(rest))


def deadline_after(timeout_s: float | None) -> float | None:
    """When a wait that starts now is over, in monotonic seconds."""
    return None if timeout_s is None else time.monotonic() + timeout_s
