"""What links tell, and what becomes of it: sessions, the roster's decisions, statuses, batches for the inboxes.

Called by the core under the node's lock, with one link's outcomes at a time and in their order, so what an application
sees is in order too: `lost` comes after the last batch of its epoch, and before anything of the next.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from rapini import limits
from rapini.events.delivery import Delivery
from rapini.node.admission import Admission
from rapini.node.channels import ChannelFactory
from rapini.node.counters import Counters
from rapini.node.dials import Dial, DialState
from rapini.node.durable_traffic import DurableTraffic
from rapini.node.environment import REAL, Environment
from rapini.node.inbox import Inbox, ReceivedBatch
from rapini.node.links import LinkRecord
from rapini.node.loop import Loop
from rapini.node.publisher import Publisher
from rapini.node.reports import Reports
from rapini.node.sessions import ACK_DELAY_S, ACK_SHARE, Session
from rapini.node.settings import NodeSettings
from rapini.node.status import PeerState
from rapini.node.stores import Stores
from rapini.node.streams import Checkpoint, Streams
from rapini.session.link import (
    ChannelOpened,
    CloseKind,
    DurableReceived,
    EventsAcknowledged,
    EventsReceived,
    GapReceived,
    GreetingReceived,
    LinkClosed,
    LinkOutcome,
    LinkState,
    LinkUp,
    PongReceived,
    PositionTold,
    StoreReceived,
    StreamAnnounced,
    SubscriptionsInForce,
    SubscriptionsReceived,
)
from rapini.session.messages import Epoch, Greeting, Incarnation, is_name
from rapini.session.outbox import Batch, Hole
from rapini.session.roster import Admit, Claim, Decision, Drop, LinkId, Probe, Refuse, Relation, Roster

__all__ = ["Peers"]

_log = logging.getLogger("rapini.node")

_HOUSEKEEPING_S: Final = 0.5
"""How often ages and stalls are looked at."""

INTRODUCE: Final = "introduce"
"""The code of a refusal that is none: dial again, now that you know my name (the detail)."""

_UP_STATES: Final = {
    Relation.FIRST: PeerState.UP,
    Relation.BACK: PeerState.RESUMED,
    Relation.RESTARTED: PeerState.RESTARTED,
}


class Peers:
    """The peers of one node.

    Args:
        name: Our name.
        settings: Deadlines and bounds.
        channels: Our identity.
        counters: What is counted.
        loop: For timers and waiting threads.
        admission: Asked about each verified peer.
        service: Sends what a record's link has to say, handles what follows, re-arms it.
        contain: Ends one connection that an unexpected exception came of; without it, such an exception is raised.
        environment: Clock and chance.
        checkpoint: Where the application commits its positions in others' durable streams.
    """

    def __init__(
        self,
        *,
        name: str,
        settings: NodeSettings,
        channels: ChannelFactory,
        counters: Counters,
        loop: Loop,
        admission: Admission,
        service: Callable[[LinkRecord, float], None],
        contain: Callable[[LinkRecord, Exception, float], None] | None = None,
        environment: Environment = REAL,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.incarnation = Incarnation(environment.entropy(16))
        self.sessions: dict[str, Session] = {}
        self.records: dict[LinkId, LinkRecord] = {}
        self.inboxes: list[Inbox] = []
        self.reports = Reports(self.inboxes, counters, environment)
        self.dials: list[Dial] = []
        self.subscriptions: tuple[str, ...] = ()
        self.subscriptions_version = 0
        self.roster = Roster(
            name=name,
            incarnation=self.incarnation,
            probe_timeout_s=settings.probe_timeout_s,
            duplicate_retry_s=settings.backoff_rejected_s,
        )
        self._name = name
        self._settings = settings
        self._channels = channels
        self._counters = counters
        self._loop = loop
        self._admission = admission
        self._service = service
        self._contain = contain or _raise
        self._clock = environment.clock
        self._random = environment.random
        self._make_outbox = environment.make_outbox
        self._taken: deque[ReceivedBatch] = deque()
        self._max_held_bytes = 2 * max(settings.window_bytes, limits.MAX_FRAME_BYTES)
        self._taken_bytes = 0
        """Roughly: consumers add to it without a lock, and it only decides whether to tell at once."""
        self.publisher = Publisher(
            settings=settings,
            counters=counters,
            lock=loop.lock,
            sessions=self.sessions,
            pump=self.pump,
            wake=self._wake_to_flush,
            clock=environment.clock,
            peers=self,
        )
        self.stores = Stores(self, loop, environment, service)
        self.durables = DurableTraffic(self, settings, counters, Streams(checkpoint), environment.clock)
        loop.call_at(environment.clock() + _HOUSEKEEPING_S, self.look_for_stalls)

    def _wake_to_flush(self) -> None:
        # While events are published the loop turns every millisecond by itself (see Core), which is soon enough.
        if self.publisher.flush_at is not None:
            self._loop.wake_before(self.publisher.flush_at, self._settings.max_batch_delay_s / 2)

    # -- outcomes of links ---------------------------------------------------------------------------------------

    def handle(self, record: LinkRecord, outcome: LinkOutcome, now: float) -> None:
        """Act on one outcome of one link."""
        match outcome:
            case EventsReceived():
                self._on_events(record, outcome, now)
            case EventsAcknowledged(taken=taken):
                self._on_acknowledged(record, taken, now)
            case GapReceived():
                self._on_gap(record, outcome, now)
            case ChannelOpened():
                self._on_channel_opened(record, outcome, now)
            case GreetingReceived():
                self._on_greeting(record)
            case LinkUp():
                self._on_up(record, now)
            case SubscriptionsReceived(prefixes=prefixes):
                self._on_subscriptions(record, prefixes)
            case SubscriptionsInForce(version=version):
                record.in_force = version
                self._loop.changed.notify_all()
            case PongReceived(token=token):
                self._on_pong(record, token, now)
            case LinkClosed():
                self.on_closed(record, outcome, now)
            case DurableReceived() | StreamAnnounced() | PositionTold() | StoreReceived():
                self._on_state(record, outcome, now)

    def _on_state(
        self, record: LinkRecord, outcome: DurableReceived | StreamAnnounced | PositionTold | StoreReceived, now: float
    ) -> None:
        """What belongs to durable streams and stores, which have modules of their own."""
        if isinstance(outcome, StoreReceived):
            self.stores.receive(record, outcome, now)
        else:
            self.durables.handle(record, outcome, now)

    def _on_pong(self, record: LinkRecord, token: int, now: float) -> None:
        if token == record.probe_token:
            self.carry_out(self.roster.probe_answered(record.id), now)

    def _on_channel_opened(self, record: LinkRecord, opened: ChannelOpened, now: float) -> None:
        self._counters.channels_opened += 1
        self._counters.handshakes_resumed += opened.is_resumed
        record.is_resumed = opened.is_resumed
        if record.link.is_closed:
            return  # it broke the rules in the same breath; its end is among the outcomes that follow
        if opened.identity is not None:
            record.connection.authenticated = True
        name = record.link.peer
        if not record.link.is_initiator:
            if name and self._greetings_of(name) > limits.MAX_GREETING_LINKS:
                detail = f"{name} has {limits.MAX_GREETING_LINKS} connections in their greeting already"
                record.link.refuse("too_many_connections", detail, now)
            return
        if name:
            refusal = self.roster.open_outgoing(record.id, name)
            if refusal is not None:
                record.link.abandon(refusal.code, refusal.detail)
                return
        # Who answers behind plain is not known before it says so; most likely the one who answered before.
        expected = record.dial.peer if record.dial is not None else ""
        if not name and expected and self.roster.has_link(expected):
            record.link.abandon("duplicate_connection", f"{expected} is connected already")
            return
        self._greet(record, name or expected, now)

    def _greetings_of(self, name: str) -> int:
        return sum(record.session is None and record.link.peer == name for record in self.records.values())

    def _greet(self, record: LinkRecord, name: str, now: float) -> None:
        session = self.sessions.get(name)
        if session is None or session.is_verified is (record.link.identity is None):
            session = self._new_session(name)  # for this greeting only: nothing is known of who proves this name
        greeting = session.greeting(self._channels.cluster, self._name, self._channels.role, self.incarnation)
        if not name:  # we may know it, and cannot say so before it says who it is
            greeting = msgspec.structs.replace(greeting, received=[])
        record.greeting = greeting
        record.link.greet(record.greeting, now)

    def _new_session(self, name: str) -> Session:
        return Session(
            name=name,
            outbox=self._make_outbox(
                self._settings.send_queue_bytes,
                overflow=self._settings.overflow,
                reliable_overflow=self._settings.reliable_overflow,
            ),
            window_bytes=self._settings.window_bytes,
            is_departed=True,
        )

    def _on_greeting(self, record: LinkRecord) -> None:
        if record.link.is_closed:
            return
        record.connection.authenticated = True

        def verdict(is_admitted: bool, why_not: str) -> None:
            with self._loop.lock:
                try:
                    self._on_verdict(record, is_admitted, why_not)
                except Exception as error:  # noqa: BLE001 - see `Core.contain`
                    self._contain(record, error, self._clock())

        self._admission.ask(record.info(), verdict, lambda: record.link.state is LinkState.JUDGING)

    def _on_verdict(self, record: LinkRecord, is_admitted: bool, why_not: str) -> None:
        if record.link.state is not LinkState.JUDGING:
            return
        now = self._clock()
        if not is_admitted:
            record.link.refuse("denied", why_not, now, self._settings.backoff_rejected_s)
            self._service(record, now)
            return
        greeting = record.link.greeting
        if greeting is None:
            raise AssertionError("a link is judged by its greeting")
        if self._is_anonymous(record, greeting):
            record.link.refuse(INTRODUCE, self._name, now)
            self._service(record, now)
            return
        welcome_epoch = record.link.offered_epoch
        claim = Claim(
            link=record.id,
            name=greeting.node,
            incarnation=Incarnation(greeting.incarnation),
            known_epoch=Epoch(greeting.known_epoch if welcome_epoch is None else welcome_epoch - 1),
            is_ours=record.link.is_initiator,
            is_verified=record.link.identity is not None,
        )
        self.carry_out(self.roster.judge(claim, now), now)

    def _is_anonymous(self, record: LinkRecord, greeting: Greeting) -> bool:
        """Whether an initiator greets us as a stranger only because it does not know whom it has reached.

        Behind plain that is so at its first dial. If we have a session with this very incarnation of it, admitting it
        as a stranger would restart the numbers at both ends: it is told our name, and dials again with its account.
        """
        if record.link.is_initiator or record.link.identity is not None or greeting.received:
            return False
        session = self.sessions.get(greeting.node)
        return session is not None and not session.is_verified and session.incarnation == greeting.incarnation

    # -- the roster's decisions ----------------------------------------------------------------------------------

    def carry_out(self, decisions: list[Decision], now: float) -> None:
        """Do what the roster decided, in its order."""
        for decision in decisions:
            record = self.records.get(decision.link)
            if record is None or record.link.is_closed:
                continue
            try:
                self._decide(record, decision, now)
            except Exception as error:  # noqa: BLE001 - see `Core.contain`
                self._contain(record, error, now)
            self._service(record, now)

    def _decide(self, record: LinkRecord, decision: Decision, now: float) -> None:
        match decision:
            case Admit(epoch=epoch, relation=relation):
                self._admit(record, epoch, relation, now)
            case Refuse():
                self._refuse(record, decision, now)
            case Drop(code=code, detail=detail):
                if record.is_up:
                    record.link.lose(code, detail)
                else:
                    record.link.refuse(code, detail, now)
            case Probe():
                record.probe_token = record.link.ping(now)

    def _admit(self, record: LinkRecord, epoch: Epoch, relation: Relation, now: float) -> None:
        name = record.link.peer
        heard = record.link.greeting
        session = self.sessions.setdefault(name, self._new_session(name))
        if not record.link.is_initiator:
            self._greet(record, name, now)
        if heard is None or record.greeting is None:
            raise AssertionError("a link is admitted by its greeting")
        record.session = session
        record.relation = relation
        if session.held_bytes > self._max_held_bytes:
            detail = "what it sent over earlier connections has not been taken yet"
            record.link.refuse("overloaded", detail, now, self._settings.backoff_max_s)
            return
        if record.link.identity is not None and not session.is_verified:
            session.unmask()
        if not session.admitted(record.greeting, heard, epoch):
            record.link.refuse("protocol_error", "it acknowledges events that were never sent", now)
            return
        session.record = None
        session.stream = None
        record.link.admit(epoch, now, hold_ready=self.stores.holds_ready)
        self.durables.tell_position(record, now)
        self.reports.link(record, PeerState.SYNCING)
        self.stores.admitted(record, now)

    def _refuse(self, record: LinkRecord, refusal: Refuse, now: float) -> None:
        if refusal.code == "duplicate_name":
            _log.error("%s (%s): %s", record.link.peer, record.connection.address, refusal.detail)
        record.link.refuse(refusal.code, refusal.detail, now, refusal.retry_after_s)

    # -- up, flow, gone ------------------------------------------------------------------------------------------

    def _on_up(self, record: LinkRecord, now: float) -> None:
        session = record.session
        if session is None:
            raise AssertionError("only an admitted link comes up")
        session.came_up(record, now)
        if record.relation is Relation.BACK:
            self._counters.peers_resumed += 1
        elif record.relation is Relation.RESTARTED:
            self._counters.peers_restarted += 1
        if record.dial is not None:
            record.dial.came_up(session.name)
        self.reports.link(record, _UP_STATES[record.relation])
        self.publisher.reroute()
        self._loop.changed.notify_all()
        self.arm_acknowledgement(session, now)  # what was taken meanwhile
        self.pump(session, now)  # what was kept for it while it was away

    def _on_subscriptions(self, record: LinkRecord, prefixes: tuple[str, ...]) -> None:
        record.prefixes = prefixes
        if record.session is not None and record.session.record is record:
            record.session.prefixes = prefixes
            self.durables.resubscribed(record.session)
            if not self.publisher.is_blocked():
                self.publisher.flush(self._clock())  # what was published before goes by the old subscriptions
            self.publisher.reroute()

    def subscribe(self, prefixes: tuple[str, ...], now: float) -> int:
        """Replace our subscriptions at all peers; returns their new version."""
        self.subscriptions = prefixes
        self.subscriptions_version += 1
        for record in list(self.records.values()):
            try:
                record.link.subscribe(prefixes, self.subscriptions_version, now)
            except Exception as error:  # noqa: BLE001 - see `Core.contain`
                self._contain(record, error, now)
            self._service(record, now)
        return self.subscriptions_version

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
        batch = ReceivedBatch(
            peer=session.name,
            epoch=session.epoch,
            generation=session.generation,
            delivery=events.delivery,
            first_sequence=events.first_sequence,
            count=events.count,
            data=events.batch,
            taken=self.batch_taken,
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

    def pump(self, session: Session, now: float) -> None:
        """Send what the peer's credit allows."""
        record = session.record
        if record is None or record.unsent or not record.is_up:  # closed: its end is among the outcomes that follow
            return
        try:
            if session.place is not None:
                self.durables.pump(session, record, session.place, now)
            for delivery, first_sequence, item in session.outbox.sendable():
                if type(item) is Batch:
                    record.link.send_events(delivery, first_sequence, item.count, item.data, now)
                    self._counters.sent[session.name] += item.count
                elif isinstance(item, Hole):
                    record.link.send_gap(delivery, first_sequence, item, now)
                record.transmit()
                if record.unsent:
                    return  # parked: the rest follows when the connection is writable
        except Exception as error:  # noqa: BLE001 - see `Core.contain`; a publisher has nothing to do with it
            self._contain(record, error, now)

    def on_closed(self, record: LinkRecord, closed: LinkClosed, now: float) -> None:
        """A link has ended: settle its session, tell, let others take its place."""
        session = record.session
        was_up = session is not None and session.record is record
        if session is not None and was_up:
            self.durables.gone(session)
            if closed.kind is CloseKind.LOST:
                self._counters.peers_lost += 1
                session.lost(now)
                self._loop.call_at(now + self._settings.lease_s, self._end_leases)
            else:
                self._counters.peers_left += closed.kind is CloseKind.LEFT
                session.departed("peer_left" if closed.kind is CloseKind.LEFT else "closing", now)
            self.publisher.reroute()
        elif session is not None and session.lost_at is not None:  # it was coming back, and did not
            self._loop.call_at(max(now, session.lost_at + self._settings.lease_s), self._end_leases)
        self.stores.closed(record, now)
        self.reports.closed(record, closed, was_up=was_up)
        if record.dial is not None:
            self._dial_ended(record, closed, now)
        self._loop.changed.notify_all()
        self.carry_out(self.roster.link_closed(record.id), now)
        name = record.link.peer
        if name and not self.roster.has_link(name):
            self.wake_standby(name, now)

    # -- leases and stalls -------------------------------------------------------------------------------------

    def _end_leases(self, now: float) -> None:
        """Release the peers that have been lost for too long, unless they are just coming back."""
        for session in list(self.sessions.values()):
            if any(record.session is session and not record.link.is_closed for record in self.records.values()):
                continue
            if session.lost_at is not None and now >= session.lost_at + self._settings.lease_s:
                self.release(session, f"it has not returned within {self._settings.lease_s:g} s")

    def release(self, session: Session, why: str) -> None:
        """A lost peer's lease is over: keep nothing for it but the account, which it hears as a gap if it returns."""
        if session.record is not None or session.is_departed:
            return
        is_returning = any(r.session is session and not r.link.is_closed for r in self.records.values())
        session.departed("lease_expired", self._clock(), is_returning=is_returning)
        self.reports.released(session, why)
        self.publisher.reroute()
        self._forget_the_oldest()

    def _forget_the_oldest(self) -> None:
        """Bound what is remembered of peers that are gone."""
        gone = [s for s in self.sessions.values() if s.is_departed and s.record is None and not s.held_bytes]
        for session in gone[: max(0, len(gone) - limits.MAX_REMEMBERED_PEERS)]:
            self._counters.forget(session.name, session.outbox.dropped, session.acknowledged_events)
            del self.sessions[session.name]
            self.roster.forget(session.name)

    def look_for_stalls(self, now: float) -> None:
        """Age what waits, and disconnect peers that take nothing while their queue is full."""
        settings = self._settings
        for session in list(self.sessions.values()):
            if settings.max_age_s:
                for flow in session.outbox.flows:
                    flow.expire(now - settings.max_age_s)
                self.pump(session, now)
            record = session.record
            if record is None or all(flow.has_room() for flow in session.outbox.flows):
                session.progress_at = now
            elif now >= session.progress_at + settings.stall_timeout_s:
                detail = f"its queue is full, and it has taken nothing for {settings.stall_timeout_s:g} s"
                self.disconnect(session, "stalled", detail, now)
        self.durables.housekeeping(_HOUSEKEEPING_S)
        self._loop.call_at(now + _HOUSEKEEPING_S, self.look_for_stalls)

    def disconnect(self, session: Session, code: str, detail: str, now: float) -> None:
        """End a peer's connection for its own good; its session is lost, and may be resumed."""
        record = session.record
        if record is not None and not record.link.is_closed:
            record.link.refuse(code, detail, now, self._settings.backoff_max_s)
            self._service(record, now)

    # -- dials ---------------------------------------------------------------------------------------------------

    def _dial_ended(self, record: LinkRecord, closed: LinkClosed, now: float) -> None:
        dial = record.dial
        if dial is None or dial.state is DialState.DONE:
            return
        name = record.link.peer or dial.peer
        is_news = False
        if closed.code == INTRODUCE:
            said = record.link.peer or closed.detail
            if is_name(said):  # an unproven word: it chooses the account that we greet with, and nothing else
                is_news, name = not dial.was_introduced, said
                dial.peer, dial.was_introduced = said, True
        if closed.code in ("duplicate_connection", INTRODUCE) and self.roster.has_link(name):
            dial.stand_by(name)
            return
        if is_news:
            dial.wake(now)  # at once, and this time we know whom we greet
            self._loop.wake_before(now)
            return
        was_rejected = closed.kind is CloseKind.REJECTED and closed.code not in ("duplicate_connection", INTRODUCE)
        dial.ended(now, closed.code, closed.detail, closed, was_rejected=was_rejected)
        if dial.due_at is not None:
            self._loop.wake_before(dial.due_at)

    def wake_standby(self, name: str, now: float) -> None:
        """A peer's session ended: the dials that stood by may try."""
        for dial in self.dials:
            if dial.state is DialState.STANDBY and dial.peer == name:
                due = now + self._random() * self._settings.backoff_first_s
                dial.wake(due)
                self._loop.wake_before(due)


def _raise(record: LinkRecord, error: Exception, now: float) -> None:
    del record, now
    raise error
