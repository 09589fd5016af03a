"""The node's engine: what happens when a connection moves, a timer is due or the application acts.

Every turn does the same four things: take what the transports have, let the links think, act on their outcomes, send
and re-arm. Nothing here parses or encrypts, and no user code runs here: statuses and batches go to inboxes, the
admission hook has its own thread. Everything is under the loop's lock.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Final

from rapini import limits
from rapini.errors import LocalError
from rapini.node.admission import Admission
from rapini.node.channels import ChannelFactory
from rapini.node.counters import Counters, CountersSnapshot
from rapini.node.dialling import Dialling
from rapini.node.dials import Dial, DialState
from rapini.node.durable import DurableStream
from rapini.node.environment import REAL, Environment
from rapini.node.links import LinkRecord
from rapini.node.peers import Peers
from rapini.node.settings import NodeSettings
from rapini.node.status import PeerState
from rapini.node.streams import Checkpoint
from rapini.secure.channel import Channel, Side
from rapini.secure.envelope import Accepted as Opened
from rapini.secure.envelope import Dropped, EnvelopeGate, Refused
from rapini.session.link import CloseKind, Link, LinkClosed, Timing
from rapini.threads import ThreadFailure
from rapini.transport import (
    Accepted,
    Connected,
    ConnectFailed,
    Connection,
    Disconnected,
    Endpoint,
    Options,
    Received,
    Transport,
    TransportOutcome,
    Writable,
)
from rapini.transport.resolver import Resolver

__all__ = ["Core"]

_log = logging.getLogger("rapini.node")

_TIMER_GRID: Final = 0.05
"""Links' timers that fall into this share of a heartbeat's interval have one turn together."""

_READING_S: Final = 0.1
"""For reading what came while our own process stood still."""


class Core(Dialling):
    """Joins transports to sessions for one node. `Node` is its public face.

    Args:
        name: The node's name.
        settings: Checked settings.
        channels: Our identity, and channels made with it.
        admission: Asked about each verified peer.
        environment: Clock, chance, transports.
        checkpoint: Where the application commits its positions in others' durable streams.
        durable: Makes our durable stream, told the lock and what to call when more is on disk; `None` without one.
    """

    def __init__(
        self,
        name: str,
        settings: NodeSettings,
        channels: ChannelFactory,
        admission: Admission,
        environment: Environment = REAL,
        checkpoint: Checkpoint | None = None,
        durable: Callable[[threading.RLock, Callable[[], None]], DurableStream] | None = None,
    ) -> None:
        self.settings = settings
        self.counters = Counters()
        self.environment = environment
        self.loop = environment.make_loop(
            name, self._turn, self._stalled, self._failed, environment.clock, self._hand_over
        )
        self.lock = self.loop.lock
        self.listening: dict[str, Endpoint] = {}
        self.is_closing = False
        self.error: LocalError | None = None
        """Why this node does nothing any more, though nobody closed it."""
        self.peers = Peers(
            name=name,
            settings=settings,
            channels=channels,
            counters=self.counters,
            loop=self.loop,
            admission=admission,
            service=self.service,
            contain=self.contain,
            environment=environment,
            checkpoint=checkpoint,
        )
        self.durable = durable(self.lock, self.peers.durables.send_synced) if durable is not None else None
        self.peers.durables.own = self.peers.publisher.durable = self.durable
        self.publisher = self.peers.publisher
        self._name = name
        self._channels = channels
        self._transports: dict[str, Transport] = {}
        self._resolver = Resolver(settings.connect_timeout_s)
        self._timing = Timing(
            heartbeat_interval_s=settings.heartbeat_interval_s,
            heartbeat_timeout_s=settings.heartbeat_timeout_s,
            handshake_timeout_s=settings.handshake_timeout_s,
        )
        self._batches_seen = 0
        self._began = environment.clock()
        self._timer_grid_s = settings.heartbeat_interval_s * _TIMER_GRID

    # -- the turn ------------------------------------------------------------------------------------------------

    def _turn(self, now: float) -> float | None:
        for transport in list(self._transports.values()):
            for outcome in transport.outcomes():
                try:
                    if type(outcome) is Received and type(outcome.connection.user) is LinkRecord:  # nearly always
                        self._on_received(outcome.connection.user, outcome.data, now)
                    else:
                        self._on_transport(outcome, now)
                except Exception as error:  # noqa: BLE001 - see `contain`
                    self._contain_connection(outcome.connection, error, now)
        self._release()  # they take longer to wake than the rest of a turn takes, nearly always
        publisher = self.publisher
        if self.loop.has_brought:
            if publisher.flush_at is None:
                return None  # the leader has what it waits for; the rest is for the turn it takes when it is back
            self.loop.has_brought = False
        if publisher.flush_at is not None and publisher.flush_at <= now:
            publisher.flush_if_room(now)
        roster_timer = self.peers.roster.next_timer()
        if roster_timer is not None and roster_timer <= now:
            self.peers.carry_out(self.peers.roster.handle_timer(now), now)
        self._run_dials(now)
        return self._next_turn(now)

    def _next_turn(self, now: float) -> float | None:
        times = [self.publisher.flush_at, self.peers.roster.next_timer()]
        times += [transport.next_timer() for transport in self._transports.values()]
        if self.peers.dials and not self.is_closing:  # who leaves dials no more; a past time would make the thread spin
            times += [dial.due_at for dial in self.peers.dials if dial.state is DialState.WAITING]
        if self.publisher.batches != self._batches_seen:
            # While events are batched, look after the last of them often enough that nobody has to wake us.
            self._batches_seen = self.publisher.batches
            times.append(now + self.settings.max_batch_delay_s / 2)
        due: float | None = None
        for when in times:
            if when is not None and (due is None or when < due):
                due = when
        return due

    def _release(self) -> None:
        for inbox in self.peers.inboxes:
            inbox.release()

    def _hand_over(self) -> bool:
        self._release()  # whatever else the turn has brought
        # Asked last: 0MQ takes a while to say, and those who were just woken take longer to come. All are asked: one
        # that always has more must not keep the others from looking.
        return True in [transport.has_more for transport in self._transports.values()]

    def _stalled(self, pause_s: float) -> None:
        # And a little more: a patience that ran out in the pause would end before what lies in the kernel is read.
        for record in self.peers.records.values():
            record.link.forgive(pause_s + _READING_S)
        for session in self.peers.sessions.values():
            session.progress_at += pause_s + _READING_S

    # -- connections ---------------------------------------------------------------------------------------------

    def _on_transport(self, outcome: TransportOutcome, now: float) -> None:
        match outcome:
            case Received(connection=connection, data=data):
                record = connection.user
                if isinstance(record, LinkRecord):
                    self._on_received(record, data, now)
            case Writable(connection=connection):
                record = connection.user
                if isinstance(record, LinkRecord):
                    record.transmit()
                    self.peers.stores.drained(record, now)
                    if record.session is not None and not record.unsent:
                        self.peers.pump(record.session, now)
            case Accepted(connection=connection):
                self._on_accepted(connection, now)
            case Connected(connection=connection):
                self._on_connected(connection, now)
            case ConnectFailed(connection=connection, code=code, detail=detail):
                if isinstance(connection.user, Dial):
                    self._dial_failed(connection.user, code, detail, now)
            case Disconnected(connection=connection, code=code, detail=detail):
                self._on_disconnected(connection, code, detail, now)

    def _on_accepted(self, connection: Connection, now: float) -> None:
        endpoint = self.listening.get(connection.endpoint)
        if endpoint is None or self.is_closing:
            connection.abort()
            return
        channel = self._channels.responder(endpoint)
        link = self._make_link(channel, is_initiator=False, now=now)
        self._adopt(connection, link, endpoint, None, now)

    def _on_connected(self, connection: Connection, now: float) -> None:
        dial = connection.user
        if isinstance(dial, Dial):
            dial.addresses = []
        if not isinstance(dial, Dial) or dial.state is not DialState.CONNECTING:
            connection.abort()
            return
        self._report_dial(dial, PeerState.HANDSHAKING)
        link = self._make_link(self._channels.initiator(dial.endpoint), is_initiator=True, now=now)
        self._adopt(connection, link, dial.endpoint, dial, now)

    def _make_link(self, channel: Channel, *, is_initiator: bool, now: float) -> Link:
        return Link(
            channel=channel,
            is_initiator=is_initiator,
            cluster=self._channels.cluster,
            subscriptions=self.peers.subscriptions,
            subscriptions_version=self.peers.subscriptions_version,
            timing=self._timing,
            now=now,
            stream_id=self.durable.spool.stream_id if self.durable is not None else b"",
        )

    def _adopt(self, connection: Connection, link: Link, endpoint: Endpoint, dial: Dial | None, now: float) -> None:
        gate = None
        if connection.is_message_based:
            gate = self._channels.gate(endpoint, is_initiator=link.is_initiator)
        record = LinkRecord(connection=connection, link=link, gate=gate, mechanism=endpoint.mechanism, dial=dial)
        connection.user = record
        self.peers.records[record.id] = record
        self.service(record, now)

    def _on_received(self, record: LinkRecord, data: bytes | memoryview, now: float) -> None:
        if record.gate is not None:
            verdict = record.gate.judge_untrusted(data)
            if not isinstance(verdict, Opened):
                self._on_bad_envelope(record, record.gate, verdict, data, now)
                return
            data = verdict.payload
        record.link.receive(data, now)
        self.service(record, now)

    def _on_bad_envelope(
        self, record: LinkRecord, gate: EnvelopeGate, verdict: Dropped | Refused, data: bytes | memoryview, now: float
    ) -> None:
        if isinstance(verdict, Dropped):
            self.counters.rejected[verdict.code] += 1
            return
        if verdict.code == "mechanism_mismatch":
            record.connection.send(gate.refusal(data))
        side = Side.THEIRS if verdict.code == "peer_refused_mechanism" else Side.OURS
        record.link.fail(verdict.code, side, verdict.detail)
        self.service(record, now)

    def _on_disconnected(self, connection: Connection, code: str, detail: str, now: float) -> None:
        owner = connection.user
        if isinstance(owner, LinkRecord):
            owner.is_finished = True
            owner.link.transport_ended(code, detail, now)
            self.service(owner, now)
            connection.user = None  # else the two keep each other, and the TLS state, until the next collection
        elif isinstance(owner, Dial) and owner.state is DialState.CONNECTING:
            self._dial_failed(owner, code, detail, now)

    def service(self, record: LinkRecord, now: float) -> None:
        """Act on what a link reports, send what it has to say, arm its timer. Not entered twice for one record."""
        if record.in_service:
            return
        record.in_service = True
        link = record.link
        try:
            self._handle_outcomes(record, now)
            if link.asking.has_queued:
                self.peers.pump_asked(record, now)
            record.transmit()
            if record.unsent_bytes > limits.MAX_UNSENT_BYTES:
                link.fail("not_reading", Side.THEIRS, f"{record.unsent_bytes} bytes wait for it, beyond its credit")
                self._handle_outcomes(record, now)
            due = link.next_timer()
        except Exception as error:  # noqa: BLE001 - see `contain`
            self.contain(record, error, now)
            return
        finally:
            record.in_service = False
        if link.is_closed:
            self._retire(record)
        elif due is not None and due < record.timer_at:
            record.timer_at = due
            held = weakref.ref(record)  # the timer may be far off, and must not keep the TLS state of what is over
            self.loop.call_at(self._shared(due, now), lambda at: self._link_timer(held, at))

    def _handle_outcomes(self, record: LinkRecord, now: float) -> None:
        while outcomes := record.link.outcomes():
            for outcome in outcomes:
                if not record.is_faulty:
                    self.peers.handle(record, outcome, now)

    def _shared(self, due: float, now: float) -> float:
        """When a link's timer runs: one that is far off a little later than due, in one turn with others.

        Else each of many idle links has turns of its own, which is most of what they cost.
        """
        if due - now < self.settings.heartbeat_interval_s / 2:
            return due
        return self._began + math.ceil((due - self._began) / self._timer_grid_s) * self._timer_grid_s

    def _link_timer(self, held: weakref.ref[LinkRecord], now: float) -> None:
        record = held()
        if record is None:
            return
        record.timer_at = float("inf")
        try:
            due = record.link.next_timer()
            if due is not None and due <= now:
                record.link.handle_timer(now)
        except Exception as error:  # noqa: BLE001 - see `contain`
            self.contain(record, error, now)
        self.service(record, now)

    def _retire(self, record: LinkRecord) -> None:
        if self.peers.records.pop(record.id, None) is not None and not record.is_finished:
            record.is_finished = True
            record.connection.close()

    # -- faults of our own ---------------------------------------------------------------------------------------

    def contain(self, record: LinkRecord, error: Exception, now: float) -> None:
        """An unexpected exception came of one connection: that one ends (`internal_error`), the node goes on.

        Whatever a peer may find to say that we did not think of, it costs the peer its connection and nobody else's.
        An exception anywhere else, here included, ends the loop, and with it the node: see `_failed`.
        """
        if record.is_faulty or record.id not in self.peers.records:
            return
        record.is_faulty = record.in_service = True
        who = record.link.peer or record.connection.address
        _log.error("%s: internal_error: its connection ends, the node goes on", who, exc_info=error)
        session = record.session
        was_up = session is not None and session.record is record
        detail = f"a fault in this program: {type(error).__name__}"
        with contextlib.suppress(Exception):  # it is broken; what can be said to the peer is said
            record.link.refuse("internal_error", detail, now)
            record.transmit()
        kind = CloseKind.LOST if was_up else CloseKind.FAILED
        self.peers.on_closed(record, LinkClosed(kind=kind, code="internal_error", side=Side.OURS, detail=detail), now)
        if was_up:
            self.counters.count_rejection("internal_error")
        self._retire(record)

    def _contain_connection(self, connection: Connection, error: Exception, now: float) -> None:
        owner = connection.user
        if isinstance(owner, LinkRecord):
            self.contain(owner, error, now)
            return
        _log.error("%s: internal_error: its connection ends, the node goes on", connection.address, exc_info=error)
        self.counters.count_rejection("internal_error")
        connection.abort()
        if isinstance(owner, Dial):
            self._dial_broken(owner, error, now)

    def _failed(self, failure: ThreadFailure) -> None:
        """The loop is dead, so the node is: everybody who waits, and whoever calls from now on, gets the error."""
        with self.lock:
            self.error = LocalError(
                "node_failed", f"node {self._name} has failed: {failure.detail}", remedy="see the log; make a new node"
            )
            self.publisher.close(self.error)
            self.peers.asker.fail_all(self.error)
            for session in self.peers.sessions.values():
                if session.record is not None:
                    self.peers.reports.link(
                        session.record, PeerState.LOST, code="node_failed", side=Side.OURS, detail=failure.detail
                    )
                    session.lost(self.environment.clock())
            self.peers.records.clear()
            for inbox in self.peers.inboxes:
                inbox.end(self.error)
            for transport in self._transports.values():
                with contextlib.suppress(Exception):  # the peers should notice now, not after their patience
                    transport.close()
            self._transports.clear()
            self.loop.changed.notify_all()

    # -- the application -----------------------------------------------------------------------------------------

    def transport(self, endpoint: Endpoint) -> Transport:
        """The node's transport of this kind, made when first needed."""
        transport = self._transports.get(endpoint.transport)
        if transport is None:
            options = Options(connect_timeout_s=self.settings.connect_timeout_s)
            transport = self.environment.make_transport(endpoint.transport, self.loop.selector, self.loop.wake, options)
            self._transports[endpoint.transport] = transport
        return transport

    def listen(self, endpoint: Endpoint) -> Endpoint:
        """Listen; returns the endpoint as bound."""
        bound = self.transport(endpoint).listen(endpoint)
        self.listening[str(bound)] = bound
        self.loop.wake()
        return bound

    def keys_changed(self, now: float) -> None:
        """New keys, trust or deny list are in force: end what they would not have let in, as far as we can tell."""
        for record in list(self.peers.records.values()):
            try:
                if self._channels.denies(record.link.identity):
                    record.link.refuse("certificate_revoked", "its certificate was put on the deny list", now)
                elif record.mechanism == "tls" and record.link.identity is None:
                    # Judged by the old trust it could come up after the new one is in force.
                    record.link.fail("keys_changed", Side.OURS, "our keys or our trust changed during the handshake")
            except Exception as error:  # noqa: BLE001 - see `contain`
                self.contain(record, error, now)
            self.service(record, now)

    def snapshot(self) -> CountersSnapshot:
        """The counters, with those that the outboxes hold."""
        sessions = self.peers.sessions
        return self.counters.snapshot(
            dropped={
                name: {cause: dict(topics) for cause, topics in session.outbox.dropped.items()}
                for name, session in sessions.items()
            },
            acknowledged={name: session.acknowledged_events for name, session in sessions.items()},
            encode_calls=self.publisher.codec.encode_calls,
            flushes=self.publisher.flushes,
            late_answers=sum(record.link.asking.late for record in self.peers.records.values()),
            overdue=sum(record.link.asking.overdue for record in self.peers.records.values()),
            turned_away=self.turned_away(),
        )

    def turned_away(self) -> dict[str, int]:
        """Strangers that listeners shut out, by code."""
        return dict(sum((transport.counters.refused for transport in self._transports.values()), Counter[str]()))

    def stop(self) -> None:
        """End the loop and everything it holds; nothing is drained any more."""
        self.loop.signal_stop()
        self.loop.wait_stop(5.0)
        with self.lock:
            self.publisher.close()
            self.peers.asker.fail_all(LocalError("closed", "the node is closed"))
            self.publisher.account_for_the_rest()
            self.peers.stores.close()
            if self.peers.spill is not None:
                self.peers.spill.close()
            for session in self.peers.sessions.values():
                session.departed("closing", self.environment.clock())
            for transport in self._transports.values():
                transport.close()
            self._transports.clear()
        if self.durable is not None:
            self.durable.close()
        self._resolver.close()
        with contextlib.suppress(OSError):
            self.loop.close()
