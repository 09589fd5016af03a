"""Two sessions over real links that are cut anywhere: what both count agrees, whatever is lost."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rapini import limits
from rapini.events.delivery import Delivery
from rapini.node.links import LinkRecord
from rapini.node.sessions import Session
from rapini.session.messages import Epoch, Greeting, Incarnation
from rapini.session.outbox import Batch, Hole, Outbox
from rapini.session.outcomes import (
    ChannelOpened,
    EventsAcknowledged,
    EventsReceived,
    GapReceived,
    GreetingReceived,
    LinkOutcome,
    LinkUp,
)
from rapini.testing import LinkEnd, greeting_of, joined_pair
from rapini.testing.links import incarnation_of

WINDOW = 100
BEST, RELIABLE = Delivery.BEST_EFFORT, Delivery.RELIABLE
NAMES = ("alpha", "beta")


def session(name: str = "peer", window: int = WINDOW, queue: int = 10_000) -> Session:
    return Session(name=name, outbox=Outbox(queue), window_bytes=window)


def batch_received(first: int, count: int, delivery: Delivery = BEST) -> EventsReceived:
    return EventsReceived(delivery=delivery, first_sequence=first, count=count, batch=b"x")


def gap_received(first: int, count: int) -> GapReceived:
    return GapReceived(delivery=BEST, first_sequence=first, count=count, reason="queue_full", topics={})


def admitted(known: bool, *, heard_known: bool | None = None, received: int = 0) -> tuple[Session, bool]:
    """A session that had sent three events, and whether it goes on after a greeting."""
    ours, theirs = incarnation_of("us"), incarnation_of("them")
    state = session()
    state.admitted(greeting_of("us", incarnation=ours), greeting_of("them", incarnation=theirs), Epoch(1))
    state.outbox.put(Batch(b"x", 3, {"t": 3}), BEST, 0.0)
    list(state.outbox.sendable())
    state.received(batch_received(0, 5))
    said = greeting_of("us", incarnation=ours, known_incarnation=theirs if known else b"")
    remembers = known if heard_known is None else heard_known
    heard = greeting_of("them", incarnation=theirs, known_incarnation=ours if remembers else b"", received=(received,))
    return state, state.admitted(said, heard, Epoch(2))


# -- one session ------------------------------------------------------------------------------------------------------


def test_a_session_goes_on_when_both_remember_each_other() -> None:
    state, agreed = admitted(known=True, received=3)
    assert agreed
    assert (state.generation, state.intakes[0].position, state.outbox.best_effort.next_sequence) == (1, 5, 3)
    assert state.outbox.acknowledged == 0, "it was received, and not taken yet"
    assert state.outbox.acknowledge([3, 0])
    assert state.outbox.acknowledged == 3


@pytest.mark.parametrize(("we", "they"), [(True, False), (False, True), (False, False)])
def test_a_session_starts_anew_unless_both_remember(we: bool, they: bool) -> None:
    state, agreed = admitted(known=we, heard_known=they, received=0)
    assert agreed
    assert (state.generation, state.intakes[0].position) == (2, 0)
    assert state.outbox.best_effort.next_sequence == 3, "the new one hears of what the old one may have missed"
    assert state.outbox.dropped == {"unacknowledged": Counter({"t": 3})}


def test_a_peer_that_received_more_than_was_sent_is_contradicted() -> None:
    _, agreed = admitted(known=True, received=4)
    assert not agreed


def test_what_comes_must_continue_what_came() -> None:
    state = session()
    assert state.received(batch_received(0, 3))
    assert not state.received(batch_received(5, 2))
    assert state.received_gap(gap_received(3, 2))
    assert state.received(batch_received(5, 2))
    assert not state.received(batch_received(6, 1))
    assert not state.received(batch_received(7, 0))
    assert not state.received_gap(gap_received(6, 4))
    assert state.intakes[0].position == 7


def test_each_class_has_numbers_of_its_own() -> None:
    state = session()
    assert state.received(batch_received(0, 3))
    assert state.received(batch_received(0, 2, RELIABLE))
    assert not state.received(batch_received(0, 1, Delivery.DURABLE))
    assert [intake.position for intake in state.intakes] == [3, 2]


def test_what_is_taken_out_of_order_is_acknowledged_in_order() -> None:
    state = session()
    state.received(batch_received(0, 2))
    state.received_gap(gap_received(2, 2))
    state.received(batch_received(4, 2))
    state.was_taken(state.generation, BEST, 2, 2)
    assert state.intakes[0].taken == 0
    state.was_taken(state.generation, BEST, 0, 2)
    assert state.intakes[0].taken == 4
    state.was_taken(state.generation, BEST, 4, 2)
    assert (state.intakes[0].taken, state.holds_something, state.has_news) == (6, False, True)


def test_a_greeting_speaks_of_what_was_received_whether_it_was_taken_or_not() -> None:
    state = session(window=77)
    state.admitted(greeting_of("us"), greeting_of("them", incarnation=incarnation_of("them")), Epoch(4))
    state.received(batch_received(0, 3))
    said = state.greeting("test", "us", "sensor", incarnation_of("us"))
    assert said == greeting_of(
        "us",
        role="sensor",
        window_bytes=77,
        known_incarnation=incarnation_of("them"),
        known_epoch=4,
        received=(3, 0),
    )


def test_a_batch_of_an_earlier_generation_moves_nothing() -> None:
    state = session()
    state.received(batch_received(0, 2))
    old = state.generation
    state.admitted(greeting_of("us"), greeting_of("them"), Epoch(2))
    state.was_taken(old, BEST, 0, 2)
    assert state.intakes[0].taken == 0


# -- two sessions -----------------------------------------------------------------------------------------------------


class Node:
    """What a node keeps of its one peer, as `rapini.node.peers` does, over links that the test cuts."""

    def __init__(self, name: str, run: int) -> None:
        self.name = name
        self.incarnation: Incarnation = incarnation_of(name, run)
        self.session = session(window=WINDOW)
        self.end: LinkEnd | None = None
        self.said: Greeting | None = None
        self.stream = b""
        """What it said and the peer has not heard yet."""
        self.untaken: list[tuple[int, Epoch, EventsReceived | GapReceived]] = []
        self.put = 0
        self.arrived: dict[Delivery, list[bytes]] = {BEST: [], RELIABLE: []}
        self.gaps: dict[Delivery, Counter[str]] = {BEST: Counter(), RELIABLE: Counter()}
        self.generations = 0
        self.was_up = False

    def greet(self) -> Greeting:
        self.said = self.session.greeting("test", self.name, "", self.incarnation)
        return self.said

    def handle(self, end: LinkEnd, outcome: LinkOutcome) -> None:
        now = end.clock.now
        match outcome:
            case ChannelOpened() if end.link.is_initiator:
                end.link.greet(self.greet(), now)
            case GreetingReceived(greeting=heard):
                self.admit(end, heard, now)
            case LinkUp():
                self.was_up = True
                self.session.record = cast(LinkRecord, SimpleNamespace(link=end.link))
                self.pump()
            case EventsReceived():
                assert not self.session.exceeds_credit(len(outcome.batch)), "honest peers keep to their credit"
                assert self.session.received(outcome)
                self.arrived[outcome.delivery].append(outcome.batch)
                self.untaken.append((self.session.generation, self.session.epoch, outcome))
            case GapReceived():
                assert not self.session.exceeds_credit(limits.GAP_CREDIT_BYTES), "honest peers keep to their credit"
                assert self.session.received_gap(outcome)
                self.gaps[outcome.delivery][outcome.reason] += outcome.count
                self.untaken.append((self.session.generation, self.session.epoch, outcome))
            case EventsAcknowledged(taken=taken):
                assert self.session.outbox.acknowledge(taken)
                self.pump()
            case _:
                pass

    def admit(self, end: LinkEnd, heard: Greeting, now: float) -> None:
        if not end.link.is_initiator:
            end.link.greet(self.greet(), now)
        assert self.said is not None
        epoch = end.link.offered_epoch or Epoch(max(heard.known_epoch, self.said.known_epoch) + 1)
        assert epoch > self.session.epoch, "epochs increase"
        generation = self.session.generation
        assert self.session.admitted(self.said, heard, epoch)
        self.generations += self.session.generation - generation
        end.link.admit(epoch, now)

    def pump(self) -> None:
        end = self.end
        if end is None or self.session.record is None or not end.link.is_up:
            return
        for delivery, first, item in self.session.outbox.sendable():
            if isinstance(item, Hole):
                end.link.send_gap(delivery, first, item, end.clock.now)
            else:
                end.link.send_events(delivery, first, item.count, item.data, end.clock.now)

    def collect(self) -> None:
        """Act on what the link reports and take what it has to say."""
        if self.end is None:
            return
        while outcomes := self.end.link.outcomes():
            for outcome in outcomes:
                self.handle(self.end, outcome)
        self.stream += self.end.link.data_to_send()

    def disconnect(self) -> None:
        if self.end is not None:
            self.end.link.transport_ended("reset", "", self.end.clock.now)
            self.end.link.outcomes()
            if self.session.record is not None:
                self.session.lost(1000.0)
        self.end, self.stream = None, b""

    def take(self) -> None:
        generation, epoch, got = self.untaken.pop(0)
        size = len(got.batch) if isinstance(got, EventsReceived) else limits.GAP_CREDIT_BYTES
        self.session.released(epoch, size)
        self.session.was_taken(generation, got.delivery, got.first_sequence, got.count)

    def account(self) -> tuple[int, int]:
        """What was published, and what the outbox says became of it."""
        outbox = self.session.outbox
        ended = outbox.acknowledged + sum(topics.total() for topics in outbox.dropped.values())
        return self.put, ended + outbox.pending_events


class BothCountTheSame(RuleBasedStateMachine):
    """Publish, deliver some bytes, cut, connect, restart, take, acknowledge: in any order."""

    @initialize()
    def begin(self) -> None:
        self.nodes = {name: Node(name, 0) for name in NAMES}
        self.runs = Counter[str]()
        self.serial = 0

    def other(self, name: str) -> Node:
        return self.nodes[NAMES[name == NAMES[0]]]

    @precondition(lambda self: self.nodes["alpha"].end is None)
    @rule(dialler=st.sampled_from(NAMES), comes_up=st.booleans())
    def connect(self, dialler: str, comes_up: bool) -> None:
        pair = joined_pair(names=(dialler, self.other(dialler).name), is_automatic=False)
        self.nodes[dialler].end, self.other(dialler).end = pair.ends
        for node in self.nodes.values():
            node.collect()
        while comes_up and any(node.stream for node in self.nodes.values()):
            for name in NAMES:
                self.deliver(name, 1 << 20)

    @rule(
        name=st.sampled_from(NAMES),
        delivery=st.sampled_from([BEST, RELIABLE]),
        count=st.integers(1, 3),
        size=st.integers(8, 60),
    )
    def publish(self, name: str, delivery: Delivery, count: int, size: int) -> None:
        node = self.nodes[name]
        if not node.was_up:
            return  # nothing is owed to a peer whose subscriptions were never heard
        self.serial += 1
        batch = Batch(self.serial.to_bytes(8, "big") + bytes(size), count, {"t": count})
        node.put += count
        if node.session.record is None and delivery is BEST:
            node.session.outbox.lose(batch, delivery, "peer_lost")
        else:
            node.session.outbox.put(batch, delivery, 0.0)
            node.pump()
            node.collect()

    @rule(name=st.sampled_from(NAMES), size=st.integers(1, 200))
    def deliver(self, name: str, size: int) -> None:
        sender, receiver = self.nodes[name], self.other(name)
        if receiver.end is None or not sender.stream:
            return
        data, sender.stream = sender.stream[:size], sender.stream[size:]
        receiver.end.link.receive(data, receiver.end.clock.now)
        receiver.collect()

    @rule(name=st.sampled_from(NAMES))
    def take(self, name: str) -> None:
        node = self.nodes[name]
        if node.untaken:
            node.take()
            node.collect()

    @rule(name=st.sampled_from(NAMES))
    def acknowledge(self, name: str) -> None:
        node = self.nodes[name]
        node.session.acknowledge(0.0)
        node.collect()

    @rule()
    def cut(self) -> None:
        for node in self.nodes.values():
            node.disconnect()

    @precondition(lambda self: self.nodes["alpha"].end is None)
    @rule(name=st.sampled_from(NAMES))
    def restart(self, name: str) -> None:
        self.runs[name] += 1
        self.nodes[name] = Node(name, self.runs[name])

    def settle(self) -> None:
        for _ in range(200):
            for node in self.nodes.values():
                while node.untaken:
                    node.take()
                node.session.acknowledge(0.0)
                node.collect()
            for name in NAMES:
                self.deliver(name, 1 << 20)
            if not any(node.stream or node.untaken for node in self.nodes.values()):
                return
        raise AssertionError("they never settle")

    def teardown(self) -> None:
        if not hasattr(self, "nodes"):
            return
        self.settle()
        self.cut()
        self.connect("alpha", comes_up=True)
        self.settle()
        for name in NAMES:
            sender, receiver = self.nodes[name], self.other(name)
            assert sender.session.outbox.is_idle
            assert (receiver.session.credit_used, receiver.session.held_bytes) == (0, 0)
            assert sender.session.generation == sender.generations
            # Numbers of the present session: both speak of the same events.
            for flow, intake in zip(sender.session.outbox.flows, receiver.session.intakes, strict=True):
                assert flow.next_sequence == flow.sent_sequence == intake.position == intake.taken
            if not self.runs:
                for delivery, flow in zip((BEST, RELIABLE), sender.session.outbox.flows, strict=True):
                    told = {reason: count for reason, count in receiver.gaps[delivery].items() if count}
                    counted = {cause: topics.total() for cause, topics in flow.dropped.items() if topics.total()}
                    assert told == counted, "every loss is told, and no other"
                    assert flow.acknowledged == flow.next_sequence - sum(told.values())
                assert set(sender.session.outbox.reliable.dropped) <= {"queue_full"}

    @invariant()
    def every_event_is_in_one_account(self) -> None:
        for node in self.nodes.values():
            published, accounted = node.account()
            assert published == accounted

    @invariant()
    def nothing_arrives_twice_or_out_of_order(self) -> None:
        for node in self.nodes.values():
            for arrived in node.arrived.values():
                numbers = [int.from_bytes(data[:8], "big") for data in arrived]
                assert numbers == sorted(set(numbers))

    @invariant()
    def credit_bounds_what_is_under_way(self) -> None:
        for node in self.nodes.values():
            outbox = node.session.outbox
            assert outbox.in_flight_bytes <= max(WINDOW, 68, limits.GAP_CREDIT_BYTES)


TestBothCountTheSame = BothCountTheSame.TestCase
