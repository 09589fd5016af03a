"""Durable events between sessions: ours to subscribers, and others' to our consumers.

Beside `peers`, which hands it what concerns durable streams. `durable` is our own stream on disk, `streams` our places
in those of others; here both meet the links. Under the node's lock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from rapini import limits
from rapini.codec import join_runs
from rapini.errors import LocalError, StoreError
from rapini.events.delivery import Delivery
from rapini.node.counters import Counters
from rapini.node.durable import Chunk, DurableStream, Place
from rapini.node.inbox import ReceivedBatch
from rapini.node.links import LinkRecord
from rapini.node.sessions import Session
from rapini.node.settings import NodeSettings
from rapini.node.streams import Streams
from rapini.session.flow import Hole
from rapini.session.outcomes import DurableReceived, GapReceived, PositionTold, StreamAnnounced

if TYPE_CHECKING:
    from rapini.node.peers import Peers

__all__ = ["DurableTraffic"]

_log = logging.getLogger("rapini.node")


_BATCH_HEAD_BYTES: Final = 8
"""More than joining runs to a batch adds."""


class _Arrival(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a stream: events, a gap in them, or (with neither) a step over what we did not want."""

    after: int
    first: int
    count: int
    size: int
    data: bytes = b""
    gap: GapReceived | None = None


class DurableTraffic:
    """Moves durable events over the links of one node.

    Args:
        peers: The node's; its sessions, reports and publisher are used here.
        settings: Whether we want to be owed what we miss.
        counters: What is counted.
        streams: Our places in others' streams.
        clock: Monotonic seconds.
    """

    def __init__(
        self, peers: Peers, settings: NodeSettings, counters: Counters, streams: Streams, clock: Callable[[], float]
    ) -> None:
        self.own: DurableStream | None = None
        """Our durable stream, if we have a spool."""
        self.streams = streams
        self._peers = peers
        self._settings = settings
        self._counters = counters
        self._clock = clock

    def handle(self, record: LinkRecord, outcome: DurableReceived | StreamAnnounced | PositionTold, now: float) -> None:
        """Act on one outcome of one link."""
        match outcome:
            case DurableReceived():
                self._on_durable(record, outcome, now)
            case StreamAnnounced(stream_id=stream_id):
                record.stream_id = stream_id
                self.tell_position(record, now)
            case PositionTold():
                self._on_position(record, outcome, now)

    # -- our stream ----------------------------------------------------------------------------------------------

    def _on_position(self, record: LinkRecord, told: PositionTold, now: float) -> None:
        session, publisher = record.session, self._peers.publisher
        if session is None or self.own is None:
            raise AssertionError("only an admitted peer that was told of our stream says where it is")
        if not publisher.is_blocked():
            publisher.flush(now)  # what was published before is not what it subscribed to
        try:
            session.place = self.own.begin(session.name, record.prefixes, told.position, is_kept=told.is_kept)
        except LocalError as error:  # a position that no stream of ours can have reached
            record.link.refuse("protocol_error", f"a position beyond all numbers: {error.detail}", now)
            return
        except StoreError as error:
            _log.error("%s cannot be served durable events: %s", session.name, error)
            return
        self._peers.pump(session, now)

    def pump(self, session: Session, record: LinkRecord, place: Place, now: float) -> None:
        """Send what is on disk, as far as the peer's credit allows."""
        own, outbox = self.own, session.outbox
        if own is None:
            return
        while not record.unsent and (outbox.in_flight_bytes < outbox.window_bytes or not outbox.in_flight_bytes):
            chunk = place.held or own.next_chunk(place, session.prefixes)
            place.held = None
            if chunk is None:
                return
            if outbox.in_flight_bytes and outbox.in_flight_bytes + _credit_of(chunk, place) > outbox.window_bytes:
                place.held = chunk  # until there is credit for all of it
                return
            if not self._send(session, record, place, chunk, now):
                return
            outbox.durable_bytes = place.in_flight_bytes
            record.transmit()

    def _send(self, session: Session, record: LinkRecord, place: Place, chunk: Chunk, now: float) -> bool:
        after = place.position
        if chunk.hole is not None:
            if chunk.first > after:  # what is not wanted lies before it
                record.link.send_durable(after, chunk.first, 0, b"", now)
                place.sent(chunk.first, limits.GAP_CREDIT_BYTES, 0)
            hole = Hole(chunk.hole.count, {}, chunk.hole.reason)
            record.link.send_gap(Delivery.DURABLE, chunk.first, hole, now)
            place.sent(chunk.after, limits.GAP_CREDIT_BYTES, 0)
        elif chunk.runs:
            batch, count = join_runs(chunk.runs), chunk.after - chunk.first
            record.link.send_durable(after, chunk.first, count, batch, now)
            place.sent(chunk.after, len(batch), count)
            self._counters.sent[session.name] += count
        elif place.is_idle:
            record.link.send_durable(after, chunk.first, 0, b"", now)
            place.sent(chunk.after, limits.GAP_CREDIT_BYTES, 0)
        else:
            return False  # what is only passed over is said when there is nothing else under way
        return True

    def settle(self, session: Session, told: list[int]) -> bool:
        """What a subscriber says of our stream: how far it has taken it, and settled it. False if that cannot be."""
        place = session.place
        if place is None or self.own is None or len(told) < 2:
            return not any(told)
        if not place.acknowledge(told[0], told[1]):
            return False
        session.outbox.durable_bytes = place.in_flight_bytes
        self.own.settle(session.name, place)
        return True

    def resubscribed(self, session: Session) -> None:
        """A peer wants other topics."""
        if self.own is not None and session.place is not None:
            self.own.resubscribed(session.name, session.prefixes, session.place)

    def gone(self, session: Session) -> None:
        """A peer's connection is over."""
        if self.own is not None and session.place is not None:
            self.own.gone(session.name)

    def send_synced(self) -> None:
        """More of our stream is on disk: send it to those who wait for it."""
        now = self._clock()
        for session in self._peers.sessions.values():
            if session.place is not None:
                self._peers.pump(session, now)

    def housekeeping(self, seconds: float) -> None:
        """Some time has passed."""
        if self.own is not None:
            present = [session.name for session in self._peers.sessions.values() if session.place is not None]
            self.own.housekeeping(seconds, present)

    # -- the streams of others -----------------------------------------------------------------------------------

    def tell_position(self, record: LinkRecord, now: float) -> None:
        """Answer the announcement of a peer's stream, once the peer is admitted."""
        if record.stream_id and record.link.epoch is not None and not record.link.is_closed:
            position = self.streams.position(record.stream_id)
            if position is not None and record.session is not None:
                record.session.stream = self.streams.intake(record.stream_id, position)
                record.session.stream.told = (-1, -1)  # what we told last may have been lost with the connection
            record.link.tell_position(record.stream_id, position, now, is_kept=self._settings.keeps_durable)

    def _on_durable(self, record: LinkRecord, events: DurableReceived, now: float) -> None:
        session = record.session
        if session is None:
            raise AssertionError("events come over an admitted link")
        size = len(events.batch) or limits.GAP_CREDIT_BYTES
        if not record.stream_id or session.exceeds_credit(size):
            record.link.refuse("protocol_error", "durable events of no stream, or beyond its credit", now)
            return
        arrival = _Arrival(
            after=events.after, first=events.first_sequence, count=events.count, size=size, data=events.batch
        )
        self._take_in(record, session, arrival, now)

    def on_gap(self, record: LinkRecord, session: Session, gap: GapReceived, now: float) -> None:
        """Events of a peer's stream that it could not keep."""
        first = gap.first_sequence
        arrival = _Arrival(after=first, first=first, count=gap.count, size=limits.GAP_CREDIT_BYTES, gap=gap)
        self._take_in(record, session, arrival, now)

    def _take_in(self, record: LinkRecord, session: Session, arrival: _Arrival, now: float) -> None:
        peers, gap = self._peers, arrival.gap
        stream = session.stream = self.streams.intake(record.stream_id, arrival.after)
        start = stream.position
        known = stream.receive(arrival.after, arrival.first, arrival.count)
        if known is None:
            record.link.refuse("protocol_error", "durable events do not continue", now)
            return
        session.credit_used += arrival.size
        session.held_bytes += arrival.size
        new = arrival.count - known
        if gap is None:
            self._counters.received[session.name] += new
        elif new:
            self._counters.count_gap(session.name, gap.reason, new)
        batch = ReceivedBatch(
            peer=session.name,
            epoch=session.epoch,
            generation=session.generation,
            delivery=Delivery.DURABLE,
            first_sequence=arrival.first,
            count=arrival.count,
            data=arrival.data,
            taken=peers.batch_taken,
            gap=peers.reports.gap(session, gap) if gap is not None and new else None,
            stream_id=record.stream_id,
            start=start,
            end=stream.position,
            known=known,
            size=arrival.size,
        )
        if new:
            peers.hand_over(session, batch, now)
        else:  # nothing in it is news: it was taken before, or is none of ours
            peers.batch_taken(batch)
            peers.arm_acknowledgement(session, now)

    def commit(self, positions: Mapping[bytes, int], now: float) -> None:
        """The application has committed these positions with its output: tell their publishers."""
        self._peers.note_taken()
        self.streams.settle(positions)
        for session in self._peers.sessions.values():
            if session.has_news:
                self._peers.tell_taken(session, now)


def _credit_of(chunk: Chunk, place: Place) -> int:
    """Bytes of credit that a chunk takes."""
    if chunk.hole is not None:
        return limits.GAP_CREDIT_BYTES * (2 if chunk.first > place.position else 1)
    return sum(len(run.data) for run in chunk.runs) + _BATCH_HEAD_BYTES if chunk.runs else limits.GAP_CREDIT_BYTES
