"""A channel over datagrams keeps the contract of channels, and a link lives on it."""

from __future__ import annotations

import pytest

from rapini.errors import LocalError
from rapini.events.delivery import Delivery
from rapini.secure.channel import Channel, ChannelClosed, ChannelFailed, DataReceived, HandshakeCompleted, Outcome
from rapini.secure.datagrams import DatagramMechanism, PlainDatagrams
from rapini.secure.plain import PlainChannel
from rapini.session.datagram_channel import DatagramChannel, LossyChannel
from rapini.session.messages import Ping, encode_frame
from rapini.session.outcomes import CloseKind, EventsAcknowledged, EventsReceived, LinkClosed, LinkUp
from rapini.testing import LinkPair, joined_pair, settle

NOW = 10.0


def channel(*, is_initiator: bool, patience_s: float = 10.0) -> DatagramChannel:
    mechanism: DatagramMechanism = PlainDatagrams(
        is_initiator=is_initiator, entropy=b"12345678", max_datagram_bytes=1200, handshake_timeout_s=10.0
    )
    return DatagramChannel(mechanism, patience_s=patience_s)


def carry(one: Channel, other: Channel, now: float = NOW) -> None:
    for _ in range(100):
        moved = False
        for sender, receiver in ((one, other), (other, one)):
            while datagram := sender.data_to_send():
                receiver.receive(datagram, now)
                moved = True
        if not moved:
            return
    raise AssertionError("they never rest")


def opened() -> tuple[DatagramChannel, DatagramChannel]:
    a, b = channel(is_initiator=True), channel(is_initiator=False)
    a.start(NOW)
    b.start(NOW)
    carry(a, b)
    assert [type(each) for each in a.outcomes()] == [type(each) for each in b.outcomes()] == [HandshakeCompleted]
    return a, b


def pair() -> LinkPair:
    return joined_pair(channels=(channel(is_initiator=True), channel(is_initiator=False)))


def test_only_datagram_channels_are_lossy() -> None:
    assert isinstance(channel(is_initiator=True), LossyChannel)
    assert not isinstance(PlainChannel(is_initiator=True, handshake_timeout_s=1.0), LossyChannel)


def test_frames_cross_reliably_by_the_plain_call_and_as_asked_by_the_other() -> None:
    a, b = opened()
    a.send(b"frame 1,")
    a.send_frame(b"frame 2,", NOW, is_reliable=False)
    a.send_frame(b"frame 3", NOW, is_reliable=True)
    lost = a.data_to_send()
    assert lost
    assert a.data_to_send() == b"", "one call, one datagram"
    due = a.next_timer()
    assert due is not None
    a.handle_timer(due)
    carry(a, b, due)
    assert b"".join(each.data for each in b.outcomes() if isinstance(each, DataReceived)) == b"frame 1,frame 3"
    assert b.heard_at == due


def test_a_datagram_is_given_out_whole_or_not_at_all() -> None:
    a, b = opened()
    a.send(b"x" * 100)
    assert a.data_to_send(50) == b""
    b.receive(a.data_to_send(1200), NOW)
    assert b.outcomes() == [DataReceived(data=b"x" * 100)]


def test_what_was_sent_before_the_end_arrives_before_it_though_the_datagrams_were_lost() -> None:
    a, b = opened()
    a.send(b"goodbye")
    a.close()
    a.close()
    assert (a.is_closed, a.is_established, a.is_drained) == (True, False, False)
    while a.data_to_send():
        pass
    due = a.next_timer()
    assert due is not None
    a.handle_timer(due)
    carry(a, b, due)
    assert b.outcomes() == [DataReceived(data=b"goodbye"), ChannelClosed()]
    assert a.outcomes() == []
    for each in (a, b):
        while (due := each.next_timer()) is not None:
            each.handle_timer(due)
        assert each.is_drained
        assert each.data_to_send() == b""


def test_calls_that_a_state_does_not_allow() -> None:
    fresh, (a, _) = channel(is_initiator=True), opened()
    with pytest.raises(LocalError, match="cannot send"):
        fresh.send(b"x")
    with pytest.raises(LocalError) as caught:
        fresh.receive(b"x", NOW)
    assert caught.value.code == "not_started"
    with pytest.raises(LocalError) as caught:
        a.start(NOW)
    assert caught.value.code == "already_started"
    a.close()
    with pytest.raises(LocalError, match="cannot send"):
        a.send(b"x")
    fresh.close()
    assert fresh.is_drained


def codes(outcomes: list[Outcome]) -> list[str]:
    return [each.code for each in outcomes if isinstance(each, ChannelFailed)]


def test_every_way_to_fail_has_its_code_and_is_told_once() -> None:
    a, b = opened()
    a.transport_ended(NOW)
    a.transport_ended(NOW)
    assert codes(a.outcomes()) == ["transport_ended"]
    assert a.is_drained
    b.send(b"x")
    while not b.is_closed:
        while b.data_to_send():
            pass
        due = b.next_timer()
        assert due is not None
        b.handle_timer(due)
    assert codes(b.outcomes()) == ["unacknowledged"]
    assert b.is_drained
    c, d = opened()
    d.receive(b"\x03" + b"12345678" + b"no packet", NOW)
    assert codes(d.outcomes()) == ["bad_packet"]
    late = channel(is_initiator=False)
    late.start(NOW)
    late.handle_timer(NOW + 10)
    assert codes(late.outcomes()) == ["handshake_timeout"]
    assert not c.is_closed


def test_a_link_comes_up_sends_and_leaves_over_datagrams() -> None:
    joined = settle(pair())
    for end in joined.ends:
        assert end.seen(LinkUp)
    joined.initiator.link.send_events(Delivery.BEST_EFFORT, 0, 3, b"\x90", joined.clock.now)
    settle(joined)
    assert [each.count for each in joined.responder.seen(EventsReceived)] == [3]
    joined.responder.link.acknowledge([3], joined.clock.now)
    settle(joined)
    assert [list(each.taken) for each in joined.initiator.seen(EventsAcknowledged)] == [[3]]
    joined.advance(5.0)
    assert joined.initiator.link.is_up, "heartbeats cross, and their timers run"
    joined.initiator.link.leave("goodbye", "", joined.clock.now)
    settle(joined)
    assert [each.seen(LinkClosed)[0].kind for each in joined.ends] == [CloseKind.CLOSED, CloseKind.LEFT]
    joined.advance(1.0)
    assert all(end.link.is_drained for end in joined.ends)
    assert all(end.link.next_timer() is None for end in joined.ends)


def test_a_rejection_reaches_the_peer_though_its_datagrams_are_lost() -> None:
    joined = settle(pair())
    joined.responder.link.refuse("denied", "not today", joined.clock.now)
    while joined.responder.link.data_to_send():
        pass  # lost
    joined.advance(1.0)
    (closed,) = joined.initiator.seen(LinkClosed)
    assert (closed.kind, closed.code, closed.detail) == (CloseKind.LOST, "denied", "not today")


def test_a_link_whose_frames_wait_behind_a_lost_one_hears_that_the_peer_is_well() -> None:
    """The stream stands still for 2.9 s and longer, and packets arrive: that is not silence."""
    joined = settle(pair())
    joined.responder.link.ping(joined.clock.now)
    hole = joined.responder.link.data_to_send()
    assert encode_frame(Ping(1)) in hole
    for _ in range(25):
        joined.clock.advance(0.2)
        joined.responder.link.handle_timer(joined.clock.now)
        joined.responder.link.send_events(Delivery.BEST_EFFORT, 0, 1, b"\x90", joined.clock.now)
        while datagram := joined.responder.link.data_to_send():
            if b"\x00\x00\x00\x03\x09" not in datagram:  # whatever carries the first Ping is lost
                joined.initiator.receive(datagram)
        joined.initiator.link.handle_timer(joined.clock.now)
        while datagram := joined.initiator.link.data_to_send():
            joined.responder.receive(datagram)
        assert joined.initiator.link.is_up
    assert not joined.initiator.seen(EventsReceived)


def test_a_pause_of_our_own_is_not_held_against_the_peer() -> None:
    """A minute of SIGSTOP with a frame under way: nothing is given up, and the round trip is not a minute."""
    joined = settle(pair())
    initiator = joined.initiator
    initiator.link.ping(joined.clock.now)
    held = initiator.link.data_to_send()
    joined.clock.advance(60.0)
    for end in joined.ends:
        end.link.forgive(60.0)
        end.link.handle_timer(joined.clock.now)
    joined.responder.receive(held)
    joined.advance(0.5)
    assert all(end.link.is_up for end in joined.ends)
    a, b = opened()
    a.send_frame(b"x", NOW, is_reliable=True)
    a.data_to_send()
    a.forgive(60.0)
    a.handle_timer(NOW + 60.0)
    assert not a.is_closed
    assert a.retransmitter is not None
    assert a.retransmitter.recovery.patience_start() == NOW + 60.0
    a.handle_timer(NOW + 61.0)
    carry(a, b, NOW + 61.0)
    assert a.retransmitter.recovery.rtt.smoothed < 1.0


def test_a_reliable_batch_of_nothing_tells_what_was_sent_before_it() -> None:
    """How the tail of best-effort traffic is accounted for: the numbers up to there are here, or missing."""
    joined = settle(pair())
    link = joined.initiator.link
    link.send_events(Delivery.BEST_EFFORT, 0, 5, b"\x90", joined.clock.now)
    assert link.data_to_send(), "lost"
    link.send_events(Delivery.BEST_EFFORT, 5, 0, b"\x90", joined.clock.now, is_reliable=True)
    settle(joined)
    (told,) = joined.responder.seen(EventsReceived)
    assert (told.first_sequence, told.count) == (5, 0)
