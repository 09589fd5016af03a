"""What becomes of a link's outcomes, one after the other, on a loop that does not run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest

from rapini.events.delivery import Delivery
from rapini.node.admission import Admission
from rapini.node.channels import ChannelFactory
from rapini.node.counters import Counters
from rapini.node.inbox import Inbox
from rapini.node.links import LinkRecord
from rapini.node.loop import Loop
from rapini.node.peers import Peers
from rapini.node.settings import NodeSettings
from rapini.node.status import Gap, PeerState, PeerStatus
from rapini.session.messages import Ack, Goodbye, encode_frame, pack_events_frame
from rapini.session.messages import Gap as GapFrame
from rapini.session.outbox import Batch
from rapini.testing import LinkPair, ManualClock, joined_pair
from rapini.transport import Connection, SendResult


class World:
    """Our peers, one link accepted from `alpha`, and alpha's end of it."""

    def __init__(self, loop: Loop) -> None:
        settings = NodeSettings(window_bytes=1024, cluster="test")
        self.counters = Counters()
        self.peers = Peers(
            name="beta",
            settings=settings,
            channels=ChannelFactory("beta", settings),
            counters=self.counters,
            loop=loop,
            admission=Admission(None, "beta"),
            service=self.serve,
        )
        self.inbox = Inbox(self.counters)
        self.peers.inboxes.append(self.inbox)
        self.pair: LinkPair = joined_pair(clock=ManualClock(time.monotonic()))
        self.pair.responder.is_automatic = False
        line = SimpleNamespace(address="here", endpoint="tcp+plain://127.0.0.1:1", authenticated=False, send=self.carry)
        self.record = LinkRecord(
            connection=cast(Connection, line), link=self.pair.responder.link, gate=None, mechanism="plain", dial=None
        )
        self.peers.records[self.record.id] = self.record
        for _ in range(10):
            data = self.pair.initiator.data()
            if data:
                self.hear(data)

    def carry(self, data: bytes) -> SendResult:
        self.pair.initiator.receive(data)
        return SendResult.SENT

    def hear(self, data: bytes) -> None:
        self.record.link.receive(data, time.monotonic())
        self.serve(self.record, time.monotonic())

    def serve(self, record: LinkRecord, now: float) -> None:
        if record.in_service:
            return
        record.in_service = True
        while outcomes := record.link.outcomes():
            for outcome in outcomes:
                self.peers.handle(record, outcome, now)
        record.transmit()
        record.in_service = False

    def states(self) -> list[PeerState]:
        found = []
        while isinstance(item := self.inbox.get(0), PeerStatus):
            found.append(item.state)
        return found


@pytest.fixture
def world() -> Iterator[World]:
    loop = Loop("beta", lambda now: None, lambda pause_s: None)
    with loop.lock:
        yield World(loop)
    loop.close()


def test_a_peer_comes_up(world: World) -> None:
    assert world.record.is_up
    assert world.states() == [PeerState.SYNCING, PeerState.UP]


def test_an_acknowledgement_and_a_goodbye_in_one_read_send_nothing_after_the_end(world: World) -> None:
    """The acknowledgement gave credit, and what waited was sent into the closed channel: the I/O thread ended."""
    session = world.peers.sessions["alpha"]
    for _ in range(2):
        session.outbox.put(Batch(bytes(600_000), 1, {"t": 1}), Delivery.BEST_EFFORT, 0.0)
    world.peers.pump(session, time.monotonic())
    assert session.outbox.in_flight_bytes == 600_000
    world.hear(encode_frame(Ack([1])) + encode_frame(Goodbye("goodbye")))
    assert session.outbox.acknowledged == 1
    assert session.outbox.dropped == {"peer_left": {"t": 1}}
    assert world.counters.sent == {"alpha": 1}
    assert world.states()[-1] is PeerState.LEFT


@pytest.mark.parametrize(
    "frame",
    [
        pack_events_frame(0, 0, 1, b"\x90") + pack_events_frame(0, 0, 1, b"\x90"),
        pack_events_frame(0, 1, 1, b"\x90"),
        pack_events_frame(2, 0, 1, b"\x90"),
        encode_frame(GapFrame(1, 7, 1, "queue_full")),
        encode_frame(Ack([1])),
        b"\x00\x00\x00\x00",
    ],
    ids=["numbers go back", "numbers jump", "no such class", "a gap elsewhere", "never sent", "no frame"],
)
def test_a_peer_that_breaks_the_protocol_is_lost_and_did_not_leave(world: World, frame: bytes) -> None:
    world.hear(frame)
    assert world.states()[-1] is PeerState.LOST
    assert (world.counters.peers_lost, world.counters.peers_left) == (1, 0)


def test_what_could_not_be_kept_comes_as_a_gap_in_its_place(world: World) -> None:
    world.inbox.prefixes = ("",)
    world.hear(encode_frame(GapFrame(0, 0, 3, "queue_full", {"a/b": 3})) + pack_events_frame(0, 3, 2, b"\x90"))
    assert (world.counters.received, world.counters.missed) == ({"alpha": 2}, {"alpha": 3})
    assert world.counters.gaps == {"alpha": {"queue_full": 3}}
    items = []
    while (item := world.inbox.get(0)) is not None:
        items.append(item)
    gap, run = items[-2:]
    assert isinstance(gap, Gap)
    assert (gap.peer, gap.delivery, gap.first, gap.last, gap.count) == ("alpha", "best_effort", 0, 2, 3)
    assert (gap.reason, gap.topics) == ("queue_full", {"a/b": 3})
    assert isinstance(run, list)
    world.peers.tell_all_taken(time.monotonic())
    session = world.peers.sessions["alpha"]
    assert (session.held_bytes, session.credit_used, session.intakes[0].told) == (0, 0, 5)
