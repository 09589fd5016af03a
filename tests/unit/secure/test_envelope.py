"""The envelope: whatever is not of this channel never reaches its engine."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rapini.errors import LocalError
from rapini.secure.envelope import (
    HEADER_BYTES,
    Accepted,
    Dropped,
    EnvelopeGate,
    Mechanism,
    Refused,
    Verdict,
)

ENTROPY = bytes(range(8))
OPEN = b"R\x01\x01\x01" + ENTROPY
DATA = b"R\x01\x02\x01" + ENTROPY


def _pair() -> tuple[EnvelopeGate, EnvelopeGate]:
    initiator, responder = EnvelopeGate.initiator(Mechanism.TLS, ENTROPY), EnvelopeGate.responder(Mechanism.TLS)
    assert _payload(responder.judge_untrusted(initiator.seal(b"first"))) == b"first"
    return initiator, responder


def _payload(verdict: Verdict) -> bytes:
    assert isinstance(verdict, Accepted), verdict
    return bytes(verdict.payload)


def _code(verdict: Verdict) -> tuple[type, str]:
    assert not isinstance(verdict, Accepted)
    return type(verdict), verdict.code


def test_the_first_message_opens_and_the_others_follow() -> None:
    initiator = EnvelopeGate.initiator(Mechanism.TLS, ENTROPY)
    assert initiator.seal(b"a") == OPEN + b"a"
    assert initiator.seal(b"b") == DATA + b"b"
    assert len(OPEN) == HEADER_BYTES
    assert EnvelopeGate.initiator(Mechanism.PLAIN, ENTROPY).seal(b"")[3] == 2


def test_both_ways_under_one_id() -> None:
    initiator, responder = _pair()
    assert responder.channel_id == initiator.channel_id == ENTROPY
    assert responder.seal(b"x") == DATA + b"x"
    assert _payload(initiator.judge_untrusted(responder.seal(b"y"))) == b"y"
    assert _payload(responder.judge_untrusted(bytearray(initiator.seal(b"")))) == b""


def test_a_payload_is_not_copied() -> None:
    _, responder = _pair()
    message = DATA + b"payload"
    verdict = responder.judge_untrusted(message)
    assert isinstance(verdict, Accepted)
    assert verdict.payload.obj is message


def test_a_responder_cannot_speak_first() -> None:
    responder = EnvelopeGate.responder(Mechanism.TLS)
    assert responder.channel_id is None
    with pytest.raises(LocalError) as caught:
        responder.seal(b"x")
    assert caught.value.code == "no_channel"


@pytest.mark.parametrize("entropy", [b"", b"seven..", b"nine....."])
def test_a_channel_id_has_eight_bytes(entropy: bytes) -> None:
    with pytest.raises(LocalError) as caught:
        EnvelopeGate.initiator(Mechanism.TLS, entropy)
    assert caught.value.code == "bad_entropy"


@pytest.mark.parametrize(
    ("message", "verdict"),
    [
        (b"", (Refused, "not_rapini")),
        (OPEN[:-1], (Refused, "not_rapini")),
        (b"G" + OPEN[1:], (Refused, "not_rapini")),
        (b"R\x02" + OPEN[2:], (Refused, "version")),
        (DATA, (Dropped, "unknown_channel")),
        (b"R\x01\x03\x01" + ENTROPY, (Dropped, "unknown_channel")),
        (b"R\x01\x09\x01" + ENTROPY, (Dropped, "unknown_channel")),
        (b"R\x01\x01\x02" + ENTROPY, (Refused, "mechanism_mismatch")),
        (b"R\x01\x01\x77" + ENTROPY, (Refused, "mechanism_mismatch")),
    ],
)
def test_what_does_not_open_a_channel(message: bytes, verdict: tuple[type, str]) -> None:
    responder = EnvelopeGate.responder(Mechanism.TLS)
    assert _code(responder.judge_untrusted(message)) == verdict
    assert responder.channel_id is None
    assert _payload(responder.judge_untrusted(OPEN + b"x")) == b"x", "it did no harm"


@pytest.mark.parametrize(
    ("message", "verdict"),
    [
        (b"R\x01\x02\x01" + bytes(8), (Dropped, "unknown_channel")),
        (b"R\x01\x01\x01" + bytes(8), (Dropped, "unknown_channel")),
        (b"R\x01\x02\x02" + ENTROPY, (Dropped, "unknown_channel")),
        (OPEN, (Refused, "repeated_open")),
        (b"", (Refused, "not_rapini")),
        (b"R\x07\x02\x01" + ENTROPY, (Refused, "version")),
    ],
)
def test_what_does_not_belong_to_an_open_channel(message: bytes, verdict: tuple[type, str]) -> None:
    for gate in _pair():
        assert _code(gate.judge_untrusted(message)) == verdict


def test_a_finished_channel_takes_nothing() -> None:
    initiator, responder = _pair()
    responder.finish()
    for message in (initiator.seal(b"late"), OPEN):
        assert _code(responder.judge_untrusted(message)) == (Dropped, "unknown_channel")


@pytest.mark.parametrize(("dialled", "listens"), [(Mechanism.TLS, Mechanism.PLAIN), (Mechanism.PLAIN, Mechanism.TLS)])
def test_a_mismatch_of_mechanisms_is_clear_at_both_sides(dialled: Mechanism, listens: Mechanism) -> None:
    initiator, responder = EnvelopeGate.initiator(dialled, ENTROPY), EnvelopeGate.responder(listens)
    message = initiator.seal(b"hello")
    verdict = responder.judge_untrusted(message)
    assert _code(verdict) == (Refused, "mechanism_mismatch")
    assert isinstance(verdict, Refused)
    assert dialled.name.lower() in verdict.detail
    answer = initiator.judge_untrusted(responder.refusal(message))
    assert _code(answer) == (Refused, "peer_refused_mechanism")
    assert isinstance(answer, Refused)
    assert f"listens for {listens.name.lower()}" in answer.detail


@given(message=st.binary(max_size=40))
@example(message=DATA)
def test_any_bytes_get_a_verdict_and_are_accepted_only_with_the_right_header(message: bytes) -> None:
    fresh = EnvelopeGate.responder(Mechanism.TLS)
    verdict = fresh.judge_untrusted(message)
    assert isinstance(verdict, Accepted) == (message[:4] == b"R\x01\x01\x01" and len(message) >= HEADER_BYTES)
    for gate in _pair():
        verdict = gate.judge_untrusted(message)
        assert isinstance(verdict, Accepted) == message.startswith(DATA)
