"""Watches a simulation from outside and says what must never happen.

Every invariant is one method with a name that stands in the violation. What is compared: what applications published
and took, what statuses were reported and when, what the network did; and at the end the nodes' own counters with that.
Nothing of a node is changed by being watched.

For the delivery class `best_effort`: nothing twice, in order, nothing before both sides are up, `lost(n)` between
epochs, every event delivered or counted, queues within their bounds, silence noticed in time and nobody lost by our
own pause.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from rapini import limits
from rapini.node.inbox import EventRun, ReceivedBatch
from rapini.node.status import PeerState, PeerStatus
from rapini.testing.simulation.events import SimEvent, SimLog
from rapini.testing.simulation.ledger import Account, Publications
from rapini.testing.simulation.network import SimNetwork
from rapini.testing.simulation.node import Process, SimNode
from rapini.testing.simulation.transport import SimConnection

__all__ = ["Observer", "Violation"]

_HONEST_CODES: Final = frozenset(
    {
        "", "aborted", "already_known", "cannot_resolve", "closed", "closed_in_handshake", "duplicate_connection",
        "duplicate_name", "goodbye", "greeting_timeout", "handshake_timeout", "left", "reset", "refused", "silent",
        "superseded", "timeout", "transport_ended", "too_many_connections", "unreachable",
    }
)  # fmt: skip
"""How sessions and attempts between honest nodes may end. `protocol_error`, `internal_error`, `flood` and their like
mean that one of the two does not keep the protocol."""

_UPS: Final = (PeerState.UP, PeerState.RESUMED, PeerState.RESTARTED)
_DOWNS: Final = (PeerState.LOST, PeerState.LEFT)
_UNSURE: Final = ("unacknowledged", "peer_left", "closing")
"""Causes under which an event may be counted that was delivered: nobody was left to say so."""

_SILENCE_SLACK_S: Final = 0.5
_NOTICED_PAUSE_S: Final = 1.5
"""A pause that a node notices for certain: half a second more than it ever sleeps with a link up."""
_SOON_S: Final = 0.01
_EXCUSE_S: Final = 2.0
"""How long after the end of a disturbance a peer may still be lost by it: it has to wake up, and to say something."""


class Violation(BaseException):
    """An invariant does not hold. No `Exception`: a node that is watched contains those, and goes on.

    Args:
        invariant: Its name.
        detail: What was seen.
    """

    def __init__(self, invariant: str, detail: str) -> None:
        super().__init__(f"{invariant}: {detail}")
        self.invariant = invariant
        self.detail = detail


class Observer:
    """The witness of one run. See `node.Witness`.

    Args:
        network: What the nodes are joined by.
        nodes: All of them, by name; may be filled later.
    """

    def __init__(self, network: SimNetwork, nodes: dict[str, SimNode]) -> None:
        self.delivered = 0
        """Events that applications took."""
        self.statuses = 0
        self._network = network
        self._world = network.world
        self._nodes = nodes
        self._runs: dict[bytes, tuple[str, int]] = {}
        self._publications: dict[tuple[str, int], Publications] = {}
        self._accounts: dict[tuple[str, int, str], Account] = {}
        self._ups: set[tuple[str, int, str, int]] = set()
        """(node, run, peer, epoch) of every session that was ever up at a node."""
        self._live: dict[tuple[str, int, str], int] = {}
        """The epoch in which a peer is up at a node, as its statuses said when they were reported; 0 when it is not."""
        self._told: dict[tuple[str, int, str], int] = {}
        """The same as its application knows it."""
        self._last_epoch: dict[tuple[str, int, str], int] = {}
        self._unwell: dict[str, float] = {}
        """When a node last went on after a pause or a start; infinity while it stands or is dead."""

    # -- what is seen --------------------------------------------------------------------------------------------

    def started(self, process: Process) -> None:
        """See `node.Witness`."""
        key = process.name, process.run
        if process.incarnation in self._runs:
            raise Violation("incarnations differ", f"{process.name} run {process.run} has another's")
        self._runs[process.incarnation] = key
        self._publications[key] = Publications()
        self._unwell[process.name] = self._world.now

    def ended(self, process: Process, leftovers: list[list[EventRun]]) -> None:
        """See `node.Witness`."""
        self._unwell[process.name] = float("inf")
        for runs in leftovers:
            for run in runs:
                for event in run.events:
                    if isinstance(event, (SimEvent, SimLog)):
                        self._account(event.origin, event.run, process.name).died[run.origin.topic] += 1

    def paused(self, name: str) -> None:
        """A node stands still."""
        self._unwell[name] = float("inf")

    def resumed(self, name: str) -> None:
        """A node goes on."""
        self._unwell[name] = self._world.now

    def published(self, process: Process, topic: str, number: int) -> None:
        """See `node.Witness`."""
        topics = self._publications[process.name, process.run].topics
        if len(topics) != number:
            raise AssertionError("events are numbered without gaps")
        topics.append(topic)

    def status(self, process: Process, status: PeerStatus) -> None:
        """See `node.Witness`."""
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
            if status.state is PeerState.LEFT:
                self._account(process.name, process.run, status.peer).close(self._collected(process))
            elif status.code == "silent":
                self._check_silence_is_real(process, status)

    def _came_up(self, process: Process, status: PeerStatus) -> None:
        key = process.name, process.run, status.peer
        if self._live.get(key, 0):
            detail = f"{process.name}: {status.peer} up in epoch {status.epoch} while in {self._live[key]}"
            raise Violation("lost before the next epoch", detail)
        if status.epoch <= self._last_epoch.get(key, 0):
            detail = f"{process.name}: {status.peer} in epoch {status.epoch} after {self._last_epoch[key]}"
            raise Violation("epochs grow", detail)
        self._live[key] = self._last_epoch[key] = status.epoch
        self._ups.add((*key, status.epoch))
        self._account(process.name, process.run, status.peer).open(self._collected(process))

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
        """See `node.Witness`."""
        key = process.name, process.run, batch.peer
        if self._live.get(key, 0) != batch.epoch:
            detail = (
                f"{process.name} received events of {batch.peer} in epoch {batch.epoch}, up is {self._live.get(key)}"
            )
            raise Violation("no event before Ready, none after lost", detail)
        sender = self._runs.get(process.core.peers.sessions[batch.peer].incarnation)
        if sender is None or (*sender, process.name, batch.epoch) not in self._ups:
            detail = f"{batch.peer} sent events to {process.name} in epoch {batch.epoch} before it was up there"
            raise Violation("no event before both are Ready", detail)
        held = process.held_of_epoch[batch.peer, batch.epoch]
        if held and held + len(batch.data) > process.node.plan.settings.window_bytes:
            detail = f"{batch.peer} sent {len(batch.data)} bytes to {process.name}, which holds {held}"
            raise Violation("credit is kept", detail)

    def consumed(self, process: Process, item: list[EventRun] | PeerStatus) -> None:
        """See `node.Witness`."""
        if isinstance(item, PeerStatus):
            key = process.name, process.run, item.peer
            if item.state in _UPS:
                self._told[key] = item.epoch
            elif item.state in _DOWNS:
                self._told[key] = 0
            return
        for run in item:
            origin = run.origin
            if self._told.get((process.name, process.run, origin.peer), 0) != origin.epoch:
                detail = (
                    f"{process.name} is given events of {origin.peer} in epoch {origin.epoch}, and was told otherwise"
                )
                raise Violation("events and statuses are in order", detail)
            for event in run.events:
                if not isinstance(event, (SimEvent, SimLog)):
                    raise Violation("events arrive as they were", f"{process.name}: {event!r}")
                self._delivered(process, event, origin.topic)

    def _delivered(self, process: Process, event: SimEvent | SimLog, topic: str) -> None:
        account = self._account(event.origin, event.run, process.name)
        number = event.number
        topics = self._publications[event.origin, event.run].topics
        if number >= len(topics) or topics[number] != topic:
            raise Violation("events arrive as they were", f"{process.name}: {event.origin} never published {event!r}")
        last = account.last.get(process.run, -1)
        if number in account.numbers:
            raise Violation("nothing twice", f"{process.name}: {event.origin}/{event.run} number {number}")
        if number < last:
            raise Violation("in order", f"{process.name}: {event.origin}/{event.run} number {number} after {last}")
        if not account.is_owed(number) or not topic.startswith(process.node.plan.prefixes):
            raise Violation("only what was subscribed", f"{process.name}: {event.origin} number {number} on {topic}")
        account.last[process.run] = number
        account.numbers.add(number)
        account.delivered[topic] += 1
        self.delivered += 1

    # -- bounds, silence -----------------------------------------------------------------------------------------

    def turned(self, process: Process) -> None:
        """See `node.Witness`."""
        self.check_bounds(process)

    def check_bounds(self, process: Process) -> None:
        """Every queue is within its bound, and what a node believes to hold for others is what it holds."""
        settings = process.node.plan.settings
        for session in process.core.peers.sessions.values():
            kept = session.outbox.kept_bytes
            if kept > settings.send_queue_bytes + limits.MAX_CARRIER_BYTES:
                raise Violation("outboxes are bounded", f"{process.name} keeps {kept} bytes for {session.name}")
            held = process.held[session.name]
            if held > session.held_bytes:
                detail = f"{process.name} holds {held} bytes of {session.name} and accounts for {session.held_bytes}"
                raise Violation("inboxes are accounted for", detail)

    def sweep(self) -> None:
        """What has to be looked at when nothing happens: nobody is silent and up for long."""
        now = self._world.now
        for node in self._nodes.values():
            process = node.process
            if process is None or process.is_paused:
                continue
            patience_s = node.plan.settings.heartbeat_timeout_s + _SILENCE_SLACK_S
            for record in process.core.peers.records.values():
                connection = record.connection
                if not record.is_up or not isinstance(connection, SimConnection) or connection.inn is None:
                    continue
                silent_s = now - max(connection.inn.delivered_at, process.resumed_at)
                if silent_s > patience_s:
                    detail = f"{process.name} has {record.link.peer} up after {silent_s:.2f} s of silence"
                    raise Violation("the silent are lost", detail)

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
                if not session.outbox.is_idle
            ]
            if process.core.publisher.flush_at is not None:
                found.append(f"{node.name} is about to flush")
        return found

    def check_accounts(self, process: Process, *, is_quiet: bool = True) -> None:
        """Every event that this incarnation published was delivered, or stands in its counters.

        Args:
            process: Whose accounts.
            is_quiet: Nothing waits in any inbox; else only the sums are compared.
        """
        key = process.name, process.run
        publications = self._publications[key]
        collected = self._collected(process)
        counters = process.snapshot()
        published = publications.count([(0, collected)], ("",))
        if dict(published) != {topic: count for topic, count in counters.published.items() if count}:
            raise Violation("published events are counted", f"{process.name}: {dict(published)} {counters.published}")
        for name, session in process.core.peers.sessions.items():
            account = self._account(*key, name)
            prefixes = self._nodes[name].plan.prefixes
            owed = publications.count(account.owed(collected), prefixes) if prefixes else publications.count([], ())
            dropped = counters.dropped.get(name, {})
            unsure = sum((Counter(dropped.get(cause, {})) for cause in _UNSURE), Counter())
            accounted = session.outbox.acknowledged + session.outbox.pending_events
            accounted += sum(sum(topics.values()) for topics in dropped.values())
            if accounted != owed.total():
                detail = f"{process.name} owed {name} {owed.total()} events and accounts for {accounted}"
                raise Violation("every event ends in one account", detail)
            if not is_quiet or not session.outbox.is_idle:
                continue
            for topic in owed.keys() | {topic for topics in dropped.values() for topic in topics}:
                missing = owed[topic] - account.delivered[topic]
                counted = sum(topics.get(topic, 0) for topics in dropped.values())
                if not counted - unsure[topic] <= missing <= counted + account.died[topic]:
                    detail = f"{process.name} to {name} on {topic}: {missing} missing, {counted} counted ({dropped})"
                    raise Violation("every missing event is counted", detail)

    def check_sessions(self, edges: list[tuple[str, str]]) -> None:
        """When all is quiet, both ends of a session agree on what was said, and hold nothing."""
        for one, other in [*edges, *(edge[::-1] for edge in edges)]:
            sender, receiver = self._nodes[one].process, self._nodes[other].process
            if sender is None or receiver is None:
                raise AssertionError("sessions are compared between living nodes")
            theirs, ours = sender.core.peers.sessions[other], receiver.core.peers.sessions[one]
            if theirs.outbox.next_sequence != ours.position or ours.taken != ours.position:
                detail = f"{one} sent {theirs.outbox.next_sequence}, {other} got {ours.position}, took {ours.taken}"
                raise Violation("both ends agree on the numbers", detail)
            if ours.held_bytes or ours.credit_used:
                detail = f"{other} holds {ours.held_bytes} bytes of {one}, credit used {ours.credit_used}"
                raise Violation("nothing is held when all is quiet", detail)

    # -- inside --------------------------------------------------------------------------------------------------

    def _account(self, origin: str, run: int, subscriber: str) -> Account:
        account = self._accounts.get((origin, run, subscriber))
        if account is None:
            account = self._accounts[origin, run, subscriber] = Account()
        return account

    def _collected(self, process: Process) -> int:
        """The number of the first event that is collected and not routed yet."""
        return sum(process.core.counters.published.values())
