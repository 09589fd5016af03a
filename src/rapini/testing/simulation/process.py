"""One incarnation of a simulated node: the real `Core`, and an application on top of it.

The application publishes numbered events, consumes at a pace of its own, commits what it made of durable events, and
changes its mind about its subscriptions; all of it on one real thread, at the granularity of the node's lock, which is
the granularity at which the threads of a real node meet. What would block a thread is not done: it is tried again.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from selectors import BaseSelector
from typing import TYPE_CHECKING, Final

from rapini.events.delivery import DELIVERIES, Delivery
from rapini.node.admission import Admission
from rapini.node.core import Core
from rapini.node.counters import CountersSnapshot
from rapini.node.durable import DurableStream
from rapini.node.environment import Environment
from rapini.node.inbox import EventRun, Inbox, ReceivedBatch
from rapini.node.status import Gap, PeerStatus
from rapini.session.outbox import Batch, DropCause, Outbox
from rapini.testing.simulation.channels import SimChannels
from rapini.testing.simulation.durable import PowerCut, SimStream
from rapini.testing.simulation.events import SimEvent, SimLog
from rapini.testing.simulation.loop import VirtualLoop
from rapini.testing.simulation.stores import StoreUser
from rapini.testing.simulation.transport import SimTransport
from rapini.transport import Options
from rapini.transport.base import Wake

if TYPE_CHECKING:
    from rapini.testing.simulation.node import SimNode

__all__ = ["Process"]

_WALL_S: Final = 1_700_000_000.0
_LATE_SYNCS: Final = 0.08
"""How often a sync comes late."""


class _SimInbox(Inbox):
    """An inbox that tells a witness what is put, when it is put, and how many bytes it holds."""

    def __init__(self, process: Process) -> None:
        super().__init__(process.core.counters)
        self._process = process
        self._current: ReceivedBatch | None = None

    def put(self, batch: ReceivedBatch) -> None:
        """See `Inbox.put`."""
        process = self._process
        process.witness.batch(process, batch)
        process.held[batch.peer] += batch.size
        process.held_of_epoch[batch.peer, batch.epoch] += batch.size
        batch.taken = partial(self._taken, batch.taken)
        super().put(batch)

    def put_status(self, status: PeerStatus) -> None:
        """See `Inbox.put_status`."""
        self.release()
        self._process.witness.status(self._process, status)
        super().put_status(status)

    def take(self) -> tuple[ReceivedBatch | None, list[EventRun] | PeerStatus | Gap | None]:
        """Take an item, with the batch that it came of."""
        self.finish()
        self._current = None
        item = self.get(0)
        return self._in_hand if self._in_hand is not None else self._current, item

    def _taken(self, tell: Callable[[ReceivedBatch], None], batch: ReceivedBatch) -> None:
        self._current = batch
        self._process.held[batch.peer] -= batch.size
        self._process.held_of_epoch[batch.peer, batch.epoch] -= batch.size
        tell(batch)


class _WatchedOutbox(Outbox):
    """An outbox that tells a witness what gets a number."""

    def __init__(self, process: Process, *arguments: object, **named: object) -> None:
        super().__init__(*arguments, **named)  # type: ignore[arg-type]
        self._process = process

    def put(self, batch: Batch, delivery: Delivery, now: float, *, may_exceed: bool = False) -> bool:
        """See `Outbox.put`."""
        self._process.owed(self, batch, delivery)
        return super().put(batch, delivery, now, may_exceed=may_exceed)

    def lose(self, batch: Batch, delivery: Delivery, cause: DropCause) -> None:
        """See `Outbox.lose`."""
        self._process.owed(self, batch, delivery)
        super().lose(batch, delivery, cause)

    def session_restarted(self) -> None:
        """See `Outbox.session_restarted`."""
        super().session_restarted()
        self._process.renumbered(self)


class Process:
    """One incarnation of a node: everything that a crash takes away. Made by `SimNode`."""

    def __init__(self, node: SimNode, run: int) -> None:
        self.node = node
        self.name = node.name
        self.run = run
        """Which start of the node this is, from 1."""
        self.world = node.world
        self.witness = node.witness
        self.random = node.world.random("process", node.name, run)
        self.next_number = 0
        """Number of the next event to be published."""
        self.held: Counter[str] = Counter()
        """Bytes of batches that wait in the inbox, by peer."""
        self.held_of_epoch: Counter[tuple[str, int]] = Counter()
        """The same by peer and epoch."""
        self.is_alive = True
        self.is_paused = False
        self.is_leaving = False
        self.resumed_at = self.world.now
        """When it last started or went on after a pause, in the world's seconds."""
        self.paused_s = 0.0
        """How long its last pause was."""
        self._paused_at = 0.0
        plan = node.plan
        offset_s = plan.clock_offset_s
        world = self.world
        environment = Environment(
            clock=lambda: world.now + offset_s,
            wall=lambda: _WALL_S + world.now + node.wall_jump_s,
            random=self.random.random,
            entropy=self.random.randbytes,
            make_transport=self._make_transport,
            make_loop=partial(
                VirtualLoop,
                world=world,
                draw=self.random.random,
                turned=self._turned,
                guard=self.guarded,
            ),
            make_outbox=partial(_WatchedOutbox, self),
        )
        channels = SimChannels(plan.name, plan.settings, self.random.randbytes, is_attested=plan.is_attested)
        self._sync_at = float("inf")
        self._is_consuming = False
        self._deferred: list[Callable[[], None]] = []
        self._uncommitted = 0
        self._commit_is_due = False
        self._is_resubscribed = False
        self.transports: list[SimTransport] = []
        self.core = Core(
            plan.name,
            plan.settings,
            channels,
            Admission(None, plan.name),
            environment,
            node.output if plan.is_checkpointed else None,
            self._durable_stream if plan.spool is not None else None,
        )
        loop = self.core.loop
        if not isinstance(loop, VirtualLoop):
            raise AssertionError("the core takes its loop from the environment")
        self.loop = loop
        self.inbox = _SimInbox(self)
        self.inbox.prefixes = plan.prefixes
        self.inbox.on_put = self._something_to_consume
        self.consume_every_s = plan.consume_every_s
        self.store = StoreUser(self, plan.store) if plan.store is not None else None

    @property
    def incarnation(self) -> bytes:
        """What it calls itself in greetings."""
        return self.core.peers.incarnation

    @property
    def is_running(self) -> bool:
        """Alive and not standing still."""
        return self.is_alive and not self.is_paused

    def clock(self) -> float:
        """What its monotonic clock shows."""
        return self.core.environment.clock()

    def begin(self) -> None:
        """Listen, dial, subscribe, publish."""
        plan = self.node.plan
        core = self.core
        with core.lock:
            core.peers.inboxes.append(self.inbox)
            if self.store is not None:
                self.store.open()
            if plan.does_listen:
                core.listen(self.node.endpoint)
            for name in plan.dials:
                core.dial(self.node.endpoint_of(name))
            core.peers.subscribe(plan.prefixes, self.clock())
        self.loop.begin()
        if plan.topics:
            self.world.after(self.random.random() * plan.burst_every_s, self._burst)
        if plan.resubscribes_every_s:
            self._resubscribe_later()

    def _make_transport(self, name: str, poller: BaseSelector, wake: Wake, options: Options) -> SimTransport:
        del poller  # nothing here has a descriptor
        transport = SimTransport(
            self.node.network, self.node.host, wake, options, self.random, is_message_based=name == "zmq"
        )
        self.transports.append(transport)
        return transport

    def _durable_stream(self, lock: threading.RLock, on_synced: Callable[[], None]) -> DurableStream:
        plan, settings = self.node.plan.spool, self.node.plan.settings
        if plan is None:
            raise AssertionError("only nodes with a spool have a stream")
        return SimStream(
            self,
            max_bytes=plan.max_bytes,
            segment_bytes=plan.segment_bytes,
            drops_oldest=settings.durable_overflow == "drop_oldest",
            lease_s=settings.durable_lease_s,
            lock=lock,
            on_synced=on_synced,
        )

    def _turned(self) -> None:
        self.witness.turned(self)

    # -- told by the watched parts -------------------------------------------------------------------------------

    def owed(self, outbox: Outbox, batch: Batch, delivery: Delivery) -> None:
        """Events get numbers."""
        for session in self.core.peers.sessions.values():
            if session.outbox is outbox:
                self.witness.owed_to(self, session, delivery, batch)

    def renumbered(self, outbox: Outbox) -> None:
        """Numbers begin anew."""
        for session in self.core.peers.sessions.values():
            if session.outbox is outbox:
                self.witness.renumbered(self, session)

    # -- the application -----------------------------------------------------------------------------------------

    def guarded(self, action: Callable[[], None]) -> None:
        """Do something that may meet the end of its power."""
        try:
            action()
        except PowerCut:
            if self.node.process is self:
                self.node.crash("vanish")

    def do(self, action: Callable[[], None]) -> None:
        """Have the application do something: now, when the process goes on, or never if it is dead."""
        if self.is_paused:
            self._deferred.append(action)
        elif self.is_alive:
            self.guarded(action)

    def _burst(self) -> None:
        self.do(self._publish_burst)

    def _publish_burst(self) -> None:
        node = self.node
        if self.is_leaving or not node.publishes:
            return
        self.world.after(node.plan.burst_every_s * (0.5 + self.random.random()), self._burst)
        self.publish(self.random.randint(1, node.plan.burst_events))

    def publish(self, count: int, topic: str = "") -> None:
        """Publish so many events on one topic, unless that would block."""
        plan, random, publisher = self.node.plan, self.random, self.core.publisher
        topic = topic or random.choice(plan.topics)
        for _ in range(count):
            if publisher.is_blocked() or self._would_block():
                return  # a thread would wait here; the next burst tries again
            filler = bytes(random.randrange(plan.filler_bytes + 1))
            number, self.next_number = self.next_number, self.next_number + 1
            self.witness.published(self, topic, number)
            if topic == "sim/events":
                publisher.publish(SimEvent(self.name, self.run, number, filler))
            elif topic == "sim/logs":
                publisher.publish(SimLog(self.name, self.run, number, filler))
            else:
                publisher.publish(SimEvent(self.name, self.run, number, filler), topic)

    def _would_block(self) -> bool:
        settings = self.node.plan.settings
        durable = self.core.durable
        if durable is not None and settings.durable_overflow == "block" and not durable.has_room():
            return True
        policies = settings.overflow, settings.reliable_overflow
        return any(
            session.record is not None and policy == "block" and not flow.has_room()
            for session in self.core.peers.sessions.values()
            for flow, policy in zip(session.outbox.flows, policies, strict=True)
        )

    def delivery_of(self, topic: str) -> Delivery:
        """The class of a topic here."""
        return DELIVERIES[self.node.plan.settings.delivery.get(topic, "best_effort")]

    def _something_to_consume(self) -> None:
        if not self._is_consuming and self.node.consumes:
            self._is_consuming = True
            self.world.after(self.consume_every_s * self.random.random() + 0.00005, self._consume_later)

    def consume_again(self) -> None:
        """The consumer goes on after it was held up."""
        self._something_to_consume()

    def _consume_later(self) -> None:
        self.do(self._consume)

    def _consume(self) -> None:
        self._is_consuming = False
        if not self.node.consumes:
            return
        every_s = self.consume_every_s
        for _ in range(1 if every_s else 1000):
            batch, item = self.inbox.take()
            if item is None:
                return
            self._took(batch, item)
        self._something_to_consume()

    def _took(self, batch: ReceivedBatch | None, item: list[EventRun] | PeerStatus | Gap) -> None:
        self.witness.consumed(self, batch, item)
        if batch is None or not batch.stream_id or not self.node.plan.is_checkpointed:
            return
        if isinstance(item, list):
            for run in item:
                for number in range(run.first_sequence, run.first_sequence + len(run.events)):
                    self.node.output.write(batch.stream_id, number)
                # What `Node.items` notes before it gives a run to the application.
                self.inbox.progress[batch.stream_id] = run.first_sequence + len(run.events)
        self._uncommitted += 1
        if self._uncommitted >= self.node.plan.commit_every and self.random.random() < 0.5:
            self._commit()
        elif not self._commit_is_due:
            self._commit_is_due = True
            self.world.after(self.node.plan.commit_within_s, lambda: self.do(self._commit_in_time))

    def _commit_in_time(self) -> None:
        if not self.node.consumes:  # it is held up, and commits when it goes on
            self.world.after(self.node.plan.commit_within_s, lambda: self.do(self._commit_in_time))
            return
        self._commit_is_due = False
        self.inbox.finish()
        self._commit()

    def _commit(self) -> None:
        """What `Node.checkpoint` does."""
        self._uncommitted = 0
        positions = dict(self.inbox.progress)
        self.node.output.commit(positions)
        self.witness.committed(self)
        with self.core.lock:
            self.core.peers.durables.commit(positions, self.clock())

    def _resubscribe_later(self) -> None:
        delay_s = self.node.plan.resubscribes_every_s * (0.5 + self.random.random())
        self.world.after(delay_s, lambda: self.do(self._resubscribe))

    def _resubscribe(self) -> None:
        """Want something else, or again what it wanted first."""
        plan = self.node.plan
        if self.is_leaving:
            return
        if plan.resubscribes_every_s and self.node.publishes:
            self._resubscribe_later()
            self._is_resubscribed = not self._is_resubscribed
        else:
            self._is_resubscribed = False
        wanted = plan.prefixes
        if self._is_resubscribed:
            wanted = (self.random.choice(("sim/", "conn/", "dns/", "sim/logs", "conn/closed")),)
        with self.core.lock:
            self.inbox.prefixes = wanted
            self.core.peers.subscribe(wanted, self.clock())

    # -- the disk ------------------------------------------------------------------------------------------------

    def sync_soon(self) -> None:
        """The thread that syncs was woken."""
        plan = self.node.plan.spool
        if plan is None or self._sync_at < float("inf"):
            return
        longest_s = plan.late_sync_s if self.random.random() < _LATE_SYNCS else plan.sync_after_s
        self._sync_at = self.world.now + longest_s * self.random.random()
        self.world.at(self._sync_at, lambda: self.do(self._sync))

    def _sync(self) -> None:
        self._sync_at = float("inf")
        stream = self.core.durable
        if isinstance(stream, SimStream):
            with self.core.lock:
                is_good = stream.sync_once()
            if not is_good:
                self.sync_soon()

    # -- the end -------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Stand still."""
        self.is_paused = True
        self._paused_at = self.world.now
        self.loop.stand_still()

    def go_on(self) -> None:
        """Go on after a pause; who runs first, the I/O thread or the application, is chance."""
        if not self.is_alive:
            return
        self.is_paused = False
        self.resumed_at = self.world.now
        self.paused_s = self.world.now - self._paused_at
        deferred, self._deferred = self._deferred, []
        self.loop.go_on()
        for action in deferred:
            self.world.after(self.random.random() * 0.0008, partial(self.do, action))

    def leave(self) -> None:
        """Say goodbye to everybody; the process ends a second later. What `Node.close` does, without a thread."""
        core, now = self.core, self.clock()
        self.is_leaving = True
        with core.lock:
            core.publisher.flush(now)
            core.is_closing = True
            core.publisher.close()
            core.peers.tell_all_taken(now)
            for record in list(core.peers.records.values()):
                record.link.leave("goodbye", "", now)
                core.service(record, now)

    def settle(self) -> None:
        """The last part of `leave`: nothing is drained any more, and everything is accounted for."""
        with self.core.lock:
            self.core.publisher.account_for_the_rest()
            for session in self.core.peers.sessions.values():
                session.departed("closing", self.clock())
        if self.core.durable is not None:
            self.core.durable.close()

    def kill(self, how: str) -> None:
        """The process is gone; `how` says what its kernel tells the peers: see `SimTransport.die`."""
        self.is_alive = False
        self.loop.vanish()
        for transport in self.transports:
            transport.die(how)
        self.node.output.crash()
        self.witness.ended(self)

    def snapshot(self) -> CountersSnapshot:
        """Its counters."""
        return self.core.snapshot()
