"""Plain datagrams: an opening that survives loss, and datagrams of anybody else that change nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapini import limits
from rapini.errors import LocalError
from rapini.secure.channel import ChannelFailed, DataReceived, HandshakeCompleted
from rapini.secure.datagrams import PlainDatagrams
from rapini.secure.plain import OPENING

NOW = 50.0
TOKEN = b"12345678"


def run(*, is_initiator: bool, token: bytes = TOKEN) -> PlainDatagrams:
    made = PlainDatagrams(is_initiator=is_initiator, entropy=token, max_datagram_bytes=1200, handshake_timeout_s=10.0)
    made.start(NOW)
    return made


def flush(mechanism: PlainDatagrams) -> list[bytes]:
    out = []
    while (datagram := mechanism.datagram_to_send()) is not None:
        out.append(datagram)
    return out


def opened() -> tuple[PlainDatagrams, PlainDatagrams]:
    a, b = run(is_initiator=True), run(is_initiator=False)
    b.receive(flush(a)[0], NOW)
    a.receive(flush(b)[0], NOW)
    for each in (a, b):
        assert [type(outcome) for outcome in each.outcomes()] == [HandshakeCompleted]
    return a, b


def test_two_datagrams_open_it_and_packets_cross_whole() -> None:
    a, b = opened()
    a.send(b"packet")
    a.send(b"another")
    one, two = flush(a)
    b.receive(two, NOW)
    b.receive(one, NOW)
    assert b.outcomes() == [DataReceived(data=b"another"), DataReceived(data=b"packet")]
    assert a.next_timer() is None


def test_the_opening_is_sent_again_until_it_is_answered_and_given_up_at_its_deadline() -> None:
    a = run(is_initiator=True)
    times = []
    while not a.is_closed:
        times += [a.next_timer()] * len(flush(a))
        due = a.next_timer()
        assert due is not None
        a.handle_timer(due)
    assert times == [NOW + 0.25 + 0.5 * each for each in range(20)] + [NOW + 10]
    (outcome,) = a.outcomes()
    assert isinstance(outcome, ChannelFailed)
    assert outcome.code == "handshake_timeout"


def test_an_answer_that_was_lost_is_given_again() -> None:
    a, b = run(is_initiator=True), run(is_initiator=False)
    b.receive(flush(a)[0], NOW)
    flush(b)
    a.handle_timer(NOW + 0.25)
    b.receive(flush(a)[0], NOW + 0.25)
    a.receive(flush(b)[0], NOW + 0.25)
    assert a.is_established
    assert [type(each) for each in b.outcomes()] == [HandshakeCompleted], "once"


def test_data_that_overtakes_the_answer_says_that_we_are_accepted() -> None:
    a, b = run(is_initiator=True), run(is_initiator=False)
    b.receive(flush(a)[0], NOW)
    b.send(b"early")
    answer, data = flush(b)
    a.receive(data, NOW)
    a.receive(answer, NOW)
    assert [type(each) for each in a.outcomes()] == [HandshakeCompleted, DataReceived]


def test_datagrams_of_another_run_are_dropped_and_counted() -> None:
    a, b = opened()
    other = run(is_initiator=True, token=b"87654321")
    b.receive(flush(other)[0], NOW)
    a.receive(b"\x03" + b"87654321" + b"data", NOW)
    a.receive(b"\x01" + TOKEN + OPENING, NOW)
    assert (a.strangers, b.strangers) == (2, 1)
    assert a.outcomes() == b.outcomes() == []
    assert flush(b) == []


@given(st.lists(st.binary(max_size=40), max_size=10), st.booleans(), st.booleans())
def test_garbage_changes_nothing(garbage: list[bytes], is_initiator: bool, is_open: bool) -> None:
    pair = opened() if is_open else (run(is_initiator=True), run(is_initiator=False))
    mechanism = pair[0] if is_initiator else pair[1]
    was = mechanism.is_established
    flush(mechanism)
    for each in garbage:
        mechanism.receive(each, NOW)
    assert mechanism.is_established == was
    assert mechanism.strangers == len(garbage)
    assert mechanism.outcomes() == []
    assert flush(mechanism) == []


def test_what_cannot_be_done_is_said() -> None:
    mechanism = PlainDatagrams(is_initiator=True, entropy=TOKEN, max_datagram_bytes=99_999, handshake_timeout_s=1.0)
    assert mechanism.max_packet_bytes == limits.MAX_PACKET_BYTES
    calls: list[tuple[str, Callable[[], object]]] = [
        ("not_started", lambda: mechanism.receive(b"x", NOW)),
        ("not_established", lambda: mechanism.send(b"x")),
        ("bad_entropy", lambda: run(is_initiator=True, token=b"short")),
        ("packet_too_large", lambda: opened()[0].send(bytes(1192))),
        ("already_started", lambda: run(is_initiator=False).start(NOW)),
    ]
    for code, call in calls:
        with pytest.raises(LocalError) as caught:
            call()
        assert caught.value.code == code


def test_the_end_beneath_is_reported_once_by_what_it_interrupts() -> None:
    a, b = opened()[0], run(is_initiator=False)
    for mechanism, code in ((a, "transport_ended"), (b, "closed_in_handshake")):
        mechanism.transport_ended(NOW)
        mechanism.transport_ended(NOW)
        (outcome,) = mechanism.outcomes()
        assert isinstance(outcome, ChannelFailed)
        assert outcome.code == code
        assert mechanism.is_closed
