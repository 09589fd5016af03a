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
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Final

from rapini.codec import Codec, EncodedRun, join_runs, split_into_batches
from rapini.errors import LocalError, RapiniError
from rapini.events import Event, check_topic
from rapini.node.counters import Counters
from rapini.node.sessions import Session
from rapini.node.settings import NodeSettings
from rapini.session.outbox import Batch

__all__ = ["Publisher"]

_log = logging.getLogger("rapini.node")

_FIRST_WINDOW_S: Final = 0.0002
"""Events closer together than this share a batch; at up to 5,000 events/s each goes at once."""
_MAX_CACHED: Final = 65_536

_BUSY_BATCH: Final = 8
"""A batch of this many events in one window means load: the window doubles; a smaller one halves it."""


class Publisher:
    """Collects events into runs and sends them. Everything under the node's lock.

    Args:
        settings: Batch size and delay, overflow policy, development mode.
        counters: Where every event is accounted for.
        lock: The node's.
        sessions: All sessions, by name; routes are made from them.
        pump: Sends what a session's credit allows.
        wake: Wakes the I/O thread to flush at `flush_at`.
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
    ) -> None:
        self.codec = Codec()
        self.flush_at: float | None = None
        """When the I/O thread should flush; `None` when nothing waits."""
        self.room = threading.Condition(lock)
        """Notified when an outbox has shrunk or a peer is gone."""
        self.flushes = 0
        self.batches = 0
        """Flushes that were put off to wait for company: none while events are few."""
        self._settings = settings
        self._counters = counters
        self._lock = lock
        self._sessions = sessions
        self._pump = pump
        self._wake = wake
        self._max_events = settings.max_batch_events
        self._is_debug = settings.debug
        self._blocks = settings.overflow == "block"
        self._routes: dict[str, tuple[Session, ...]] = {}
        self._checked_topics: set[str] = set()
        self._plain_kinds: set[type] = set()
        """Event types that were seen to be fit for the quick path: published on their class's topic, unchecked."""
        self._waiting: list[Event | _Addressed] = []
        self._is_armed = False
        """Whether somebody will flush what waits; see `publish`."""
        self._window_s = 0.0
        self._max_window_s = settings.max_batch_delay_s / 2
        """Half of what is promised: the I/O thread may come up to the other half late (see `Core`)."""
        self._last_flush = 0.0
        self._is_closed = False
        self._error: RapiniError | None = None

    def publish(self, event: Event, topic: str | None = None) -> None:
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
                self._arm(time.monotonic())
        elif len(waiting) >= self._max_events:
            with self._lock:
                self.flush(time.monotonic(), may_block=self._blocks)

    def publish_many(self, events: Sequence[Event], topic: str | None = None) -> None:
        """Take several events."""
        for event in events:
            self.publish(event, topic)

    def _checked(self, event: Event, topic: str | None) -> Event | _Addressed:
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
            if len(self._checked_topics) < _MAX_CACHED:
                self._checked_topics.add(target)
        if self._is_debug:
            with self._lock:
                self.codec.check(event)
        elif topic is None:
            self._plain_kinds.add(kind)
        return event if topic is None else _Addressed(topic, event)

    def _arm(self, now: float) -> None:
        """An event waits and nobody is to flush it: do it now when idle, else see that it is done in time."""
        due = self._last_flush + max(self._window_s, _FIRST_WINDOW_S)
        if now >= due:
            self.flush(now, may_block=self._blocks)
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
        encoded: list[tuple[EncodedRun, tuple[Session, ...]]] = []
        for topic, events in _runs(taken):
            self._encode(topic, events, encoded)
        if len(encoded) == 1:  # nearly always: one type and topic, so one batch for everybody
            run, receivers = encoded[0]
            self._deliver((Batch(join_runs((run,)), run.count, {run.topic: run.count}),), receivers, now)
        else:
            self._distribute(encoded, now)

    def _encode(self, topic: str, events: list[Event], encoded: list[tuple[EncodedRun, tuple[Session, ...]]]) -> None:
        counters = self._counters
        counters.published[topic] += len(events)
        receivers = self.route(topic)
        if not receivers:
            counters.unrouted[topic] += len(events)
            return
        runs, failures = self.codec.encode_run(topic, events)
        for failure in failures:
            if not counters.not_encodable[topic]:
                _log.error("an event %s cannot be encoded: %s", failure.type_name, failure.detail)
            counters.not_encodable[topic] += 1
        encoded += [(run, receivers) for run in runs]

    def _distribute(self, encoded: list[tuple[EncodedRun, tuple[Session, ...]]], now: float) -> None:
        wanted: dict[Session, list[EncodedRun]] = {}
        for run, receivers in encoded:
            for session in receivers:
                wanted.setdefault(session, []).append(run)
        made: dict[tuple[int, ...], list[Batch]] = {}  # receivers of the same runs share one batch (or few, if large)
        for session, runs in wanted.items():
            key = tuple(map(id, runs))
            batches = made.get(key)
            if batches is None:
                batches = made[key] = [_batch(group) for group in split_into_batches(runs)]
            self._deliver(batches, (session,), now)

    def _deliver(self, batches: Sequence[Batch], receivers: Iterable[Session], now: float) -> None:
        for session in receivers:
            for batch in batches:
                if session.record is None:
                    session.outbox.drop(batch.topics, "peer_lost")
                elif session.outbox.put(batch, may_exceed=self._blocks):
                    self._pump(session, now)

    def _wait_for_room(self, deadline: float | None) -> None:
        """Block policy: wait until every peer that wants what was collected can take it (or is gone)."""
        while not self._is_closed and self._full():
            left = 1.0 if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return
            self.room.wait(min(left, 1.0))
        if self._error is not None:
            raise self._error

    def is_blocked(self) -> bool:
        """Block policy: whether a flush now would drop what its publisher would rather wait for."""
        return self._blocks and self._full()

    def _full(self) -> bool:
        for session in self._sessions.values():
            if session.record is not None and not session.outbox.has_room():
                break
        else:
            return False  # nearly always, and asked at every flush
        full = [s for s in self._sessions.values() if s.record is not None and not s.outbox.has_room()]
        wanted = {topic for topic, _ in _runs(self._waiting[:])}
        return any(session in self.route(topic) for topic in wanted for session in full)

    def account_for_the_rest(self) -> None:
        """The node is closed: count what was still collected as dropped for every peer that wanted it."""
        for topic, events in _runs(self._waiting):
            self._counters.published[topic] += len(events)
            receivers = self.route(topic)
            for session in receivers:
                session.outbox.drop({topic: len(events)}, "closing")
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


class _Addressed:
    """An event with a topic of its own."""

    __slots__ = ("event", "topic")

    def __init__(self, topic: str, event: Event) -> None:
        self.topic = topic
        self.event = event


def _runs(taken: list[Event | _Addressed]) -> Iterable[tuple[str, list[Event]]]:
    """Part what was collected into runs of one type and topic, keeping the order."""
    if len(taken) == 1 and taken[0].__class__ is not _Addressed:  # nearly always, while events are few
        return ((taken[0].__class__.__rapini_topic__, taken),)  # type: ignore[union-attr,return-value]
    kinds = set(map(type, taken))
    if len(kinds) == 1 and _Addressed not in kinds:
        return ((kinds.pop().__rapini_topic__, taken),)  # type: ignore[attr-defined,return-value]  # never `_Addressed`
    return [
        (topic, [item.event if isinstance(item, _Addressed) else item for item in group])
        for (_, topic), group in groupby(taken, key=_kind_and_topic)
    ]


def _kind_and_topic(item: Event | _Addressed) -> tuple[type[Event], str]:
    if isinstance(item, _Addressed):
        return type(item.event), item.topic
    return type(item), type(item).__rapini_topic__


def _batch(runs: Sequence[EncodedRun]) -> Batch:
    topics: dict[str, int] = {}
    for run in runs:
        topics[run.topic] = topics.get(run.topic, 0) + run.count
    return Batch(join_runs(runs), sum(topics.values()), topics)
