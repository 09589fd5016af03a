"""One simulated node: the real `rapini.node.core.Core` on a virtual host, and what an application does with it.

A `SimNode` outlives its processes. `start` makes a new incarnation: a core, an inbox, a consumer; `crash` forgets them,
as SIGKILL or a pulled plug would; `pause` makes the process stand still. The application publishes numbered events
and consumes at a pace of its own; all of it on one real thread, at the granularity of the node's lock, which is the
granularity at which the threads of a real node meet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from selectors import BaseSelector
from typing import TYPE_CHECKING, Final, Protocol

from rapini.errors import LocalError
from rapini.node.admission import Admission
from rapini.node.core import Core
from rapini.node.counters import Counters, CountersSnapshot
from rapini.node.environment import Environment
from rapini.node.inbox import EventRun, Inbox, ReceivedBatch
from rapini.node.settings import NodeSettings
from rapini.node.status import PeerStatus
from rapini.testing.simulation.channels import SimChannels
from rapini.testing.simulation.events import SimEvent, SimLog
from rapini.testing.simulation.loop import VirtualLoop
from rapini.testing.simulation.network import SimNetwork
from rapini.testing.simulation.transport import SimTransport
from rapini.transport import Endpoint, Options
from rapini.transport.base import Wake

if TYPE_CHECKING:
    from rapini.testing.simulation.world import World

__all__ = ["NodePlan", "Process", "SimNode", "Witness"]

PORT: Final = 9750
_WALL_S: Final = 1_700_000_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """What a node is to be in a scenario."""

    name: str
    settings: NodeSettings
    scheme: str = "tcp+plain"
    is_attested: bool = True
    does_listen: bool = False
    dials: tuple[str, ...] = ()
    """Names of the nodes it dials."""
    prefixes: tuple[str, ...] = ()
    """What it subscribes to."""
    topics: tuple[str, ...] = ()
    """What it publishes on; empty for not at all."""
    burst_every_s: float = 0.3
    burst_events: int = 10
    """At most."""
    filler_bytes: int = 64
    """At most."""
    consume_every_s: float = 0.0
    """Pause between two batches taken from the inbox; 0 for as they come."""
    clock_offset_s: float = 0.0
    """Whole seconds that its monotonic clock is ahead of the world's."""


class Witness(Protocol):
    """Who watches the nodes; see `rapini.testing.simulation.observer`."""

    def started(self, process: Process) -> None:
        """A new incarnation runs."""

    def ended(self, process: Process, leftovers: list[list[EventRun]]) -> None:
        """It runs no more; with the batches that its inbox still held."""

    def published(self, process: Process, topic: str, number: int) -> None:
        """The application publishes an event."""

    def status(self, process: Process, status: PeerStatus) -> None:
        """The node reports a status: now, whenever it is consumed."""

    def batch(self, process: Process, batch: ReceivedBatch) -> None:
        """The node received a batch: now, whenever it is consumed."""

    def consumed(self, process: Process, item: list[EventRun] | PeerStatus) -> None:
        """The application takes an item."""

    def turned(self, process: Process) -> None:
        """The node has taken a turn."""


class _SimInbox(Inbox):
    """An inbox that tells a witness what is put, when it is put, and how many bytes it holds."""

    def __init__(self, counters: Counters, process: Process) -> None:
        super().__init__(counters)
        self._process = process

    def put(self, batch: ReceivedBatch) -> None:
        """See `Inbox.put`."""
        process = self._process
        process.witness.batch(process, batch)
        process.held[batch.peer] += len(batch.data)
        process.held_of_epoch[batch.peer, batch.epoch] += len(batch.data)
        batch.taken = partial(process.batch_taken, batch.taken)
        super().put(batch)

    def put_status(self, status: PeerStatus) -> None:
        """See `Inbox.put_status`."""
        self._process.witness.status(self._process, status)
        super().put_status(status)


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
                VirtualLoop, world=world, offset_s=offset_s, draw=self.random.random, turned=self._turned
            ),
        )
        channels = SimChannels(plan.name, plan.settings, self.random.randbytes, is_attested=plan.is_attested)
        self.core = Core(plan.name, plan.settings, channels, Admission(None, plan.name), environment)
        loop = self.core.loop
        if not isinstance(loop, VirtualLoop):
            raise AssertionError("the core takes its loop from the environment")
        self.loop = loop
        self.inbox = _SimInbox(self.core.counters, self)
        self.inbox.prefixes = plan.prefixes
        self.inbox.on_put = self._something_to_consume
        self.consume_every_s = plan.consume_every_s
        self.transports: list[SimTransport] = []
        self._is_consuming = False
        self._deferred: list[Callable[[], None]] = []

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
            if plan.does_listen:
                core.listen(self.node.endpoint)
            for name in plan.dials:
                core.dial(self.node.endpoint_of(name))
            core.peers.subscribe(plan.prefixes, self.clock())
        self.loop.begin()
        if plan.topics:
            self.world.after(self.random.random() * plan.burst_every_s, self._burst)

    def _make_transport(self, name: str, poller: BaseSelector, wake: Wake, options: Options) -> SimTransport:
        del poller  # nothing here has a descriptor
        transport = SimTransport(
            self.node.network, self.node.host, wake, options, self.random, is_message_based=name == "zmq"
        )
        self.transports.append(transport)
        return transport

    def _turned(self) -> None:
        self.witness.turned(self)

    # -- the application -----------------------------------------------------------------------------------------

    def do(self, action: Callable[[], None]) -> None:
        """Have the application do something: now, when the process goes on, or never if it is dead."""
        if self.is_paused:
            self._deferred.append(action)
        elif self.is_alive:
            action()

    def _burst(self) -> None:
        self.do(self._publish_burst)

    def _publish_burst(self) -> None:
        node = self.node
        if self.is_leaving or not node.publishes:
            return
        self.publish(self.random.randint(1, node.plan.burst_events))
        self.world.after(node.plan.burst_every_s * (0.5 + self.random.random()), self._burst)

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
        if self.node.plan.settings.overflow != "block":
            return False
        sessions = self.core.peers.sessions.values()
        return any(session.record is not None and not session.outbox.has_room() for session in sessions)

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
            item = self.inbox.get(0)
            if item is None:
                return
            self.took(item)
        self._something_to_consume()

    def batch_taken(self, tell: Callable[[ReceivedBatch], None], batch: ReceivedBatch) -> None:
        """The consumer takes a batch out of the inbox."""
        self.held[batch.peer] -= len(batch.data)
        self.held_of_epoch[batch.peer, batch.epoch] -= len(batch.data)
        tell(batch)

    def took(self, item: list[EventRun] | PeerStatus) -> None:
        """Account for an item of the inbox."""
        self.witness.consumed(self, item)

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
                session.departed("closing")

    def kill(self, how: str) -> None:
        """The process is gone; `how` says what its kernel tells the peers: see `SimTransport.die`."""
        self.is_alive = False
        self.loop.vanish()
        for transport in self.transports:
            transport.die(how)
        leftovers: list[list[EventRun]] = []
        while (item := self._leftover()) is not None:
            if not isinstance(item, PeerStatus):
                leftovers.append(item)
        self.witness.ended(self, leftovers)

    def _leftover(self) -> list[EventRun] | PeerStatus | None:
        try:
            return self.inbox.get(0)
        except LocalError:
            return None

    def snapshot(self) -> CountersSnapshot:
        """Its counters."""
        return self.core.snapshot()


class SimNode:
    """A node across its starts.

    Args:
        plan: What it is to be.
        network: Where it lives; a host is added to it.
        witness: Who watches.
    """

    def __init__(self, plan: NodePlan, network: SimNetwork, witness: Witness) -> None:
        self.plan = plan
        self.name = plan.name
        self.network = network
        self.world: World = network.world
        self.witness = witness
        self.host = network.add_host(plan.name)
        self.process: Process | None = None
        self.runs = 0
        self.publishes = True
        self.consumes = True
        """Whether the consumer takes anything."""
        self.wall_jump_s = 0.0
        """What its wall clock is wrong by."""
        self.random: Random = self.world.random("node", plan.name)

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens."""
        return Endpoint.parse(f"{self.plan.scheme}://{self.host.address}:{PORT}")

    def endpoint_of(self, name: str) -> Endpoint:
        """Where another node listens."""
        return Endpoint.parse(f"{self.plan.scheme}://{self.network.hosts[name].address}:{PORT}")

    @property
    def is_running(self) -> bool:
        """Alive and not standing still."""
        return self.process is not None and self.process.is_running

    def start(self) -> Process:
        """Start it as a new incarnation."""
        if self.process is not None:
            raise LocalError("wrong_state", f"{self.name} runs already")
        self.host.is_on = True
        self.runs += 1
        self.process = Process(self, self.runs)
        self.world.note("%s: starts, run %d", self.name, self.runs)
        self.witness.started(self.process)
        self.process.begin()
        return self.process

    def crash(self, how: str) -> None:
        """Kill it: `closed`, `reset`, or `vanish` with the whole machine."""
        process = self.process
        if process is None:
            return
        self.world.note("%s: crashes (%s), run %d", self.name, how, self.runs)
        if how == "vanish":
            self.host.is_on = False
        process.kill(how)
        self.process = None

    def stop_consuming(self) -> None:
        """The application takes nothing more from its inbox for now."""
        self.consumes = False

    def go_on_consuming(self) -> None:
        """The application takes from its inbox again."""
        self.consumes = True
        if self.process is not None:
            self.process.consume_again()
