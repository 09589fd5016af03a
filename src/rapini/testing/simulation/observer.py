"""Watches a simulation from outside and says what must never happen.

Every invariant is a check with a name that stands in the violation. What is compared: what applications published and
took, what statuses were reported and when, what the network did; and at the end the nodes' own counters with that.
Nothing of a node is changed by being watched.

Here: sessions (`lost(n)` before n + 1, epochs grow, only the silent are lost), bounds, liveness. `books` has
best-effort and reliable events, `streambooks` durable ones, `tablewatch` the store.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from rapini import limits
from rapini.codec import EncodedRun
from rapini.events.delivery import Delivery
from rapini.node.inbox import EventRun, ReceivedBatch
from rapini.node.sessions import Session
from rapini.node.status import Gap, PeerState, PeerStatus
from rapini.session.outbox import Batch
from rapini.storage import Spool
from rapini.testing.simulation.books import FlowBooks, Incarnations
from rapini.testing.simulation.network import SimNetwork
from rapini.testing.simulation.node import SimNode
from rapini.testing.simulation.process import Process
from rapini.testing.simulation.routes import Routes
from rapini.testing.simulation.streambooks import StreamBooks
from rapini.testing.simulation.tablewatch import TableWatch
from rapini.testing.simulation.transport import SimConnection
from rapini.testing.simulation.violation import Violation

__all__ = ["Observer", "Violation"]

_HONEST_CODES: Final = frozenset(
    {
        "", "aborted", "already_known", "cannot_resolve", "closed", "closed_in_handshake", "duplicate_connection",
        "duplicate_name", "goodbye", "greeting_timeout", "handshake_timeout", "introduce",
        "lease_expired", "left", "overloaded", "reset", "refused", "silent", "slow", "stalled", "superseded",
        "timeout", "transport_ended", "too_many_connections", "unreachable",
    }
)  # fmt: skip
"""How sessions and attempts between honest nodes may end. `protocol_error`, `internal_error`, `flood` and their like
mean that one of the two does not keep the protocol."""

_UPS: Final = (PeerState.UP, PeerState.RESUMED, PeerState.RESTARTED)
_DOWNS: Final = (PeerState.LOST, PeerState.LEFT)
_SILENCE_SLACK_S: Final = 0.5
_NOTICED_PAUSE_S: Final = 1.5
"""A pause that a node notices for certain: half a second more than it ever sleeps with a link up."""
_SOON_S: Final = 0.01
_EXCUSE_S: Final = 2.0
"""How long after the end of a disturbance a peer may still be lost by it: it has to wake up, and to say something."""


class Observer:
    """The witness of one run. See `witness.Witness`.

    Args:
        network: What the nodes are joined by.
        nodes: All of them, by name; may be filled later.
    """

    def __init__(self, network: SimNetwork, nodes: dict[str, SimNode]) -> None:
        self.statuses = 0
        self.released = 0
        """Leases that ended."""
        self.incarnations = Incarnations()
        self.flows = FlowBooks(self.incarnations)
        self.streams = StreamBooks()
        self.tables = TableWatch(nodes)
        self._routes = Routes()
        self._network = network
        self._world = network.world
        self._nodes = nodes
        self._published: dict[tuple[str, int], list[str]] = {}
        self._ups: set[tuple[str, int, str, int]] = set()
        """(node, run, peer, epoch) of every session that was ever up at a node."""
        self._live: dict[tuple[str, int, str], int] = {}
        """The epoch in which a peer is up at a node, as its statuses said when they were reported; 0 when it is not."""
        self._told: dict[tuple[str, int, str], int] = {}
        """The same as its application knows it."""
        self._last_epoch: dict[tuple[str, int, str], int] = {}
        self._unwell: dict[str, float] = {}
        """When a node last went on after a pause or a start; infinity while it stands or is dead."""
        self._lost_at: dict[tuple[str, int, str], float] = {}
        """When a peer was lost that is still owed something."""
        self._origins: dict[int, tuple[str, int]] = {}
        """Senders of batches that wait in inboxes."""

    @property
    def delivered(self) -> int:
        """Events that applications took."""
        return self.flows.delivered + self.streams.delivered

    # -- what is seen --------------------------------------------------------------------------------------------

    def started(self, process: Process) -> None:
        """See `witness.Witness`."""
        self.incarnations.add(process)
        settings = process.node.plan.settings
        self.flows.policies[process.name] = settings.overflow, settings.reliable_overflow
        self._published[process.name, process.run] = []
        self._unwell[process.name] = self._world.now

    def ended(self, process: Process) -> None:
        """See `witness.Witness`."""
        self._unwell[process.name] = float("inf")

    def paused(self, name: str) -> None:
        """A node stands still."""
        self._unwell[name] = float("inf")

    def resumed(self, name: str) -> None:
        """A node goes on."""
        self._unwell[name] = self._world.now

    def published(self, process: Process, topic: str, number: int) -> None:
        """See `witness.Witness`."""
        topics = self._published[process.name, process.run]
        if len(topics) != number:
            raise AssertionError("events are numbered without gaps")
        topics.append(topic)
        self._routes.published(process, topic)

    def owed_to(self, process: Process, session: Session, delivery: Delivery, batch: Batch) -> None:
        """See `witness.Witness`."""
        self.flows.owed(process, session, delivery, batch)

    def renumbered(self, process: Process, session: Session) -> None:
        """See `witness.Witness`."""
        self.flows.renumbered(process, session)

    def status(self, process: Process, status: PeerStatus) -> None:
        """See `witness.Witness`."""
        self.statuses += 1
        self._world.note("%s/%d: %s epoch %d %s", process.name, process.run, status, status.epoch, status.endpoint)
        if status.code not in _HONEST_CODES:
            raise Violation("honest peers keep the protocol", f"{process.name}: {status}")
        key = process.name, process.run, status.peer
        if status.state in _UPS:
            self._came_up(process, status)
        elif status.state in _DOWNS:
            if self._live.get(key, 0) != status.epoch:
                raise Violation("lost once", f"{process.name}: {status} of epoch {status.epoch}, not up in that")
            self._live[key] = 0
            if status.state is PeerState.LOST:
                self._lost_at[key] = self._world.now
            if status.state is PeerState.LEFT:
                self._routes.departed(process, status.peer)
            elif status.code == "silent":
                self._check_silence_is_real(process, status)
        elif status.state is PeerState.RELEASED:
            self._lost_at.pop(key, None)
            self.released += 1
            self._routes.departed(process, status.peer)
        elif status.state is PeerState.SYNCING:
            self.tables.admitted(process, status.peer, status.epoch)

    def _came_up(self, process: Process, status: PeerStatus) -> None:
        key = process.name, process.run, status.peer
        if self._live.get(key, 0):
            detail = f"{process.name}: {status.peer} up in epoch {status.epoch} while in {self._live[key]}"
            raise Violation("lost before the next epoch", detail)
        if status.epoch <= self._last_epoch.get(key, 0):
            detail = f"{process.name}: {status.peer} in epoch {status.epoch} after {self._last_epoch[key]}"
            raise Violation("epochs grow", detail)
        self._live[key] = self._last_epoch[key] = status.epoch
        self._lost_at.pop(key, None)
        self._ups.add((*key, status.epoch))
        self._routes.came_up(process, status.peer)
        run = self.incarnations.of_peer(process, status.peer)[1]
        self.tables.came_up(process, status.peer, run, status.epoch)

    def _check_silence_is_real(self, process: Process, status: PeerStatus) -> None:
        """Our own pause never makes others lost, nor does anything else but their silence."""
        if self._lies_unread(process, status):
            detail = (
                f"{process.name} went on after {process.paused_s:.1f} s and lost {status.peer} with its bytes unread"
            )
            raise Violation("our own pause loses nobody", detail)
        if self._is_disturbed(process, status):
            return
        # Both directions: a peer that has not heard our Ready does not beat yet.
        paths = self._network.path(status.peer, process.name), self._network.path(process.name, status.peer)
        if any(path.is_blocked for path in paths):
            return
        last = max(self._unwell.get(status.peer, 0.0), *(path.ended_at for path in paths))
        patience_s = process.node.plan.settings.heartbeat_timeout_s
        if self._world.now - last > max(_EXCUSE_S, patience_s):
            detail = f"{process.name} lost {status.peer}, which was well and within reach since {last:.3f}"
            raise Violation("only the silent are lost", detail)

    def _lies_unread(self, process: Process, status: PeerStatus) -> bool:
        """Whether a process that has just gone on gives up a peer whose words wait in its kernel."""
        if process.paused_s < _NOTICED_PAUSE_S or self._world.now > process.resumed_at + _SOON_S:
            return False
        return any(
            isinstance(record.connection, SimConnection) and record.connection.owner.has_unread(record.connection)
            for record in process.core.peers.records.values()
            if record.link.peer == status.peer and record.link.epoch == status.epoch
        )

    def _is_disturbed(self, process: Process, status: PeerStatus) -> bool:
        """Whether the lost session's own connection swallows or holds back what the peer sends."""
        for record in process.core.peers.records.values():
            connection = record.connection
            if record.link.peer == status.peer and record.link.epoch == status.epoch:
                if not isinstance(connection, SimConnection) or connection.other is None or connection.other.is_over:
                    return True
                pipes = [pipe for pipe in (connection.inn, connection.out) if pipe is not None]
                return any(pipe.is_swallowing or pipe.is_squeezed or pipe.is_broken for pipe in pipes)
        return False

    def batch(self, process: Process, batch: ReceivedBatch) -> None:
        """See `witness.Witness`."""
        key = process.name, process.run, batch.peer
        # Who leaves while it syncs still takes what comes, and was never told that the peer is up.
        if self._live.get(key, 0) != batch.epoch and not process.is_leaving:
            detail = (
                f"{process.name} received events of {batch.peer} in epoch {batch.epoch}, up is {self._live.get(key)}"
            )
            raise Violation("no event before Ready, none after lost", detail)
        sender = self.incarnations.of_peer(process, batch.peer)
        if (*sender, process.name, batch.epoch) not in self._ups:
            detail = f"{batch.peer} sent events to {process.name} in epoch {batch.epoch} before it was up there"
            raise Violation("no event before both are Ready", detail)
        held = process.held_of_epoch[batch.peer, batch.epoch]
        if held and held + batch.size > process.node.plan.settings.window_bytes:
            detail = f"{batch.peer} sent {batch.size} bytes to {process.name}, which holds {held}"
            raise Violation("credit is kept", detail)
        if batch.stream_id:
            self.streams.received(process, batch)
        else:
            self.flows.received(process, batch)
            self._origins[id(batch)] = sender

    def consumed(self, process: Process, batch: ReceivedBatch | None, item: list[EventRun] | PeerStatus | Gap) -> None:
        """See `witness.Witness`."""
        if isinstance(item, PeerStatus):
            key = process.name, process.run, item.peer
            if item.state in _UPS:
                self._told[key] = item.epoch
            elif item.state in _DOWNS:
                self._told[key] = 0
            return
        if batch is None:
            raise AssertionError("events and gaps come of batches")
        if self._told.get((process.name, process.run, batch.peer), 0) != batch.epoch and not process.is_leaving:
            detail = f"{process.name} is given events of {batch.peer} in epoch {batch.epoch}, and was told otherwise"
            raise Violation("events and statuses are in order", detail)
        if batch.stream_id:
            self.streams.taken(process, batch, item)
        else:
            self.flows.taken(process, batch, item, self._origins.pop(id(batch)))

    # -- durable streams -----------------------------------------------------------------------------------------

    def spool_opened(self, process: Process, spool: Spool) -> None:
        """See `witness.Witness`."""
        self.streams.opened(process, spool)

    def stored(self, process: Process, spool: Spool, run: EncodedRun) -> None:
        """See `witness.Witness`."""
        self.streams.stored(process, spool, run)

    def dropped(self, spool: Spool) -> None:
        """See `witness.Witness`."""
        self.streams.dropped(spool)

    def synced(self, process: Process, spool: Spool) -> None:
        """See `witness.Witness`."""
        del process
        self.streams.synced(spool)

    def not_wanted(self, process: Process, spool: Spool, topic: str) -> None:
        """See `witness.Witness`."""
        self.streams.not_wanted(process, spool, topic)

    def owes(self, process: Process, spool: Spool, name: str, prefixes: tuple[str, ...], position: int) -> None:
        """See `witness.Witness`."""
        del process
        self.streams.owes(spool, name, prefixes, position)

    def owed(self, process: Process, spool: Spool, names: set[str]) -> None:
        """See `witness.Witness`."""
        del process
        self.streams.owed(spool, names)

    def committed(self, process: Process) -> None:
        """See `witness.Witness`."""
        self.streams.committed(process)

    # -- bounds, silence -----------------------------------------------------------------------------------------

    def turned(self, process: Process) -> None:
        """See `witness.Witness`."""
        self.check_bounds(process)
        self.tables.turned(process)

    def check_bounds(self, process: Process) -> None:
        """Every queue is within its bound, and what a node believes to hold for others is what it holds."""
        settings = process.node.plan.settings
        for session in process.core.peers.sessions.values():
            for flow in session.outbox.flows:
                largest = limits.MAX_CARRIER_BYTES
                if flow.kept_bytes > settings.send_queue_bytes + largest:
                    raise Violation(
                        "outboxes are bounded", f"{process.name} keeps {flow.kept_bytes} for {session.name}"
                    )
                if session.is_departed and flow.kept_bytes:
                    raise Violation("a lease that is over is let go", f"{process.name} keeps things for {session.name}")
            held = process.held[session.name]
            if held > session.held_bytes:
                detail = f"{process.name} holds {held} bytes of {session.name} and accounts for {session.held_bytes}"
                raise Violation("inboxes are accounted for", detail)
            bound = 2 * max(settings.window_bytes, limits.MAX_FRAME_BYTES) + settings.window_bytes
            if held > bound:
                raise Violation("inboxes are bounded", f"{process.name} holds {held} bytes of {session.name}")
        durable, plan = process.core.durable, process.node.plan.spool
        if durable is not None and plan is not None and durable.spool.size_bytes > plan.max_bytes:
            raise Violation("spools are bounded", f"{process.name} has {durable.spool.size_bytes} bytes in its spool")

    def sweep(self) -> None:
        """What has to be looked at when nothing happens: nobody is silent and up for long."""
        now = self._world.now
        for node in self._nodes.values():
            process = node.process
            if process is None or process.is_paused:
                continue
            self._check_leases(process)
            patience_s = node.plan.settings.heartbeat_timeout_s + _SILENCE_SLACK_S
            for record in process.core.peers.records.values():
                connection = record.connection
                if not record.is_up or not isinstance(connection, SimConnection) or connection.inn is None:
                    continue
                silent_s = now - max(connection.inn.delivered_at, process.resumed_at)
                if silent_s > patience_s:
                    detail = f"{process.name} has {record.link.peer} up after {silent_s:.2f} s of silence"
                    raise Violation("the silent are lost", detail)

    def _check_leases(self, process: Process) -> None:
        lease_s = process.node.plan.settings.lease_s + _SILENCE_SLACK_S
        for (name, run, peer), lost_at in self._lost_at.items():
            if (name, run) != (process.name, process.run) or self._world.now < max(
                lost_at, process.resumed_at
            ) + lease_s:
                continue
            if not any(record.link.peer == peer for record in process.core.peers.records.values()):
                raise Violation("leases end", f"{name} lost {peer} at {lost_at:.3f} and has not released it")

    def seen(self) -> Counter[str]:
        """How often what is judged here came to pass: a promise about what never happens proves nothing."""
        seen = Counter({f"gap, {kind}": count for kind, count in (self.flows.gaps + self.streams.gaps).items()})
        seen["lease ended"] = self.released
        seen["spool found again"] = self.streams.recovered
        seen["version of a clone"] = self.tables.changes_seen
        seen["power cut in a write"] = sum(node.power.cuts for node in self._nodes.values())
        seen["event, durable"] = self.streams.delivered
        seen["event, not durable"] = self.flows.delivered
        return seen

    # -- liveness and the end ------------------------------------------------------------------------------------

    def missing_sessions(self, edges: list[tuple[str, str]]) -> list[str]:
        """Pairs of nodes that should have a session and have none that both are up in."""
        missing: list[str] = []
        for one, other in edges:
            first, second = self._nodes[one].process, self._nodes[other].process
            if first is None or second is None:
                missing.append(f"{one}-{other} (dead)")
                continue
            epochs = self._live.get((one, first.run, other), 0), self._live.get((other, second.run, one), 0)
            if not epochs[0] or epochs[0] != epochs[1]:
                missing.append(f"{one}-{other} (epochs {epochs[0]} and {epochs[1]})")
        return missing

    def unsettled(self) -> list[str]:
        """What still moves: events collected, queued, unacknowledged or unread."""
        found: list[str] = []
        for node in self._nodes.values():
            process = node.process
            if process is None:
                found.append(f"{node.name} is dead")
                continue
            found += [f"{node.name} holds {size} bytes of {peer}" for peer, size in process.held.items() if size]
            found += [
                f"{node.name} keeps {session.outbox.kept_bytes} bytes for {session.name}"
                for session in process.core.peers.sessions.values()
                if session.record is not None and not session.outbox.is_idle
            ]
            found += self._unsettled_streams(process)
            found += self.tables.unsettled(process)
            if process.core.publisher.flush_at is not None:
                found.append(f"{node.name} is about to flush")
        return found

    def _unsettled_streams(self, process: Process) -> list[str]:
        durable = process.core.durable
        if durable is None:
            return []
        spool = durable.spool
        found = []
        if spool.synced_sequence < spool.next_sequence:
            found.append(f"{process.name} has not synced")
        for session in process.core.peers.sessions.values():
            place, receiver = session.place, self._nodes[session.name].process
            if place is not None and (place.position < spool.synced_sequence or not place.is_idle):
                found.append(f"{process.name} has sent {session.name} {place.position} of {spool.synced_sequence}")
            if place is not None and receiver is not None and self.streams.missing(spool, receiver):
                found.append(f"{session.name} has not had all of {process.name}'s stream")
        return found

    def check_accounts(self, process: Process) -> None:
        """What this incarnation published stands in its counters."""
        counted = process.core.counters.published
        waiting = process.core.publisher.waiting
        topics = self._published[process.name, process.run]
        if sum(counted.values()) + waiting != len(topics):
            detail = f"{process.name} published {len(topics)}, counted {dict(counted)}, {waiting} wait"
            raise Violation("published events are counted", detail)
        for name in process.core.peers.sessions:
            plan = self._nodes[name].plan
            owed = self._routes.owed(process, name, plan.prefixes)
            numbered = self.flows.total((process.name, process.run), name)
            if not plan.resubscribes_every_s and owed != numbered:
                detail = f"{process.name} owes {name} {owed} events, and numbered {numbered}"
                raise Violation("who subscribed is owed", detail)

    def check_sessions(self, edges: list[tuple[str, str]]) -> None:
        """When all is quiet, both ends of a session agree on what was said, and hold nothing."""
        for one, other in [*edges, *(edge[::-1] for edge in edges)]:
            sender, receiver = self._nodes[one].process, self._nodes[other].process
            if sender is None or receiver is None:
                raise AssertionError("sessions are compared between living nodes")
            self.flows.check_settled(sender, receiver)
            if sender.core.durable is not None:
                self.streams.check_settled(sender.core.durable.spool, receiver)
            ours = receiver.core.peers.sessions[one]
            if ours.held_bytes or ours.credit_used:
                detail = f"{other} holds {ours.held_bytes} bytes of {one}, credit used {ours.credit_used}"
                raise Violation("nothing is held when all is quiet", detail)
        for node in self._nodes.values():
            if node.process is not None:
                self.tables.check_settled(node.process)
