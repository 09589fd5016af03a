"""Two links against each other: over plain and TLS, cut anywhere, damaged, spliced; what is said stays in order."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapini.events.delivery import Delivery
from rapini.secure.channel import Channel, Side
from rapini.secure.material import TlsMaterial
from rapini.session.link import LinkState
from rapini.session.messages import Greeting
from rapini.session.outcomes import (
    ChannelOpened,
    CloseKind,
    EventsReceived,
    GreetingReceived,
    LinkClosed,
    LinkOutcome,
    LinkUp,
    PongReceived,
    SubscriptionsInForce,
    SubscriptionsReceived,
)
from rapini.testing import LinkEnd, LinkPair, ThrowawayAuthority, greeting_of, joined_pair, settle

EVENTS: Final = 6


class Tls:
    """Certificates for the tests' two nodes, and channels with them."""

    def __init__(self, authority: ThrowawayAuthority) -> None:
        self._material = {}
        for node, role in (("alpha", "sensor"), ("beta", None)):
            files = authority.issue(node, role=role)
            self._material[node] = TlsMaterial.load(files.certificate_path, files.key_path, files.trust_path)

    def channels(self) -> tuple[Channel, Channel]:
        return self._material["alpha"].initiator(check_host="localhost"), self._material["beta"].responder()

    def pair(self, cuts: Iterable[int] = (), greetings: tuple[Greeting, Greeting] | None = None) -> LinkPair:
        usual = (greeting_of("alpha", role="sensor"), greeting_of("beta"))
        return joined_pair(cuts, channels=self.channels(), greetings=greetings or usual)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return Tls(ThrowawayAuthority(tmp_path_factory.mktemp("tls")))


def kinds(outcomes: list[LinkOutcome]) -> list[type[LinkOutcome]]:
    return [type(outcome) for outcome in outcomes]


def talk(pair: LinkPair) -> LinkPair:
    """Come up, send some events one way, say goodbye."""
    settle(pair)
    for number in range(EVENTS):
        pair.initiator.link.send_events(Delivery.BEST_EFFORT, number, 1, f"event {number}".encode(), pair.clock.now)
        settle(pair)
    pair.initiator.link.leave("goodbye", "", pair.clock.now)
    return settle(pair)


def events(end: LinkEnd) -> list[bytes]:
    return [event.batch for event in end.seen(EventsReceived)]


def in_order(outcomes: list[LinkOutcome]) -> bool:
    """Greeted once, up once and after that; events only when up; the end once and last."""
    names = [type(o).__name__ for o in outcomes if not isinstance(o, SubscriptionsInForce | PongReceived)]
    once = all(names.count(k) <= 1 for k in ("ChannelOpened", "GreetingReceived", "LinkUp", "LinkClosed"))
    up = names.index("LinkUp") if "LinkUp" in names else len(names)
    early = set(names[:up]) & {"EventsReceived", "EventsAcknowledged"}
    return once and not early and "LinkClosed" not in names[:-1]


ALL = [f"event {number}".encode() for number in range(EVENTS)]


# -- cut anywhere -----------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 80), max_size=300))
def test_a_plain_session_does_not_depend_on_how_it_is_cut(cuts: list[int]) -> None:
    pair = talk(joined_pair(cuts, subscriptions=((), ("event/",))))
    assert events(pair.responder) == ALL
    assert kinds(pair.initiator.happened) == [
        ChannelOpened,
        GreetingReceived,
        SubscriptionsReceived,
        SubscriptionsInForce,
        LinkUp,
        LinkClosed,
    ]
    assert pair.initiator.seen(SubscriptionsReceived)[0].prefixes == ("event/",)
    assert [end.seen(LinkClosed)[0].kind for end in pair.ends] == [CloseKind.CLOSED, CloseKind.LEFT]


@given(cuts=st.lists(st.integers(1, 700), max_size=60))
def test_a_tls_session_does_not_depend_on_how_it_is_cut(tls: Tls, cuts: list[int]) -> None:
    pair = talk(tls.pair(cuts))
    assert events(pair.responder) == ALL
    assert all(in_order(end.happened) for end in pair.ends)
    assert [end.seen(LinkClosed)[0].kind for end in pair.ends] == [CloseKind.CLOSED, CloseKind.LEFT]
    opened = pair.responder.seen(ChannelOpened)[0]
    assert opened.identity is not None
    assert (opened.identity.node, opened.version) == ("alpha", "TLSv1.3")


def test_joined_links_keep_each_other_alive() -> None:
    pair = settle(joined_pair())
    pair.advance(60.0)
    assert all(end.link.is_up for end in pair.ends)


def test_a_peer_that_stops_is_lost_after_three_seconds() -> None:
    pair = settle(joined_pair())
    silent_from = pair.clock.now
    while not pair.responder.link.is_closed:
        due = pair.responder.link.next_timer()
        assert due is not None
        pair.clock.now = due
        pair.responder.link.handle_timer(due)
        pair.responder.data()  # never arrives
    assert pair.responder.seen(LinkClosed)[0].code == "silent"
    assert pair.clock.now - silent_from == pytest.approx(3.0)


def test_a_cut_cable_is_a_loss_on_both_sides() -> None:
    pair = settle(joined_pair())
    pair.initiator.link.send_events(Delivery.BEST_EFFORT, 0, 1, b"under way", pair.clock.now)
    pair.cut()
    assert [end.seen(LinkClosed)[0].kind for end in pair.ends] == [CloseKind.LOST] * 2
    assert events(pair.responder) == []


def test_both_may_leave_at_once() -> None:
    pair = settle(joined_pair())
    for end in pair.ends:
        end.link.leave("goodbye", "", pair.clock.now)
    settle(pair)
    assert [end.seen(LinkClosed)[0].kind for end in pair.ends] == [CloseKind.CLOSED] * 2


# -- who is who -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alpha", "beta", "code", "judge"),
    [
        (greeting_of("gamma", role="sensor"), greeting_of("beta"), "identity_mismatch", 1),
        (greeting_of("alpha", role="manager"), greeting_of("beta"), "role_mismatch", 1),
        (greeting_of("alpha"), greeting_of("beta"), "role_mismatch", 1),
        (greeting_of("alpha", role="sensor", cluster="other"), greeting_of("beta"), "cluster_mismatch", 1),
        (greeting_of("alpha", role="sensor"), greeting_of("gamma"), "identity_mismatch", 0),
        (greeting_of("alpha", role="sensor"), greeting_of("beta", role="manager"), "role_mismatch", 0),
        (greeting_of("alpha", role="sensor"), greeting_of("beta", cluster="other"), "cluster_mismatch", 0),
    ],
    ids=["name", "role", "no role", "cluster", "responder's name", "responder's role", "responder's cluster"],
)
def test_a_claim_that_the_certificate_does_not_bear_out_is_refused(
    tls: Tls, alpha: Greeting, beta: Greeting, code: str, judge: int
) -> None:
    pair = settle(tls.pair(greetings=(alpha, beta)))
    ours, theirs = pair.ends[judge].seen(LinkClosed), pair.ends[1 - judge].seen(LinkClosed)
    assert [(end.kind, end.code, end.side) for end in ours] == [(CloseKind.REJECTED, code, Side.OURS)]
    assert [(end.kind, end.code, end.side) for end in theirs] == [(CloseKind.REJECTED, code, Side.THEIRS)]
    assert not any(end.seen(LinkUp) for end in pair.ends)


def test_nothing_of_a_peer_arrives_before_it_is_judged(tls: Tls) -> None:
    pair = tls.pair()
    pair.responder.is_automatic = False
    settle(pair)
    assert pair.responder.link.state is LinkState.JUDGING
    assert kinds(pair.responder.happened) == [ChannelOpened, GreetingReceived]
    assert not pair.initiator.seen(GreetingReceived)
    pair.responder.admit()
    settle(pair)
    assert all(end.link.is_up for end in pair.ends)


# -- damaged and spliced ----------------------------------------------------------------------------------------------


def replay(data: bytes, cuts: list[int]) -> LinkEnd:
    """Let a fresh plain responder hear a transcript; it is given the time to answer the Hello."""
    end = joined_pair().responder
    edges = sorted({*itertools.accumulate(cuts), HELLO_END, len(data)})
    for start, stop in itertools.pairwise([0, *edges]):
        end.receive(data[start:stop])
        end.data()
    return end


RECORDED = talk(joined_pair(subscriptions=(("a/",), ()))).initiator.sent
HELLO_END = len(RECORDED[0] + RECORDED[1])
TRANSCRIPT = b"".join(RECORDED)
OTHER = b"".join(talk(joined_pair(names=("gamma", "beta"))).initiator.sent)


def test_a_transcript_is_heard_as_it_was_said() -> None:
    assert events(replay(TRANSCRIPT, [])) == ALL


@given(st.integers(0, len(TRANSCRIPT)), st.lists(st.integers(1, 90), max_size=10))
def test_a_truncated_transcript_is_a_beginning(at: int, cuts: list[int]) -> None:
    end = replay(TRANSCRIPT[:at], cuts)
    assert events(end) == ALL[: len(events(end))]
    assert in_order(end.happened)
    assert at == len(TRANSCRIPT) or not end.seen(LinkClosed)


mutations = st.one_of(
    st.tuples(st.just("flip"), st.integers(0, len(TRANSCRIPT) - 1), st.integers(1, 255)),
    st.tuples(st.just("cut"), st.integers(0, len(TRANSCRIPT)), st.integers(1, 60)),
    st.tuples(st.just("repeat"), st.integers(0, len(TRANSCRIPT)), st.integers(1, 200)),
    st.tuples(st.just("splice"), st.integers(0, len(TRANSCRIPT)), st.integers(0, len(OTHER))),
)


def mutated(transcript: bytes, mutation: tuple[str, int, int], other: bytes) -> bytes:
    what, at, size = mutation
    match what:
        case "flip":
            return transcript[:at] + bytes([transcript[at] ^ size]) + transcript[at + 1 :]
        case "cut":
            return transcript[:at] + transcript[at + size :]
        case "repeat":
            return transcript[: at + size] + transcript[at:]
        case _:
            return transcript[:at] + other[size:]


@given(mutations, st.lists(st.integers(1, 90), max_size=10))
def test_a_mangled_plain_transcript_keeps_the_order_of_things(mutation: tuple[str, int, int], cuts: list[int]) -> None:
    end = replay(mutated(TRANSCRIPT, mutation, OTHER), cuts)
    assert in_order(end.happened)


@given(st.binary(max_size=500), st.integers(0, len(TRANSCRIPT)))
def test_garbage_after_any_beginning_keeps_the_order_of_things(garbage: bytes, at: int) -> None:
    assert in_order(replay(TRANSCRIPT[:at] + garbage, []).happened)


@given(
    what=st.sampled_from(["drop", "repeat", "swap", "flip", "other session", "truncate"]),
    number=st.integers(0, EVENTS - 1),
    data=st.data(),
)
def test_a_damaged_tls_stream_delivers_a_beginning_and_then_ends(
    tls: Tls, what: str, number: int, data: st.DataObject
) -> None:
    pair, other = settle(tls.pair()), settle(tls.pair())
    pieces = []
    for at in range(EVENTS):
        for each in (pair, other):
            each.initiator.link.send_events(Delivery.BEST_EFFORT, at, 1, ALL[at], each.clock.now)
        pieces.append(pair.initiator.data())
    match what:
        case "drop":
            del pieces[number]
        case "repeat":
            pieces.insert(number, pieces[number])
        case "swap":
            pieces[0], pieces[-1] = pieces[-1], pieces[0]
        case "flip":
            at = data.draw(st.integers(0, len(pieces[number]) - 1))
            flipped = bytearray(pieces[number])
            flipped[at] ^= 1 << data.draw(st.integers(0, 7))
            pieces[number] = bytes(flipped)
        case "other session":
            pieces[number] = other.initiator.data()
        case _:
            pieces = pieces[:number]
    for piece in pieces:
        pair.responder.receive(piece)
    pair.responder.link.transport_ended("closed", "", pair.clock.now)
    pair.responder.react()
    got = events(pair.responder)
    assert got == ALL[: len(got)]
    assert len(got) < EVENTS or (what, number) == ("repeat", EVENTS - 1)
    assert [end.kind for end in pair.responder.seen(LinkClosed)] == [CloseKind.LOST]
    assert in_order(pair.responder.happened)


# -- idle -------------------------------------------------------------------------------------------------------------


def test_an_idle_link_has_one_ping_a_second_and_its_answer() -> None:
    pair = settle(joined_pair())
    pair.advance(20.0, step=0.05)
    assert [end.link.state for end in pair.ends] == [LinkState.UP, LinkState.UP]
    assert 19 <= len(pair.initiator.seen(PongReceived)) <= 23
    assert pair.responder.seen(PongReceived) == [], "the answers are its heartbeat"
