"""Whatever arrives, whenever: no exception, and nothing delivered that the peer did not send.

The transcripts are those of live handshakes, cut, spliced, repeated and altered on the way: random bytes alone never
get past the first record.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from hypothesis import given
from hypothesis import strategies as st

from rapini.secure.channel import ChannelFailed, Outcome
from rapini.secure.reasons import SENTENCES
from rapini.secure.tls import TlsChannel
from tests.unit.secure.pairs import NOW, World, data_of

_PAYLOAD = b"the quick brown fox " * 50


class _Damage(Enum):
    FLIP = auto()
    DROP = auto()
    REPEAT = auto()
    INSERT = auto()
    TRUNCATE = auto()


@dataclass
class _Path:
    """One direction of the wire, damaged once at a place counted from its first byte."""

    damage: _Damage
    place: int
    size: int
    foreign: bytes
    seen: int = 0
    is_damaged: bool = False
    is_cut: bool = False

    def carry(self, data: bytes) -> bytes:
        begins, self.seen = self.seen, self.seen + len(data)
        if self.is_cut:
            return b""
        if self.is_damaged or not begins <= self.place < self.seen:
            return data
        self.is_damaged = True
        at = self.place - begins
        before, hit, after = data[:at], data[at : at + self.size], data[at + self.size :]
        match self.damage:
            case _Damage.FLIP:
                return before + bytes([hit[0] ^ (1 << self.size % 8)]) + hit[1:] + after
            case _Damage.DROP:
                return before + after
            case _Damage.REPEAT:
                return before + hit + hit + after
            case _Damage.INSERT:
                return before + self.foreign[: self.size] + hit + after
            case _Damage.TRUNCATE:
                self.is_cut = True
                return before


def _converse(a: TlsChannel, b: TlsChannel, to_b: _Path) -> tuple[list[Outcome], list[Outcome]]:
    """Handshake, then data both ways, with one path damaged; ends with the transport."""
    for turn in range(8):
        b.receive(to_b.carry(a.data_to_send()), NOW)
        a.receive(b.data_to_send(), NOW)
        for channel in (a, b):
            if turn >= 3 and channel.is_established:
                channel.send(_PAYLOAD)
    a.transport_ended(NOW)
    b.transport_ended(NOW)
    return a.outcomes(), b.outcomes()


def _transcript(world: World) -> bytes:
    """What an initiator says in another, undisturbed conversation."""
    a, b = world.pair()
    said = b""
    for _ in range(3):
        flight = a.data_to_send()
        said += flight
        b.receive(flight, NOW)
        a.receive(b.data_to_send(), NOW)
    a.send(_PAYLOAD)
    return said + a.data_to_send()


@given(
    damage=st.sampled_from(_Damage),
    place=st.integers(0, 6000),
    size=st.integers(1, 300),
    towards_initiator=st.booleans(),
    splice=st.integers(0, 2500),
)
def test_a_damaged_conversation_ends_in_a_failure_and_delivers_nothing_that_was_not_sent(
    world: World, damage: _Damage, place: int, size: int, towards_initiator: bool, splice: int
) -> None:
    initiator, responder = world.pair()
    path = _Path(damage, place, size, _transcript(world)[splice:] or b"\x17")
    if towards_initiator:
        responder.receive(initiator.data_to_send(), NOW)
        at_other, at_victim = _converse(responder, initiator, path)
    else:
        at_other, at_victim = _converse(initiator, responder, path)
    sent = _PAYLOAD * 8
    for outcomes in (at_victim, at_other):
        assert sent.startswith(data_of(outcomes))
        failed = [outcome for outcome in outcomes if isinstance(outcome, ChannelFailed)]
        assert len(failed) <= 1
        assert all(outcome.code in SENTENCES for outcome in failed)
    assert isinstance(at_victim[-1], ChannelFailed) or not path.is_damaged


@given(
    flights=st.integers(0, 3),
    garbage=st.lists(st.binary(max_size=400), min_size=1, max_size=6),
    prefix=st.sampled_from([b"", b"\x16\x03\x01", b"\x17\x03\x03\x00\x30", b"\x15\x03\x03\x00\x02", b"RAPINI1"]),
    to_initiator=st.booleans(),
)
def test_garbage_at_any_time_never_raises_and_is_never_delivered(
    world: World, flights: int, garbage: list[bytes], prefix: bytes, to_initiator: bool
) -> None:
    initiator, responder = world.pair()
    for turn in range(flights):
        speaker, hearer = (initiator, responder) if turn % 2 == 0 else (responder, initiator)
        hearer.receive(speaker.data_to_send(), NOW)
    victim = initiator if to_initiator else responder
    for piece in garbage:
        victim.receive(prefix + piece, NOW)
    victim.transport_ended(NOW)
    outcomes = victim.outcomes()
    assert data_of(outcomes) == b""
    assert isinstance(outcomes[-1], ChannelFailed)
    assert outcomes[-1].code in SENTENCES
    victim.data_to_send()


@given(order=st.permutations(range(5)))
def test_records_out_of_order_are_never_delivered_out_of_order(world: World, order: list[int]) -> None:
    initiator, responder = world.joined()
    records = []
    for number in range(5):
        initiator.send(b"%d" % number)
        records.append(initiator.data_to_send())
    for index in order:
        responder.receive(records[index], NOW)
    assert b"01234".startswith(data_of(responder.outcomes()))
    assert responder.is_closed == (order != [0, 1, 2, 3, 4])
