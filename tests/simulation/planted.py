"""Small mutations of the real code that misbehave without crashing: what the simulation has to find.

Each is a context manager around one change of one method. They are made of what a hurried change could be: a check left
out, a number one too high, a line forgotten, two lines in the wrong order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from rapini.node.durable import DurableStream
from rapini.node.links import LinkRecord
from rapini.node.peers import Peers
from rapini.node.publisher import Publisher
from rapini.node.reports import Reports
from rapini.node.sessions import Session
from rapini.node.status import PeerState
from rapini.node.stores import Stores
from rapini.node.streams import Streams
from rapini.session.flow import Batch, Hole, SendFlow
from rapini.session.link import Link
from rapini.session.outbox import Outbox
from rapini.session.redial import Redial
from rapini.session.roster import Admit, Claim, Roster
from rapini.session.states import LinkState
from rapini.session.stream import StreamIntake
from rapini.storage import Spool
from rapini.stores import MasterStore
from rapini.stores.backend import TableSnapshot
from rapini.stores.followers import Follower
from rapini.testing import CrashableDisk

Planted = Callable[[], AbstractContextManager[None]]

FAULTS: dict[str, Planted] = {}


def _planted(function: Callable[[], Iterator[None]]) -> Callable[[], Iterator[None]]:
    FAULTS[function.__name__] = contextmanager(function)
    return function


@contextmanager
def _replaced(owner: Any, name: str, replacement: Any) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, original)


@_planted
def acknowledgement_one_too_high() -> Iterator[None]:
    original = Link.acknowledge

    def acknowledge(self: Link, taken: Sequence[int], now: float) -> None:
        original(self, [taken[0], taken[1] + (taken[1] > 0), *taken[2:]], now)

    with _replaced(Link, "acknowledge", acknowledge):
        yield


@_planted
def epoch_reused_after_a_restart() -> Iterator[None]:
    """The responder forgets its own last epoch when the peer is new, and counts from the peer's."""
    original = Roster._admit

    def admit(self: Roster, claim: Claim) -> Admit:
        self.peers.pop(claim.name, None) if claim.known_epoch == 0 else None
        return original(self, claim)

    with _replaced(Roster, "_admit", admit):
        yield


@_planted
def fence_skipped() -> Iterator[None]:
    """Events flow to an admitted peer, and are taken from it, before both have said `Ready`."""
    admit, on_events = Peers._admit, Link._on_events

    def early(self: Peers, record: LinkRecord, epoch: Any, relation: Any, now: float) -> None:
        admit(self, record, epoch, relation, now)
        if record.session is not None and not record.link.is_closed:
            record.session.record = record

    def events(self: Link, *arguments: Any) -> None:
        before, self.state = self.state, LinkState.UP
        try:
            on_events(self, *arguments)
        finally:
            self.state = before

    def is_up(self: LinkRecord) -> bool:
        return self.link.state in (LinkState.SYNCING, LinkState.UP)

    with (
        _replaced(Peers, "_admit", early),
        _replaced(LinkRecord, "is_up", property(is_up)),
        _replaced(Link, "_on_events", events),
    ):
        yield


@_planted
def queue_dropped_without_a_gap() -> Iterator[None]:
    """What waits for a lost peer is thrown away, numbers and all."""
    original = SendFlow.channel_lost

    def channel_lost(self: SendFlow) -> None:
        original(self)
        if self._queued:
            self.next_sequence = self._queued[0].first
            self._queued.clear()
            self._holes_queued = self.queued_bytes = 0

    with _replaced(SendFlow, "channel_lost", channel_lost):
        yield


@_planted
def lost_reported_after_the_next_epoch() -> Iterator[None]:
    original = Reports.status
    held: dict[int, list[Any]] = {}

    def status(self: Reports, status: Any) -> None:
        if status.state is PeerState.LOST and status.code == "superseded":
            held.setdefault(id(self), []).append(status)
            return
        original(self, status)
        if status.is_up:
            for late in held.pop(id(self), []):
                original(self, late)

    with _replaced(Reports, "status", status):
        yield


@_planted
def all_in_doubt_counted_as_lost() -> Iterator[None]:
    """What the peer says it had received is not looked at."""
    original = SendFlow.resumed

    def resumed(self: SendFlow, received: int) -> bool:
        return original(self, received if self.is_reliable else self.acknowledged_sequence)

    with _replaced(SendFlow, "resumed", resumed):
        yield


@_planted
def credit_ignored() -> Iterator[None]:
    original = Outbox.sendable

    def sendable(self: Outbox) -> Any:
        self.window_bytes = 1 << 30
        return original(self)

    with (
        _replaced(Outbox, "sendable", sendable),
        _replaced(Session, "exceeds_credit", lambda self, size: False),
    ):
        yield


def _replayed(entries: int) -> Iterator[None]:
    original = SendFlow.resumed

    def resumed(self: SendFlow, received: int) -> bool:
        ends = [self.acknowledged_sequence, *(entry.after for entry in self._sent)]
        if self.is_reliable and received in ends:
            received = ends[min(max(0, ends.index(received) + entries), len(ends) - 1)]
        return original(self, received)

    with _replaced(SendFlow, "resumed", resumed):
        yield


@_planted
def replayed_from_one_batch_too_early() -> Iterator[None]:
    yield from _replayed(-1)


@_planted
def replayed_from_one_batch_too_late() -> Iterator[None]:
    yield from _replayed(1)


@_planted
def snapshot_without_its_last_delta() -> Iterator[None]:
    """What changed while the snapshot was read is taken for a part of it."""
    original = Follower.begin

    def begin(self: Follower, writer: Any, version: int, snapshot: Any) -> None:
        original(self, writer, version, snapshot)
        if snapshot is not None:
            self.version = version
            entries = snapshot.read(1 << 20, 0)[:-1]
            self._snapshot = TableSnapshot(dict(entries))

    with _replaced(Follower, "begin", begin):
        yield


@_planted
def gap_told_twice() -> Iterator[None]:
    """It is sent again on the next channel, whatever the peer said it had."""
    original = SendFlow.resumed

    def resumed(self: SendFlow, received: int) -> bool:
        told = [entry.item for entry in self._sent if isinstance(entry.item, Hole) and entry.after <= received]
        is_good = original(self, received)
        if is_good and told:
            self.lose(Batch(b"", told[-1].count, told[-1].topics), told[-1].reason)
        return is_good

    with _replaced(SendFlow, "resumed", resumed):
        yield


@_planted
def gap_forgotten() -> Iterator[None]:
    """Of a batch that finds no room nothing is left but the count."""

    def append_hole(self: SendFlow, batch: Batch, cause: str) -> None:
        self.count_drop(batch.topics, cause)

    with _replaced(SendFlow, "_append_hole", append_hole):
        yield


@_planted
def holes_not_renumbered_at_restart() -> Iterator[None]:
    def restarted(self: SendFlow) -> None:
        self.give_up("unacknowledged")
        self._unsend(self.acknowledged_sequence)
        self.next_sequence = self.sent_sequence = 0

    with _replaced(SendFlow, "restarted", restarted):
        yield


@_planted
def what_a_restart_leaves_is_forgotten() -> Iterator[None]:
    original = SendFlow.restarted

    def restarted(self: SendFlow) -> None:
        original(self)
        self._queued.clear()
        self._holes_queued = self.next_sequence = 0

    with _replaced(SendFlow, "restarted", restarted):
        yield


@_planted
def received_counts_as_taken_when_a_peer_is_back() -> Iterator[None]:
    original = SendFlow.resumed

    def resumed(self: SendFlow, received: int) -> bool:
        return original(self, received) and self.acknowledge(received)

    with _replaced(SendFlow, "resumed", resumed):
        yield


@_planted
def position_committed_before_its_output() -> Iterator[None]:
    """What was taken counts as settled though nobody has committed it."""

    def take(self: Streams, stream_id: bytes, start: int, end: int) -> None:
        intake = self._intakes.get(stream_id)
        if intake is not None:
            intake.take(start, end)
            intake.settle()

    with _replaced(Streams, "take", take):
        yield


@_planted
def position_settled_as_soon_as_received() -> Iterator[None]:
    """A subscriber that returns is owed from where it had received, not from what it settled."""
    original = DurableStream.begin

    def begin(self: DurableStream, name: str, prefixes: Any, position: int | None, **named: Any) -> Any:
        place = original(self, name, prefixes, position, **named)
        if position is not None:
            self.spool.acknowledge(name, position)
        return place

    with _replaced(DurableStream, "begin", begin):
        yield


@_planted
def synced_reported_before_fsync() -> Iterator[None]:
    original = CrashableDisk.sync

    def sync(self: CrashableDisk, handle: int) -> None:
        if not self._open[handle][0].name.endswith(".segment"):
            original(self, handle)

    with _replaced(CrashableDisk, "sync", sync):
        yield


@_planted
def sent_before_it_is_on_disk() -> Iterator[None]:
    with _replaced(Spool, "synced_sequence", property(lambda self: self.next_sequence)):
        yield


@_planted
def lease_released_and_outbox_kept() -> Iterator[None]:
    """The application is told that nothing is kept any more, and then it comes after all."""
    original = Session.departed

    def departed(self: Session, cause: str, now: float, **named: bool) -> None:
        kept = self.outbox.give_up
        if cause == "lease_expired":
            setattr(self.outbox, "give_up", lambda cause: None)  # noqa: B010 - for this call alone
        original(self, cause, now, **named)
        setattr(self.outbox, "give_up", kept)  # noqa: B010

    with _replaced(Session, "departed", departed):
        yield


@_planted
def lease_never_ends() -> Iterator[None]:
    with _replaced(Peers, "release", lambda self, session, why: None):
        yield


@_planted
def duplicates_not_dropped_in_a_stream() -> Iterator[None]:
    """A subscriber says that it is where it settled, and takes what comes again for news."""
    original = Streams.position
    receive = StreamIntake.receive

    def position(self: Streams, stream_id: bytes) -> int | None:
        known = original(self, stream_id)
        return None if known is None else self._intakes[stream_id].settled

    def take_in(self: StreamIntake, after: int, first: int, count: int) -> int | None:
        self.position = min(self.position, first)
        return receive(self, after, first, count)

    with _replaced(Streams, "position", position), _replaced(StreamIntake, "receive", take_in):
        yield


@_planted
def clone_write_done_twice() -> Iterator[None]:
    """The master does not remember what it has done for whom."""
    original = MasterStore._write

    def write(self: MasterStore, link: Any, message: Any, now: float) -> None:
        if link.writer is not None:
            link.writer.last = message.number - 1
        original(self, link, message, now)

    with _replaced(MasterStore, "_write", write):
        yield


@_planted
def ready_said_before_the_table_is_there() -> Iterator[None]:
    with _replaced(Stores, "holds_ready", property(lambda self: False)):
        yield


@_planted
def heartbeat_never_sent() -> Iterator[None]:
    def handle_timer(self: Link, now: float) -> None:
        if self.state is LinkState.UP and now < self._last_heard + self._timing.heartbeat_timeout_s:
            self._last_sent = now
            return
        original(self, now)

    original = Link.handle_timer
    with _replaced(Link, "handle_timer", handle_timer):
        yield


@_planted
def silence_never_noticed() -> Iterator[None]:
    def handle_timer(self: Link, now: float) -> None:
        if self.state is LinkState.UP:
            self._last_heard = now
        original(self, now)

    original = Link.handle_timer
    with _replaced(Link, "handle_timer", handle_timer):
        yield


@_planted
def own_pause_not_forgiven() -> Iterator[None]:
    with _replaced(Link, "forgive", lambda self, pause_s: None):
        yield


@_planted
def stale_routes_after_a_change() -> Iterator[None]:
    with _replaced(Publisher, "reroute", lambda self: self.room.notify_all()):
        yield


@_planted
def held_bytes_never_released() -> Iterator[None]:
    def released(self: Session, epoch: int, size: int) -> None:
        if epoch == self.epoch:
            self.held_bytes -= size
            self.credit_used -= size

    with _replaced(Session, "released", released):
        yield


@_planted
def newest_sent_first() -> Iterator[None]:
    original = SendFlow.take

    def take(self: SendFlow) -> Any:
        self._queued.rotate(1)
        return original(self)

    with _replaced(SendFlow, "take", take):
        yield


@_planted
def gives_up_dialling() -> Iterator[None]:
    original = Redial.next_attempt_at

    def next_attempt_at(self: Redial, *arguments: Any, **named: Any) -> float | None:
        return original(self, *arguments, **named) if self.attempts < 3 else None

    with _replaced(Redial, "next_attempt_at", next_attempt_at):
        yield


@_planted
def restart_counted_twice() -> Iterator[None]:
    original = SendFlow.give_up

    def give_up(self: SendFlow, cause: str) -> None:
        for entry in self._sent:
            if isinstance(entry.item, Batch):
                self.count_drop(entry.item.topics, cause)
        original(self, cause)

    with _replaced(SendFlow, "give_up", give_up):
        yield
