"""The plain channel: the same contract without protection."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapini.errors import LocalError
from rapini.secure.channel import Channel, ChannelFailed, DataReceived, HandshakeCompleted
from rapini.secure.plain import OPENING, PlainChannel
from tests.unit.secure.pairs import NOW, data_of, failure_of, settle


def _pair() -> tuple[PlainChannel, PlainChannel]:
    pair = (
        PlainChannel(is_initiator=True, handshake_timeout_s=5),
        PlainChannel(is_initiator=False, handshake_timeout_s=5),
    )
    for channel in pair:
        channel.start(NOW)
    return pair


def _joined() -> tuple[PlainChannel, PlainChannel]:
    initiator, responder = _pair()
    settle(initiator, responder)
    for channel in (initiator, responder):
        assert channel.outcomes() == [HandshakeCompleted(identity=None, cipher="none", version="plain 1")]
        assert channel.is_established
        assert channel.next_timer() is None
    return initiator, responder


def test_the_responder_speaks_second() -> None:
    initiator, responder = _pair()
    assert responder.data_to_send() == b""
    responder.receive(initiator.data_to_send(), NOW)
    assert responder.data_to_send() == OPENING


@given(payload=st.binary(max_size=5000), step=st.integers(1, 600))
def test_bytes_pass_through_cut_anywhere(payload: bytes, step: int) -> None:
    def cut(data: bytes) -> list[bytes]:
        return [data[i : i + step] for i in range(0, len(data), step)]

    initiator, responder = _pair()
    settle(initiator, responder, cut)
    initiator.send(payload[:10])
    initiator.send(memoryview(payload)[10:])
    settle(initiator, responder, cut)
    assert data_of(responder.outcomes()) == payload
    channel: Channel = responder
    assert channel.mechanism == "plain"


def test_data_that_comes_with_the_opening_is_delivered() -> None:
    _, responder = _pair()
    responder.receive(OPENING + b"at once", NOW)
    assert responder.outcomes()[1:] == [DataReceived(data=b"at once")]


def test_an_empty_piece_is_nothing() -> None:
    initiator, responder = _joined()
    initiator.send(b"")
    assert initiator.data_to_send() == b""
    responder.receive(b"", NOW)
    assert responder.outcomes() == []


def test_what_goes_out_can_be_taken_in_pieces() -> None:
    initiator, _ = _joined()
    initiator.send(b"abcdef")
    assert [initiator.data_to_send(4) for _ in range(3)] == [b"abcd", b"ef", b""]


@given(words=st.binary(min_size=8, max_size=60), step=st.integers(1, 60))
def test_whatever_does_not_open_right_is_never_delivered(words: bytes, step: int) -> None:
    for channel in _pair():
        for i in range(0, len(words), step):
            channel.receive(words[i : i + step], NOW)
        if words.startswith(OPENING):
            continue
        outcomes = channel.outcomes()
        assert [type(outcome) for outcome in outcomes] == [ChannelFailed]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (b"GET / HTTP", "not_rapini"),
        (b"RAPINI2\n", "not_rapini"),
        (b"\x16\x04", "not_rapini"),
        (b"\x16\x03\x01\x02", "peer_speaks_tls"),
        (b"\x15\x03\x03\x00", "peer_speaks_tls"),
    ],
)
def test_who_else_dials_in(words: bytes, code: str) -> None:
    _, responder = _pair()
    for byte in words:
        responder.receive(bytes([byte]), NOW)
    assert failure_of(responder) == (code, "ours")
    responder.receive(OPENING, NOW)
    assert responder.outcomes() == []
    assert responder.data_to_send() == b""


def test_an_overdue_opening() -> None:
    for channel in _pair():
        assert channel.next_timer() == NOW + 5
        channel.handle_timer(NOW + 4)
        assert not channel.is_closed
        channel.receive(OPENING, NOW + 5)
        assert failure_of(channel) == ("handshake_timeout", "ours")


def test_the_transports_end() -> None:
    for channel in _pair():
        channel.transport_ended(NOW)
        assert failure_of(channel) == ("closed_in_handshake", "theirs")
        channel.transport_ended(NOW)
        assert channel.outcomes() == []
    for channel in _joined():
        channel.transport_ended(NOW)
        assert failure_of(channel) == ("transport_ended", "theirs")


def test_closing() -> None:
    initiator, responder = _joined()
    initiator.send(b"last words")
    initiator.close()
    assert initiator.is_closed
    settle(initiator, responder)
    assert data_of(responder.outcomes()) == b"last words"
    initiator.receive(b"late", NOW)
    assert initiator.outcomes() == []


def test_calls_out_of_order_are_the_callers_fault() -> None:
    channel = PlainChannel(is_initiator=False, handshake_timeout_s=5)

    def code(call: Callable[[], None]) -> str:
        with pytest.raises(LocalError) as caught:
            call()
        return caught.value.code

    assert code(lambda: channel.receive(b"", NOW)) == "not_started"
    assert code(lambda: channel.send(b"x")) == "not_established"
    channel.start(NOW)
    assert code(lambda: channel.start(NOW)) == "already_started"
    assert code(lambda: channel.send(b"x")) == "not_established"
