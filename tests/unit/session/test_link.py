"""A link, line by line: what it says, what it accepts, when it loses patience. Its peer is written by hand."""

from __future__ import annotations

import pytest

from rapini import limits
from rapini.errors import LocalError
from rapini.events.delivery import Delivery
from rapini.secure.channel import Side
from rapini.secure.plain import OPENING
from rapini.session.link import CloseKind, LinkState, Timing
from rapini.session.messages import (
    Ack,
    Epoch,
    FrameKind,
    Goodbye,
    Hello,
    Ping,
    Pong,
    Ready,
    Reject,
    Subscribed,
    Subscriptions,
    Welcome,
    encode_frame,
    pack_events_frame,
)
from rapini.session.outcomes import (
    ChannelOpened,
    EventsAcknowledged,
    EventsReceived,
    GreetingReceived,
    LinkClosed,
    LinkUp,
    PongReceived,
    SubscriptionsInForce,
    SubscriptionsReceived,
)
from rapini.session.states import TRANSITIONS, Input
from rapini.testing import greeting_of
from tests.unit.session.parts import ALPHA, BETA, FRAMES, NOW, Scripted, scripted

ROLES = pytest.mark.parametrize("is_initiator", [True, False], ids=["initiator", "responder"])
SECURED = [LinkState.GREETING, LinkState.JUDGING, LinkState.SYNCING, LinkState.UP, LinkState.LEAVING]
WERE_UP = (LinkState.UP, LinkState.LEAVING)


# -- the course of things ---------------------------------------------------------------------------------------------


def test_the_initiators_side_of_a_session() -> None:
    script = Scripted(is_initiator=True)
    assert script.says() == []
    (opened,) = script.hears(OPENING)
    assert isinstance(opened, ChannelOpened)
    assert script.says() == []
    script.link.greet(ALPHA, script.now)
    assert script.says() == [Hello(2, 2, ALPHA)]
    assert script.hears(welcome(3)) == [GreetingReceived(greeting=BETA, identity=None)]
    assert (script.says(), script.link.offered_epoch, script.link.epoch) == ([], 3, None)
    script.judge()
    assert (script.says(), script.link.epoch) == ([Subscriptions(4, ["ours/"])], 3)
    assert script.hears(Input.SUBSCRIPTIONS) == [SubscriptionsReceived(prefixes=("a/",))]
    assert script.says() == [Subscribed(1), Ready()]
    assert script.hears(encode_frame(Subscribed(4)), Input.READY) == [SubscriptionsInForce(version=4), LinkUp()]
    assert script.link.is_up


def welcome(epoch: int) -> bytes:
    """The responder's Welcome."""
    return encode_frame(Welcome(2, epoch, BETA))


def test_the_responders_side_of_a_session() -> None:
    script = Scripted(is_initiator=False)
    (opened,) = script.hears(OPENING)
    assert isinstance(opened, ChannelOpened)
    assert script.says() == []
    assert script.hears(Input.HELLO) == [GreetingReceived(greeting=ALPHA, identity=None)]
    assert (script.says(), script.link.peer) == ([], "alpha")
    script.judge(epoch=9)
    assert script.says() == [Welcome(2, 9, BETA), Subscriptions(4, ["ours/"])]
    script.hears(Input.SUBSCRIPTIONS)
    assert script.says() == [Subscribed(1), Ready()]
    assert script.hears(Input.READY) == [LinkUp()]
    assert script.link.epoch == 9


def test_a_responder_that_admits_at_once_may_follow_up_before_the_initiator_has_judged() -> None:
    script = scripted(LinkState.GREETING, is_initiator=True)
    outcomes = script.hears(Input.WELCOME, Input.SUBSCRIPTIONS)
    assert [type(o) for o in outcomes] == [GreetingReceived, SubscriptionsReceived]
    assert script.says() == [Subscribed(1)]
    script.judge()
    assert script.says() == [Subscriptions(4, ["ours/"]), Ready()]


def test_thousands_of_subscriptions_may_follow_a_welcome_at_once() -> None:
    script = scripted(LinkState.GREETING, is_initiator=True)
    prefixes = [f"{number:04}/" + "x" * 250 for number in range(limits.MAX_SUBSCRIPTIONS)]
    frame = encode_frame(Subscriptions(1, prefixes))
    assert len(frame) > limits.MAX_GREETING_FRAME_BYTES
    assert script.hears(Input.WELCOME, frame)[-1] == SubscriptionsReceived(prefixes=tuple(prefixes))


def test_subscriptions_may_change_while_events_flow() -> None:
    script = scripted(LinkState.UP, is_initiator=True)
    script.link.subscribe(("b/", "c/"), 5, script.now)
    assert script.says() == [Subscriptions(5, ["b/", "c/"])]
    assert script.hears(encode_frame(Subscribed(5))) == [SubscriptionsInForce(version=5)]
    assert script.hears(encode_frame(Subscriptions(2, []))) == [SubscriptionsReceived(prefixes=())]
    assert script.says() == [Subscribed(2)]  # and no second Ready


@pytest.mark.parametrize("state", [LinkState.GREETING, LinkState.JUDGING])
def test_subscriptions_made_before_the_state_exchange_are_part_of_it(state: LinkState) -> None:
    script = scripted(state, is_initiator=False)
    script.link.subscribe(("late/",), 5, script.now)
    assert script.says() == []
    if state is LinkState.GREETING:
        script.hears(Input.HELLO)
    script.judge()
    assert script.says()[-1] == Subscriptions(5, ["late/"])


@ROLES
def test_events_acks_and_pings_cross_an_open_link(is_initiator: bool) -> None:
    script = scripted(LinkState.UP, is_initiator=is_initiator)
    got = script.hears(pack_events_frame(0, 0, 2, b"one"), pack_events_frame(1, 2, 1, b"two"), Input.ACK)
    assert got == [
        EventsReceived(delivery=Delivery.BEST_EFFORT, first_sequence=0, count=2, batch=b"one"),
        EventsReceived(delivery=Delivery.RELIABLE, first_sequence=2, count=1, batch=b"two"),
        EventsAcknowledged(taken=[0]),
    ]
    script.link.send_events(Delivery.BEST_EFFORT, 0, 1, b"batch", script.now)
    script.link.acknowledge([3], script.now)
    assert script.says() == [FrameKind.EVENTS, Ack([3])]
    assert script.hears(Input.PING) == []
    assert script.says() == [Pong(7)]
    token = script.link.ping(script.now)
    assert script.says() == [Ping(token)]
    assert script.hears(encode_frame(Pong(token))) == [PongReceived(token=token)]


# -- what does not fit ------------------------------------------------------------------------------------------------


def fits(state: LinkState, frame: Input, *, is_initiator: bool) -> bool:
    """What the table says, and what it leaves to the roles."""
    if frame is (Input.HELLO if is_initiator else Input.WELCOME):
        return False
    if (state, frame) == (LinkState.SYNCING, Input.READY):
        return False  # not before Subscriptions
    return (state, frame) in TRANSITIONS


@ROLES
@pytest.mark.parametrize("frame", list(FRAMES), ids=lambda frame: frame.name)
@pytest.mark.parametrize("state", SECURED, ids=lambda state: state.name)
def test_a_frame_fits_a_state_or_ends_the_link(state: LinkState, frame: Input, is_initiator: bool) -> None:
    script = scripted(state, is_initiator=is_initiator)
    if frame is Input.RESPONSE and state in WERE_UP:  # it answers something, or is a breach
        script.link.ask("t", b"batch", script.now + 1, wants_reply=True)
        assert script.link.send_asked(script.now)
        script.says()
    script.link.receive(FRAMES[frame], script.now)
    if fits(state, frame, is_initiator=is_initiator):
        assert script.link.state is TRANSITIONS[state, frame]
        assert not [o for o in script.link.outcomes() if isinstance(o, LinkClosed) and o.code == "protocol_error"]
        return
    end = script.closed()
    assert (end.code, end.side) == ("protocol_error", Side.OURS)
    assert end.kind is (CloseKind.LOST if state in WERE_UP else CloseKind.REJECTED)
    (said,) = script.says()
    assert isinstance(said, Reject)
    assert (said.code, said.detail) == ("protocol_error", end.detail)


@ROLES
@pytest.mark.parametrize("frame", list(FRAMES), ids=lambda frame: frame.name)
def test_a_closed_link_hears_and_says_nothing(frame: Input, is_initiator: bool) -> None:
    script = scripted(LinkState.CLOSED, is_initiator=is_initiator)
    assert script.hears(frame) == []
    script.link.leave("again", "", script.now)
    script.link.refuse("denied", "late", script.now)
    script.link.abandon("late", "")
    script.link.transport_ended("closed", "", script.now)
    assert script.at(100.0) == []
    assert (script.says(), script.link.next_timer()) == ([], None)


def test_ready_comes_after_subscriptions() -> None:
    script = scripted(LinkState.SYNCING, is_initiator=False)
    script.link.receive(FRAMES[Input.READY], script.now)
    assert script.closed().detail == "Ready before Subscriptions"


def test_what_follows_a_violation_in_the_same_bytes_is_not_read() -> None:
    script = scripted(LinkState.UP, is_initiator=False)
    outcomes = script.hears(Input.HELLO, Input.EVENTS, Input.GOODBYE, b"\xff" * 50)
    assert [type(outcome) for outcome in outcomes] == [LinkClosed]


@pytest.mark.parametrize("garbage", [b"\xff" * 20, b"\x00" * 4, b"\x00\x00\x00\x02\x01\xc0", b"\x00\x00\x00\x01\x63"])
@pytest.mark.parametrize("state", SECURED, ids=lambda state: state.name)
def test_garbage_ends_the_link_with_a_typed_reason(state: LinkState, garbage: bytes) -> None:
    script = scripted(state, is_initiator=False)
    script.link.receive(garbage, script.now)
    assert script.closed().code == "protocol_error"
    assert isinstance(script.says()[-1], Reject)


def test_events_that_count_beyond_all_numbers_are_refused() -> None:
    script = scripted(LinkState.UP, is_initiator=False)
    script.link.receive(pack_events_frame(0, 2**64 - 1, 1, b""), script.now)
    assert script.closed().code == "protocol_error"


@pytest.mark.parametrize(("low", "high"), [(1, 1), (3, 4), (0, 0), (3, 2)])
def test_a_peer_of_other_versions_is_told_so(low: int, high: int) -> None:
    script = scripted(LinkState.GREETING, is_initiator=False)
    script.link.receive(encode_frame(Hello(low, high, ALPHA)), script.now)
    end = script.closed()
    assert (end.kind, end.code, end.side) == (CloseKind.REJECTED, "version", Side.OURS)
    (said,) = script.says()
    assert isinstance(said, Reject)
    assert said.code == "version"


def test_a_newer_peer_that_still_speaks_our_version_is_heard() -> None:
    script = scripted(LinkState.GREETING, is_initiator=False)
    (greeted,) = script.hears(encode_frame(Hello(1, 9, ALPHA)))
    assert isinstance(greeted, GreetingReceived)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (Welcome(3, 6, BETA), "version"),
        (Welcome(2, 5, BETA), "protocol_error"),
        (Welcome(2, 0, BETA), "protocol_error"),
        (Welcome(2, 6, greeting_of("beta", cluster="other")), "cluster_mismatch"),
    ],
    ids=["version", "old epoch", "no epoch", "cluster"],
)
def test_a_welcome_that_contradicts_the_hello_is_refused(said: Welcome, code: str) -> None:
    script = scripted(LinkState.GREETING, is_initiator=True, greeting=greeting_of("alpha", known_epoch=5))
    script.link.receive(encode_frame(said), script.now)
    assert script.closed().code == code


def test_a_peer_of_another_cluster_is_refused() -> None:
    script = scripted(LinkState.GREETING, is_initiator=False)
    script.link.receive(encode_frame(Hello(2, 2, greeting_of("alpha", cluster="other"))), script.now)
    end = script.closed()
    assert (end.kind, end.code) == (CloseKind.REJECTED, "cluster_mismatch")


# -- refusals ---------------------------------------------------------------------------------------------------------


@ROLES
@pytest.mark.parametrize("state", SECURED, ids=lambda state: state.name)
def test_a_refusal_is_heard_with_its_code_and_pause(state: LinkState, is_initiator: bool) -> None:
    script = scripted(state, is_initiator=is_initiator)
    script.link.refuse("denied", "x" * 1000, script.now, 1.5)
    end = script.closed()
    assert end.kind is (CloseKind.LOST if state in WERE_UP else CloseKind.REJECTED)
    assert script.says() == [Reject("denied", "x" * limits.MAX_DETAIL_CHARS, 1500)]


def test_before_the_channel_is_secured_a_refusal_says_nothing() -> None:
    script = scripted(LinkState.HANDSHAKING, is_initiator=False)
    script.link.refuse("denied", "", script.now)
    assert (script.closed().kind, script.says()) == (CloseKind.REJECTED, [])


@ROLES
@pytest.mark.parametrize("state", SECURED, ids=lambda state: state.name)
def test_a_peers_refusal_ends_the_link_in_every_state(state: LinkState, is_initiator: bool) -> None:
    script = scripted(state, is_initiator=is_initiator)
    script.link.receive(encode_frame(Reject("duplicate_name", "a\x1b[31m\nb", 2500)), script.now)
    end = script.closed()
    assert end.kind is (CloseKind.LOST if state in WERE_UP else CloseKind.REJECTED)
    assert (end.code, end.side, end.detail, end.retry_after_s) == ("duplicate_name", Side.THEIRS, "a?[31m?b", 2.5)


def test_a_peers_text_is_bounded_and_printable() -> None:
    script = scripted(LinkState.GREETING, is_initiator=True)
    script.link.receive(encode_frame(Reject("c\n" * 5000, "\x00" * 10_000)), script.now)
    end = script.closed()
    assert (end.code, len(end.detail)) == ("unknown_reason", limits.MAX_DETAIL_CHARS)
    assert end.detail.isprintable()


# -- the end ----------------------------------------------------------------------------------------------------------


@ROLES
@pytest.mark.parametrize("state", [LinkState.SYNCING, LinkState.UP], ids=lambda state: state.name)
def test_a_goodbye_waits_for_its_answer_and_for_what_is_under_way(state: LinkState, is_initiator: bool) -> None:
    script = scripted(state, is_initiator=is_initiator)
    script.link.leave("goodbye", "maintenance", script.now)
    assert (script.says(), script.link.state) == ([Goodbye("goodbye", "maintenance")], LinkState.LEAVING)
    assert [type(outcome) for outcome in script.hears(Input.EVENTS, Input.ACK)] == [EventsReceived, EventsAcknowledged]
    script.link.acknowledge([1], script.now)
    assert script.says() == [Ack([1])]
    script.link.receive(FRAMES[Input.GOODBYE], script.now)
    end = script.closed()
    assert (end.kind, end.side, script.says()) == (CloseKind.CLOSED, Side.OURS, [])


@ROLES
def test_a_goodbye_is_answered_and_is_not_a_loss(is_initiator: bool) -> None:
    script = scripted(LinkState.UP, is_initiator=is_initiator)
    script.link.receive(FRAMES[Input.GOODBYE], script.now)
    end = script.closed()
    assert (end.kind, end.code, end.side, end.detail) == (CloseKind.LEFT, "goodbye", Side.THEIRS, "bye")
    assert script.says() == [Goodbye("goodbye")]


@pytest.mark.parametrize("state", [LinkState.HANDSHAKING, LinkState.GREETING, LinkState.JUDGING], ids=lambda s: s.name)
def test_leaving_before_there_is_a_session_just_ends(state: LinkState) -> None:
    script = scripted(state, is_initiator=False)
    script.link.leave("goodbye", "", script.now)
    assert (script.closed().kind, script.says()) == (CloseKind.CLOSED, [])


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (LinkState.HANDSHAKING, CloseKind.FAILED),
        (LinkState.GREETING, CloseKind.FAILED),
        (LinkState.JUDGING, CloseKind.FAILED),
        (LinkState.SYNCING, CloseKind.FAILED),
        (LinkState.UP, CloseKind.LOST),
        (LinkState.LEAVING, CloseKind.CLOSED),
    ],
    ids=lambda value: value.name,
)
def test_what_the_end_of_a_connection_means_depends_on_the_state(state: LinkState, kind: CloseKind) -> None:
    script = scripted(state, is_initiator=True)
    script.link.transport_ended("reset", "the cable was cut", script.now)
    assert script.closed().kind is kind
    other = scripted(state, is_initiator=True)
    other.link.fail("version", Side.OURS, "")
    assert other.closed().kind is kind


def test_events_for_a_link_that_has_just_ended_are_no_error() -> None:
    script = scripted(LinkState.UP, is_initiator=True)
    script.hears(Input.GOODBYE)
    script.says()
    script.link.send_events(Delivery.BEST_EFFORT, 0, 1, b"batch", script.now)
    script.link.acknowledge([1], script.now)
    assert script.says() == []


# -- time -------------------------------------------------------------------------------------------------------------


@ROLES
def test_something_is_sent_every_second_and_no_more_than_needed(is_initiator: bool) -> None:
    """An initiator pings a tenth earlier: see `test_joined`."""
    due = 0.9 if is_initiator else 1.0
    script = scripted(LinkState.UP, is_initiator=is_initiator)
    assert script.link.next_timer() == NOW + due
    script.at(due - 0.01)
    assert script.says() == []
    script.at(due)
    assert [type(said) for said in script.says()] == [Ping]
    script.hears(Input.PONG)
    script.at(1.5)
    script.link.send_events(Delivery.BEST_EFFORT, 0, 1, b"", script.now)  # counts as something
    script.says()
    assert script.at(1.49 + due) == []
    assert script.says() == []
    script.at(1.5 + due)
    assert [type(said) for said in script.says()] == [Ping]


@ROLES
@pytest.mark.parametrize("state", WERE_UP, ids=lambda state: state.name)
def test_a_peer_that_is_silent_for_three_seconds_is_given_up(state: LinkState, is_initiator: bool) -> None:
    script = scripted(state, is_initiator=is_initiator)
    for seconds in (1.0, 2.0, 2.99):
        assert script.at(seconds) == []
    assert script.link.next_timer() == NOW + 3.0
    (end,) = script.at(3.0)
    assert isinstance(end, LinkClosed)
    assert (end.code, end.side) == ("silent", Side.THEIRS)
    assert end.kind is (CloseKind.LOST if state is LinkState.UP else CloseKind.CLOSED)


@pytest.mark.parametrize(
    "sign",
    [FRAMES[Input.PING], FRAMES[Input.EVENTS], FRAMES[Input.ACK], b"\x00", FRAMES[Input.EVENTS][:9]],
    ids=bytes.hex,
)
def test_any_traffic_is_a_sign_of_life_even_half_a_frame(sign: bytes) -> None:
    script = scripted(LinkState.UP, is_initiator=True)
    script.at(2.9)
    script.hears(sign)
    script.at(5.8)
    assert script.link.is_up
    assert isinstance(script.at(5.9)[-1], LinkClosed)


def test_time_in_which_we_stood_still_ourselves_is_forgiven() -> None:
    script = scripted(LinkState.UP, is_initiator=True)
    script.now = NOW + 10.0
    script.link.forgive(9.5)
    assert script.at(10.0) == []
    assert script.link.is_up
    assert script.at(12.4) == []
    assert isinstance(script.at(12.5)[-1], LinkClosed)


@pytest.mark.parametrize(
    "state", [LinkState.HANDSHAKING, LinkState.GREETING, LinkState.JUDGING, LinkState.SYNCING], ids=lambda s: s.name
)
def test_a_session_that_does_not_come_about_ends_in_time_whatever_the_peer_sends(state: LinkState) -> None:
    script = scripted(state, is_initiator=False, timing=Timing(handshake_timeout_s=10.0))
    for tenth in range(99):
        assert script.at(tenth / 10) == []
        if state is LinkState.SYNCING:
            script.hears(Input.PING)
    assert script.link.next_timer() == NOW + 10.0
    script.now = NOW + 10.0
    script.link.handle_timer(script.now)
    end = script.closed()
    assert end.kind is CloseKind.FAILED
    assert end.code == ("handshake_timeout" if state is LinkState.HANDSHAKING else "greeting_timeout")


def test_standing_still_while_greeting_is_forgiven_too() -> None:
    script = scripted(LinkState.GREETING, is_initiator=False, timing=Timing(handshake_timeout_s=10.0))
    script.link.forgive(5.0)
    assert script.at(14.9) == []
    assert isinstance(script.at(15.0)[-1], LinkClosed)


# -- our own mistakes -------------------------------------------------------------------------------------------------


def test_intents_that_do_not_fit_are_local_errors() -> None:
    script = scripted(LinkState.HANDSHAKING, is_initiator=True)
    with pytest.raises(LocalError):
        script.link.greet(ALPHA, script.now)
    with pytest.raises(LocalError):
        script.link.admit(Epoch(1), script.now)
    script = scripted(LinkState.GREETING, is_initiator=True)
    with pytest.raises(LocalError):
        script.link.greet(ALPHA, script.now)
    responder = scripted(LinkState.JUDGING, is_initiator=False)
    with pytest.raises(LocalError):
        responder.link.admit(Epoch(1), responder.now)
