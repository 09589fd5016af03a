"""A TLS channel that meets a good peer: handshake, data, timers, ends, and the calls it does not allow."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapini.errors import LocalError
from rapini.limits import MAX_HANDSHAKE_BYTES
from rapini.secure.channel import Channel, ChannelClosed, ChannelFailed, DataReceived, HandshakeCompleted
from rapini.secure.tls import TlsChannel
from tests.unit.secure.pairs import HOST, NOW, World, data_of, failure_of, settle, started

pytestmark = pytest.mark.filterwarnings("error")


def test_both_sides_learn_who_the_other_is(world: World) -> None:
    initiator, responder = world.pair()
    settle(initiator, responder)
    (at_initiator,), (at_responder,) = initiator.outcomes(), responder.outcomes()
    assert isinstance(at_initiator, HandshakeCompleted)
    assert isinstance(at_responder, HandshakeCompleted)
    assert at_initiator.identity == world.manager.identity
    assert at_responder.identity == world.sensor.identity
    assert at_responder.identity is not None
    assert (at_responder.identity.cluster, at_responder.identity.node) == ("test", "sensor-1")
    assert at_responder.identity.role == "sensor"
    assert at_responder.identity.mechanism == "tls"
    assert at_responder.version == at_initiator.version == "TLSv1.3"
    assert at_responder.cipher.startswith("TLS_")
    assert initiator.is_established
    assert responder.is_established
    assert initiator.next_timer() is None


def test_the_channel_keeps_the_contract_as_the_type_checker_sees_it(world: World) -> None:
    channel: Channel = world.pair()[0]
    assert channel.mechanism == "tls"


@given(payload=st.binary(min_size=1, max_size=100_000), cuts=st.lists(st.integers(1, 5000), min_size=1))
def test_plaintext_does_not_depend_on_how_the_transport_cuts_it(world: World, payload: bytes, cuts: list[int]) -> None:
    def cut(data: bytes) -> list[bytes]:
        pieces, turn = [], 0
        while data:
            size = cuts[turn % len(cuts)]
            pieces.append(data[:size])
            data, turn = data[size:], turn + 1
        return pieces

    initiator, responder = world.pair()
    settle(initiator, responder, cut)
    initiator.send(payload)
    responder.send(payload[::-1])
    settle(initiator, responder, cut)
    assert data_of(responder.outcomes()) == payload
    assert data_of(initiator.outcomes()) == payload[::-1]


def test_one_byte_at_a_time_is_enough(world: World) -> None:
    initiator, responder = world.pair()
    settle(initiator, responder, lambda data: [data[i : i + 1] for i in range(len(data))])
    assert initiator.is_established
    assert responder.is_established


def test_data_that_comes_with_the_last_flight_is_delivered_and_not_counted_as_handshake(world: World) -> None:
    initiator, responder = world.pair()
    responder.receive(initiator.data_to_send(), NOW)
    initiator.receive(responder.data_to_send(), NOW)
    payload = bytes(range(256)) * (MAX_HANDSHAKE_BYTES // 100)
    initiator.send(payload)
    responder.receive(initiator.data_to_send(), NOW)
    completed, received = responder.outcomes()
    assert isinstance(completed, HandshakeCompleted)
    assert received == DataReceived(data=payload)


def test_several_records_in_one_receive_are_one_outcome(world: World) -> None:
    initiator, responder = world.joined()
    for piece in (b"a", b"", b"b", b"c" * 40_000):
        initiator.send(piece)
    responder.receive(initiator.data_to_send(), NOW)
    assert responder.outcomes() == [DataReceived(data=b"ab" + b"c" * 40_000)]
    assert responder.outcomes() == []


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_kind_of_buffer_goes_in(world: World, kind: type) -> None:
    initiator, responder = world.joined()
    initiator.send(kind(b"hello"))
    responder.receive(kind(initiator.data_to_send()), NOW)
    assert data_of(responder.outcomes()) == b"hello"


def test_what_goes_out_can_be_taken_in_pieces(world: World) -> None:
    initiator, responder = world.joined()
    initiator.send(bytes(100_000))
    pieces = []
    while piece := initiator.data_to_send(4096):
        assert len(piece) <= 4096
        pieces.append(piece)
        responder.receive(piece, NOW)
    assert len(pieces) > 20
    assert data_of(responder.outcomes()) == bytes(100_000)


def test_close_tells_the_peer_that_nothing_is_missing(world: World) -> None:
    initiator, responder = world.joined()
    initiator.send(b"last words")
    initiator.close()
    assert initiator.is_closed
    settle(initiator, responder)
    assert responder.outcomes() == [DataReceived(data=b"last words"), ChannelClosed()]
    assert responder.is_closed
    assert initiator.outcomes() == []
    initiator.close()
    assert initiator.data_to_send() == b""


def test_both_may_close_at_once(world: World) -> None:
    initiator, responder = world.joined()
    initiator.close()
    responder.close()
    settle(initiator, responder)
    assert initiator.outcomes() == responder.outcomes() == []


def test_closing_while_unread_data_has_arrived_still_says_goodbye(world: World) -> None:
    initiator, responder = world.joined()
    responder.send(b"x" * 100_000)
    crossing = responder.data_to_send()
    initiator.close()
    initiator.receive(crossing, NOW)
    assert initiator.outcomes() == []
    responder.receive(initiator.data_to_send(), NOW)
    assert responder.outcomes() == [ChannelClosed()]


def test_a_channel_closed_during_the_handshake_ignores_the_rest(world: World) -> None:
    initiator, responder = world.pair()
    responder.receive(initiator.data_to_send(), NOW)
    initiator.close()
    initiator.receive(responder.data_to_send(), NOW)
    assert initiator.outcomes() == []
    assert initiator.next_timer() is None


def test_after_a_failure_nothing_is_taken_and_the_alert_is_still_handed_out(world: World) -> None:
    initiator, responder = world.joined()
    responder.receive(b"\x17\x03\x03\x00\x20" + bytes(32), NOW)
    assert failure_of(responder) == ("record_damaged", "ours")
    initiator.send(b"too late")
    responder.receive(initiator.data_to_send(), NOW)
    assert responder.outcomes() == []
    initiator.receive(responder.data_to_send(), NOW)
    assert failure_of(initiator) == ("peer_refused_damaged", "theirs")


# --- time ---


def test_a_handshake_ends_at_its_deadline_and_not_before(world: World) -> None:
    responder = world.manager.responder(handshake_timeout_s=5)
    assert responder.next_timer() is None
    responder.start(NOW)
    assert responder.next_timer() == NOW + 5
    responder.handle_timer(NOW + 4.9)
    assert responder.outcomes() == []
    responder.handle_timer(NOW + 5)
    assert failure_of(responder) == ("handshake_timeout", "ours")
    responder.handle_timer(NOW + 6)
    assert responder.outcomes() == []


def test_a_late_driver_does_not_let_a_slow_peer_slip_past_the_deadline(world: World) -> None:
    initiator = world.sensor.initiator(check_host=HOST)
    responder = world.manager.responder(handshake_timeout_s=5)
    started(initiator, responder)
    responder.receive(initiator.data_to_send(), NOW + 7)
    assert failure_of(responder) == ("handshake_timeout", "ours")


def test_the_deadline_is_gone_once_the_handshake_is_done(world: World) -> None:
    initiator, responder = world.joined()
    for channel in (initiator, responder):
        channel.handle_timer(NOW + 10_000)
        assert channel.outcomes() == []


def test_the_certificates_dates_are_compared_with_the_time_given(world: World) -> None:
    for age, code in ((timedelta(days=-9), "certificate_not_yet_valid"), (timedelta(days=9), "certificate_expired")):
        wall_now = datetime.now(UTC) + age
        initiator = world.sensor.initiator(check_host=HOST, wall_now=wall_now)
        responder = world.manager.responder(wall_now=datetime.now(UTC))
        settle(*started(initiator, responder))
        assert failure_of(initiator) == (code, "ours")
        completed, closed = responder.outcomes()
        assert isinstance(completed, HandshakeCompleted)
        assert closed == ChannelClosed()


# --- the transport's end ---


def test_an_end_of_the_transport_is_not_taken_for_a_goodbye(world: World) -> None:
    initiator, responder = world.joined()
    initiator.transport_ended(NOW)
    assert failure_of(initiator) == ("transport_ended", "theirs")
    initiator.transport_ended(NOW)
    assert initiator.outcomes() == []
    responder.close()
    responder.transport_ended(NOW)
    assert responder.outcomes() == []


def test_an_end_of_the_transport_during_the_handshake_has_its_own_code(world: World) -> None:
    for channel in world.pair():
        channel.transport_ended(NOW)
        assert failure_of(channel) == ("closed_in_handshake", "theirs")


# --- what the caller may not do ---


def test_calls_out_of_order_are_the_callers_fault(world: World) -> None:
    def code(call: object) -> str:
        assert callable(call)
        with pytest.raises(LocalError) as caught:
            call()
        return caught.value.code

    channel = world.manager.responder()
    assert code(lambda: channel.receive(b"", NOW)) == "not_started"
    assert code(lambda: channel.send(b"x")) == "not_established"
    channel.start(NOW)
    assert code(lambda: channel.start(NOW)) == "already_started"
    assert code(lambda: channel.send(b"x")) == "not_established"
    channel.close()
    assert code(lambda: channel.send(b"x")) == "not_established"
    for host in ("", ".example", "x" * 300):
        assert code(lambda host=host: world.sensor.initiator(check_host=host)) == "bad_host"


def test_a_write_that_openssl_refuses_is_an_outcome(world: World) -> None:
    initiator, _ = world.joined()
    # What a real OpenSSL refuses after its own close_notify, brought about behind the channel's back.
    initiator._say_goodbye()
    initiator.send(b"x")
    outcome = initiator.outcomes()[-1]
    assert isinstance(outcome, ChannelFailed)
    assert (outcome.code, initiator.is_closed) == ("tls_failed", True)


def test_hosts_are_checked_by_name_and_by_address(world: World) -> None:
    for host in ("localhost", "LOCALHOST", "127.0.0.1", "::1", "[::1]", None):
        initiator = world.sensor.initiator(check_host=host)
        responder = world.manager.responder(expect_peer="sensor-1")
        settle(*started(initiator, responder))
        assert initiator.is_established
        assert responder.is_established
        assert isinstance(initiator, TlsChannel)
