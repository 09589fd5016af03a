"""What comes over links, on its way to the consumers, and what is told back of it.

The part of `peers` that takes events, gaps and requests in. Consumers take batches on their own threads and without the
node's lock; what they took is noted, and told to the senders by the timer that starts with a batch, or at once when a
good part of the window hangs on it. Under the node's lock, but for `batch_taken`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from rapini import limits
from rapini.events.delivery import Delivery
from rapini.node.asker import Asker
from rapini.node.counters import Counters
from rapini.node.durable_traffic import DurableTraffic
from rapini.node.inbox import Inbox, ReceivedBatch
from rapini.node.links import LinkRecord
from rapini.node.loop import Loop
from rapini.node.publisher import Publisher
from rapini.node.relay import Relay
from rapini.node.reports import Reports
from rapini.node.sessions import ACK_DELAY_S, ACK_SHARE, Session
from rapini.node.settings import NodeSettings
from rapini.session.link import (
    AnswerReceived,
    EventsReceived,
    GapReceived,
    RequestExpired,
    RequestReceived,
)

__all__ = ["Arrivals"]


class Arrivals:
    """What `Peers` inherits; see there."""

    inboxes: list[Inbox]
    sessions: dict[str, Session]
    reports: Reports
    durables: DurableTraffic
    asker: Asker
    _relay: Relay | None
    _counters: Counters
    _loop: Loop
    _settings: NodeSettings
    _clock: Callable[[], float]
    publisher: Publisher
    _service: Callable[[LinkRecord, float], None]
    _contain: Callable[[LinkRecord, Exception, float], None]

    def __init__(self) -> None:
        self._taken: deque[ReceivedBatch] = deque()
        self._taken_bytes = 0
        """Roughly: consumers add to it without a lock, and it only decides whether to tell at once."""

    def pump(self, session: Session, now: float) -> None:
        """Send what the peer's credit allows."""
        raise NotImplementedError

    def _on_events(self, record: LinkRecord, events: EventsReceived, now: float) -> None:
        session = record.session
        if session is None:
            raise AssertionError("events come over an admitted link")
        if session.exceeds_credit(len(events.batch)):
            record.link.refuse("protocol_error", "it sent more than its credit allows", now)
            return
        if not session.received(events):
            record.link.refuse("protocol_error", "event numbers do not continue", now)
            return
        self._counters.received[session.name] += events.count
        if self._relay is not None:
            self._relay.forward(record, session, events, now)
        batch = ReceivedBatch(
            peer=session.name,
            epoch=session.epoch,
            generation=session.generation,
            delivery=events.delivery,
            first_sequence=events.first_sequence,
            count=events.count,
            data=events.batch,
            taken=self.batch_taken,
            strings=record.link.peer_strings,
            incarnation=session.incarnation,
            size=len(events.batch),
        )
        self.hand_over(session, batch, now)

    def _on_gap(self, record: LinkRecord, gap: GapReceived, now: float) -> None:
        session = record.session
        if session is None:
            raise AssertionError("gaps come over an admitted link")
        if session.exceeds_credit(limits.GAP_CREDIT_BYTES):
            record.link.refuse("protocol_error", "it sent more than its credit allows", now)
            return
        if gap.delivery is Delivery.DURABLE and record.stream_id:
            self.durables.on_gap(record, session, gap, now)
            return
        if not session.received_gap(gap):
            record.link.refuse("protocol_error", "event numbers do not continue", now)
            return
        self._counters.count_gap(session.name, gap.reason, gap.count)
        if self._relay is not None:
            self._relay.forward_gap(session, gap, now)
        batch = ReceivedBatch(
            peer=session.name,
            epoch=session.epoch,
            generation=session.generation,
            delivery=gap.delivery,
            first_sequence=gap.first_sequence,
            count=gap.count,
            data=b"",
            taken=self.batch_taken,
            gap=self.reports.gap(session, gap),
            size=limits.GAP_CREDIT_BYTES,
        )
        self.hand_over(session, batch, now)

    def hand_over(self, session: Session, batch: ReceivedBatch, now: float) -> None:
        """Give a batch, or the gap in its place, to those who consume."""
        consumers = [inbox for inbox in self.inboxes if inbox.prefixes]
        batch.holders = len(consumers)
        self.arm_acknowledgement(session, now)
        for inbox in consumers:
            if self._loop.is_in_turn:
                inbox.hold(batch)
            else:
                inbox.put(batch)
        if not consumers:
            self.batch_taken(batch)

    def arm_acknowledgement(self, session: Session, now: float) -> None:
        """See to it that a peer hears soon of what was taken."""
        if not session.ack_is_due:
            session.ack_is_due = True
            self._loop.call_at(now + ACK_DELAY_S, lambda at: self._acknowledge(session, at))

    def batch_taken(self, batch: ReceivedBatch) -> None:
        """A consumer took a batch (on its own thread, without the lock: it must not wait for the I/O thread)."""
        self._taken.append(batch)
        self._taken_bytes += batch.size
        if self._taken_bytes * ACK_SHARE >= self._settings.window_bytes:
            now = self._clock()
            with self._loop.lock:
                self.tell_all_taken(now)

    def tell_all_taken(self, now: float) -> None:
        """Acknowledge what consumers took since the last time, to each peer that it came from."""
        self.note_taken()
        for session in self.sessions.values():
            if session.has_news:
                self.tell_taken(session, now)

    def note_taken(self) -> None:
        """Account for the batches that consumers took."""
        self._taken_bytes = 0
        while self._taken:
            batch = self._taken.popleft()
            batch.holders -= 1
            session = self.sessions.get(batch.peer)
            if batch.holders <= 0 and session is not None:
                session.released(batch.epoch, batch.size)
                if batch.stream_id:
                    self.durables.streams.take(batch.stream_id, batch.start, batch.end)
                    continue
                session.was_taken(batch.generation, batch.delivery, batch.first_sequence, batch.count)

    def tell_taken(self, session: Session, now: float) -> None:
        """Acknowledge what was taken from one peer."""
        record = session.record
        if record is None:
            return
        try:
            session.acknowledge(now)
        except Exception as error:  # noqa: BLE001 - see `Core.contain`
            self._contain(record, error, now)
        self._service(record, now)

    def _acknowledge(self, session: Session, now: float) -> None:
        """The timer that starts with a batch: tell what was taken, and look again while something was not."""
        session.ack_is_due = False
        self.note_taken()
        if session.record is not None and session.holds_something:
            session.ack_is_due = True
            self._loop.call_at(now + ACK_DELAY_S, lambda at: self._acknowledge(session, at))
        self.tell_taken(session, now)

    def _on_asking(
        self, record: LinkRecord, outcome: RequestReceived | AnswerReceived | RequestExpired, now: float
    ) -> None:
        match outcome:
            case AnswerReceived():
                self.asker.answered(record, outcome)
            case RequestExpired(id=number):
                self.asker.expired(record, number)
            case RequestReceived():
                if record.session is None:
                    raise AssertionError("requests come over an admitted link")
                self.asker.requested(record, record.session, outcome, now)

    def _on_acknowledged(self, record: LinkRecord, taken: list[int], now: float) -> None:
        session = record.session
        if session is None:
            raise AssertionError("acknowledgements come over an admitted link")
        if not session.outbox.acknowledge(taken[:2]) or not self.durables.settle(session, taken[2:]):
            record.link.refuse("protocol_error", "it acknowledges events that were never sent", now)
            return
        session.progress_at = now
        self.pump(session, now)
        self.publisher.room.notify_all()
