"""Small mutations of the real code that misbehave without crashing: what the simulation has to find.

Each is a context manager around one change of one method. They are made of what a hurried change could be: a check left
out, a number one too high, a line forgotten, two lines in the wrong order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from rapini.node.links import LinkRecord
from rapini.node.peers import Peers
from rapini.node.publisher import Publisher
from rapini.node.reports import Reports
from rapini.node.sessions import Session
from rapini.node.status import PeerState
from rapini.session.link import Link
from rapini.session.outbox import Outbox
from rapini.session.redial import Redial
from rapini.session.roster import Admit, Claim, Roster
from rapini.session.states import LinkState

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
    def acknowledge(self: Session, now: float) -> None:
        if self.record is not None and self.taken > self.acknowledged:
            self.record.link.acknowledge(self.taken + 1, now)
            self.acknowledged = self.taken

    with _replaced(Session, "acknowledge", acknowledge):
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
def queue_dropped_without_a_count() -> Iterator[None]:
    def channel_lost(self: Outbox) -> None:
        self._queued.clear()
        self._queued_bytes = 0

    with _replaced(Outbox, "channel_lost", channel_lost):
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

    def resumed(self: Outbox, received_events: int) -> bool:
        self._drop_sent("lost_in_transit")
        return received_events <= self.next_sequence

    with _replaced(Outbox, "resumed", resumed):
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


@_planted
def replayed_from_the_wrong_place() -> Iterator[None]:
    """What was in doubt is sent again, whether it had arrived or not."""

    def resumed(self: Outbox, received_events: int) -> bool:
        for _, batch in reversed(self._sent):
            self._queued.appendleft(batch)
            self._queued_bytes += len(batch.data)
        self._sent.clear()
        self._sent_bytes = 0
        return received_events <= self.next_sequence

    with _replaced(Outbox, "resumed", resumed):
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
    original = Outbox.sendable

    def sendable(self: Outbox) -> Any:
        self._queued.rotate(1)
        return original(self)

    with _replaced(Outbox, "sendable", sendable):
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
    original = Outbox.give_up

    def give_up(self: Outbox, cause: str) -> None:
        for _, batch in self._sent:
            self.drop(batch.topics, cause)
        original(self, cause)

    with _replaced(Outbox, "give_up", give_up):
        yield
