"""From `publish()` to the peers' outboxes: batching, one encoding for all, routing by topic.

`publish()` runs on the caller's thread under the node's lock. Beside a busy Python thread a hand-over to another thread
costs milliseconds (the interpreter's lock), so the caller itself flushes when a batch is full or old enough, and the
I/O thread only when the caller falls silent. The batching window is 0 when idle: an event that finds no batch waiting
and the last one gone for long enough is sent at once. It grows with the batches' size to `max_batch_delay_s` under load
and falls back when the load does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from rapini.codec import Codec, EncodedRun, StringTable, join_runs
from rapini.errors import EventError, LocalError, PeerTimeoutError, RapiniError, StoreError
from rapini.events import Event, check_topic
from rapini.events.delivery import Delivery
from rapini.node.consequences import Consequences
from rapini.node.counters import Counters
from rapini.node.distribution import Distribution, Routed
from rapini.node.durable import DurableStream
from rapini.node.runs import Addressed, Treatments, runs_of
from rapini.node.sessions import Session
from rapini.node.settings import NodeSettings
from rapini.node.status import PublishOutcome
from rapini.session.outbox import Batch

__all__ = ["Publisher"]

_log = logging.getLogger("rapini.node")

_FIRST_WINDOW_S: Final = 0.0002
"""Events closer together than this share a batch; at up to 5,000 events/s each goes at once."""
_ACCEPTED: Final = PublishOutcome.ACCEPTED
_LOOK_AGAIN_S: Final = 0.005
"""How soon the I/O thread looks again for room that publishers wait for."""

_MAX_CACHED: Final = 65_536
_BUSY_BATCH: Final = 8
"""A batch of this many events in one window means load: the window doubles; a smaller one halves it."""


class Publisher(Distribution):
    """Collects events into runs and sends them. Everything under the node's lock.

    Args:
        settings: Batch size and delay, overflow policy, development mode.
        counters: Where every event is accounted for.
        lock: The node's.
        sessions: All sessions, by name; routes are made from them.
        pump: Sends what a session's credit allows.
        wake: Wakes the I/O thread to flush at `flush_at`.
        clock: Monotonic seconds.
        on_strings: Called when the table of names and topics has grown, before a run uses it.
        peers: Releases and disconnects those whose queues are full, where their policy says so.
    """

    def __init__(
        self,
        *,
        settings: NodeSettings,
        counters: Counters,
        lock: threading.RLock,
        sessions: dict[str, Session],
        pump: Callable[[Session, float], None],
        wake: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        peers: Consequences | None = None,
        on_strings: Callable[[], None] = lambda: None,
    ) -> None:
        self.strings = StringTable(on_strings)
        self.codec = Codec(self.strings)
        self.flush_at: float | None = None
        """When the I/O thread should flush; `None` when nothing waits."""
        self.room = threading.Condition(lock)
        """Notified when an outbox has shrunk or a peer is gone."""
        self.sequence = 0
        """Number of the next event that is published, whether or not somebody wants it."""
        self.flushes = 0
        self.batches = 0
        """Flushes that were put off to wait for company: none while events are few."""
        self._settings = settings
        self._counters = counters
        self._lock = lock
        self._sessions = sessions
        self._pump = pump
        self._wake = wake
        self._clock = clock
        self._max_events = settings.max_batch_events
        self._is_debug = settings.debug
        self._peers = peers
        self._policies = (settings.overflow, settings.reliable_overflow)
        self._blocking = tuple(number for number, policy in enumerate(self._policies) if policy == "block")
        """The classes whose publishers wait for room."""
        self._may_block = bool(self._blocking) or settings.durable_overflow == "block"
        self._treatment = Treatments(settings.delivery, settings.priority).of
        self.durable: DurableStream | None = None
        """Where durable events go, if we have a spool."""
        self._routes: dict[str, tuple[Session, ...]] = {}
        self._checked_topics: set[str] = set()
        self._plain_kinds: set[type] = set()
        """Event types that were seen to be fit for the quick path: published on their class's topic, unchecked."""
        self._waiting: list[Event | Addressed] = []
        self._is_armed = False
        """Whether somebody will flush what waits; see `publish`."""
        self._window_s = 0.0
        self._max_window_s = settings.max_batch_delay_s / 2
        """Half of what is promised: the I/O thread may come up to the other half late (see `Core`)."""
        self._last_flush = 0.0
        self._is_closed = False
        self._error: RapiniError | None = None

    def publish(self, event: Event, topic: str | None = None) -> PublishOutcome:
        """Take one event. See `rapini.Node.publish`.

        The quick path takes no lock: `list.append` is atomic, and so are the slice and the deletion by which a flush
        takes what waits. `_is_armed` is cleared before the slice and read after the append, so an event that a flush
        missed always finds it cleared, and arms the next.
        """
        waiting = self._waiting
        if topic is None and event.__class__ in self._plain_kinds:
            waiting.append(event)
        else:
            waiting.append(self._checked(event, topic))
        if not self._is_armed:
            with self._lock:
                self._arm(self._clock())
        elif len(waiting) >= self._max_events:
            with self._lock:
                self.flush(self._clock(), may_block=self._may_block)
        return _ACCEPTED

    def try_publish(self, event: Event, topic: str | None = None) -> PublishOutcome:
        """Take one event if that means neither waiting nor dropping anything. See `rapini.Node.try_publish`."""
        with self._lock:
            item = self._checked(event, topic)
            target = event.__class__.__rapini_topic__ if topic is None else topic
            receivers = self.route(target)
            delivery, _ = self._treatment(target, event.__class__.__rapini_delivery__)
            if len(self._waiting) >= self._max_events - 1 and not self.is_blocked():
                self.flush(self._clock())
            if self.is_blocked() or any(self._has_no_room(session, delivery) for session in receivers):
                return PublishOutcome.FULL
            self._waiting.append(item)
            if not self._is_armed:
                self._arm(self._clock())
            return _ACCEPTED if receivers else PublishOutcome.UNROUTED

    def publish_durable(self, event: Event, topic: str | None, timeout_s: float) -> PublishOutcome:
        """Take one durable event and wait until it is on disk. See `rapini.Node.publish_durable`."""
        self._checked(event, topic)
        target = event.__class__.__rapini_topic__ if topic is None else topic
        if (
            self.durable is None
            or self._treatment(target, event.__class__.__rapini_delivery__)[0] is not Delivery.DURABLE
        ):
            raise LocalError("not_durable", f"{target} is not a durable topic", remedy="use publish()")
        if not self.durable.wants(target):
            self._counters.published[target] += 1
            self._counters.unrouted[target] += 1
            return PublishOutcome.UNROUTED
        durable, deadline = self.durable, self._clock() + timeout_s
        self.flush(self._clock(), may_block=self._may_block, deadline=deadline)  # what was published before it
        runs, failures = self.codec.encode_run(target, [event])
        if failures:
            raise EventError("not_encodable", f"{failures[0].type_name}: {failures[0].detail}", path="$")
        self._counters.published[target] += 1
        self._append_in_time(durable, runs[0], deadline)
        wanted = durable.spool.next_sequence
        while durable.spool.synced_sequence < wanted:
            if (failure := durable.failure) is not None:  # a new one each time: a raised error keeps its callers alive
                raise StoreError(failure.code, failure.detail, path=failure.path, remedy=failure.remedy)
            left = deadline - self._clock()
            if left <= 0:
                raise PeerTimeoutError("sync_timeout", f"not on disk within {timeout_s:g} s")
            durable.changed.wait(left)
        return PublishOutcome.ON_DISK

    def _append_in_time(self, durable: DurableStream, run: EncodedRun, deadline: float) -> None:
        """Append a run; where the policy is to wait for room, until the deadline."""
        while True:
            try:
                durable.append(run)
            except StoreError as error:
                left = deadline - self._clock()
                if error.code != "spool_full" or durable.drops_oldest or left <= 0:
                    self._counters.not_stored.setdefault(error.code, Counter())[run.topic] += run.count
                    raise
                durable.changed.wait(min(left, 0.1))
            else:
                return

    @staticmethod
    def _has_no_room(session: Session, delivery: Delivery) -> bool:
        """Whether the next batch for a peer would be dropped, or wait."""
        if session.record is None and delivery is Delivery.BEST_EFFORT:
            return False  # it is counted as lost to an absent peer; there is nothing to wait for
        return not session.outbox.flows[delivery].has_room()

    @property
    def waiting(self) -> int:
        """Events that were taken, and not collected yet."""
        return len(self._waiting)

    def publish_many(self, events: Sequence[Event], topic: str | None = None) -> None:
        """Take several events."""
        for event in events:
            self.publish(event, topic)

    def _checked(self, event: Event, topic: str | None) -> Event | Addressed:
        kind = event.__class__
        if self._is_closed:
            raise self._error or LocalError("closed", "the node is closed")
        if not isinstance(event, Event):
            raise LocalError("not_an_event", f"{kind.__name__} is not an event: derive it from rapini.Event")
        target = kind.__rapini_topic__ if topic is None else topic
        if target not in self._checked_topics:
            if not target:
                remedy = "publish(event, topic='...'), or class X(Event, topic='...')"
                raise LocalError("no_topic", f"{kind.__name__} has no topic", remedy=remedy)
            check_topic(target)
            self._check_durable(kind, target)
            if len(self._checked_topics) < _MAX_CACHED:
                self._checked_topics.add(target)
        if self._is_debug:
            with self._lock:
                self.codec.check(event)
        elif topic is None:
            self._plain_kinds.add(kind)
        return event if topic is None else Addressed(topic, event)

    def _check_durable(self, kind: type[Event], topic: str) -> None:
        if self.durable is None and self._treatment(topic, kind.__rapini_delivery__)[0] is Delivery.DURABLE:
            remedy = "give the node a folder for its durable events: Node(..., spool=FOLDER)"
            raise LocalError("no_spool", f"{kind.__name__} on {topic} is durable, and there is no spool", remedy=remedy)

    def _arm(self, now: float) -> None:
        """An event waits and nobody is to flush it: do it now when idle, else see that it is done in time."""
        due = self._last_flush + max(self._window_s, _FIRST_WINDOW_S)
        if now >= due:
            self.flush(now, may_block=self._may_block)
            return
        self._is_armed = True
        self.batches += 1
        self.flush_at = due
        self._wake()

    # -- sending -------------------------------------------------------------------------------------------------

    def flush(self, now: float, *, may_block: bool = False, deadline: float | None = None) -> None:
        """Encode what was collected and hand it to the peers that want it.

        Args:
            now: Monotonic seconds.
            may_block: Wait for room first.
            deadline: How long that may take, in monotonic seconds; then what does not fit is dropped and counted.
        """
        if may_block and self._full():
            self._wait_for_room(deadline)
        self.flush_at = None
        self._is_armed = False  # before the slice: see `publish`
        count = len(self._waiting)
        if not count:
            return
        taken = self._waiting[:count]
        del self._waiting[:count]
        self._last_flush = now
        self.flushes += 1
        if count >= _BUSY_BATCH:
            self._window_s = min(self._max_window_s, max(_FIRST_WINDOW_S, self._window_s * 2))
        else:
            self._window_s /= 2
        encoded: list[Routed] = []
        for topic, events in runs_of(taken):
            self._encode(topic, events, encoded)
        if not encoded:
            return
        if len(encoded) == 1:  # nearly always: one type and topic, so one batch for everybody
            run, receivers, (delivery, priority) = encoded[0]
            batch = Batch(join_runs((run,)), run.count, {run.topic: run.count}, priority)
            self._deliver((batch,), receivers, delivery, now)
        else:
            self._distribute(encoded, now)

    def _encode(self, topic: str, events: list[Event], encoded: list[Routed]) -> None:
        counters = self._counters
        counters.published[topic] += len(events)
        first = self.sequence
        self.sequence = first + len(events)
        treatment = self._treatment(topic, events[0].__class__.__rapini_delivery__)
        durable = self.durable if treatment[0] is Delivery.DURABLE else None
        if durable is not None:
            first = -1  # they have numbers of their own, for good
        receivers = self.route(topic) if durable is None else ()
        if not receivers and (durable is None or not durable.wants(topic)):
            counters.unrouted[topic] += len(events)
            return
        runs, failures = self.codec.encode_run(topic, events, first)
        for failure in failures:
            if not counters.not_encodable[topic]:
                _log.error("an event %s cannot be encoded: %s", failure.type_name, failure.detail)
            counters.not_encodable[topic] += 1
        if durable is None:
            encoded += [(run, receivers, treatment) for run in runs]
            return
        for place, run in self._pieces(durable, topic, events, runs):
            try:
                durable.append(run)
            except StoreError as error:
                if error.code == "spool_full" and not durable.drops_oldest:  # they wait for room, with their publishers
                    counters.published[topic] -= len(events) - place
                    self._waiting[:0] = self._as_published(topic, events[place:])
                    self._is_armed, self.flush_at = True, self._clock() + _LOOK_AGAIN_S
                    self._wake()
                    return
                counters.not_stored.setdefault(error.code, Counter())[topic] += run.count

    def _pieces(
        self, durable: DurableStream, topic: str, events: list[Event], runs: list[EncodedRun]
    ) -> Iterator[tuple[int, EncodedRun]]:
        """Runs that a spool takes, each with the place of its first event.

        Encoding large ones again, in halves, is the price of large events.
        """
        at = 0
        for run in runs:
            if len(run.data) <= durable.max_run_bytes or run.count == 1:
                yield at, run
            else:
                middle = at + run.count // 2
                for first, after in ((at, middle), (middle, at + run.count)):
                    part = events[first:after]
                    for place, piece in self._pieces(durable, topic, part, self.codec.encode_run(topic, part)[0]):
                        yield first + place, piece
            at += run.count

    @staticmethod
    def _as_published(topic: str, events: list[Event]) -> list[Event | Addressed]:
        return [event if event.__class__.__rapini_topic__ == topic else Addressed(topic, event) for event in events]

    def _wait_for_room(self, deadline: float | None) -> None:
        """Block policy: wait until every peer that wants what was collected can take it (or is gone)."""
        while not self._is_closed and self._full():
            left = 1.0 if deadline is None else deadline - self._clock()
            if left <= 0:
                return
            if self.durable is not None and not self.durable.has_room():
                self.durable.changed.wait(min(left, 0.1))  # either may come first
            else:
                self.room.wait(min(left, 1.0))
        if self._error is not None:
            raise self._error

    def flush_if_room(self, now: float) -> None:
        """Flush, unless that would drop what its publisher would rather wait for; then look again soon."""
        if self.is_blocked():
            self.flush_at = now + _LOOK_AGAIN_S
            return
        self.flush(now)

    def is_blocked(self) -> bool:
        """Block policy: whether a flush now would drop what its publisher would rather wait for."""
        return (bool(self._blocking) or self.durable is not None) and self._full()

    def _full(self) -> bool:
        if self.durable is not None and not self.durable.has_room():
            waiting = ((topic, events[0].__class__.__rapini_delivery__) for topic, events in runs_of(self._waiting[:]))
            if any(self._treatment(topic, declared)[0] is Delivery.DURABLE for topic, declared in waiting):
                return True
        for session in self._sessions.values():
            if session.record is not None and not all(flow.has_room() for flow in session.outbox.flows):
                break
        else:
            return False  # nearly always, and asked at every flush
        wanted = {(topic, events[0].__class__.__rapini_delivery__) for topic, events in runs_of(self._waiting[:])}
        return any(
            self._is_full_for(session, self._treatment(topic, declared)[0])
            for topic, declared in wanted
            for session in self.route(topic)
        )

    def _is_full_for(self, session: Session, delivery: Delivery) -> bool:
        if delivery not in self._blocking or session.record is None:
            return False
        return not session.outbox.flows[delivery].has_room()

    def account_for_the_rest(self) -> None:
        """The node is closed: count what was still collected as dropped for every peer that wanted it."""
        for topic, events in runs_of(self._waiting):
            self._counters.published[topic] += len(events)
            receivers = self.route(topic)
            delivery, _ = self._treatment(topic, events[0].__class__.__rapini_delivery__)
            for session in receivers:
                session.outbox.count_drop({topic: len(events)}, delivery, "closing")
            if not receivers:
                self._counters.unrouted[topic] += len(events)
        self._waiting.clear()

    # -- routing -------------------------------------------------------------------------------------------------

    def route(self, topic: str) -> tuple[Session, ...]:
        """The sessions whose peers subscribed to a topic, those of lost peers included (their events are counted)."""
        receivers = self._routes.get(topic)
        if receivers is None:
            receivers = tuple(
                session
                for session in self._sessions.values()
                if not session.is_departed and session.prefixes and topic.startswith(session.prefixes)
            )
            if len(self._routes) > _MAX_CACHED:
                self._routes.clear()
            self._routes[topic] = receivers
        return receivers

    def reroute(self) -> None:
        """Subscriptions or peers have changed. What was collected before is sent by the new routes."""
        self._routes.clear()
        self.room.notify_all()

    def close(self, error: RapiniError | None = None) -> None:
        """Refuse further events; with an error, by raising that."""
        self._is_closed = True
        self._error = self._error or error
        self._plain_kinds.clear()
        self.room.notify_all()
