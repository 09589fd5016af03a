"""Packets: what is written comes back, and what cannot be one is refused at a bounded cost."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapini import limits
from rapini.errors import DecodeError
from rapini.session import packets
from rapini.session.packets import (
    AckChunk,
    EndChunk,
    FragmentChunk,
    Packet,
    PingChunk,
    StreamChunk,
    decode_packet_untrusted,
    encode_ack,
    encode_end,
    encode_fragment,
    encode_head,
    encode_ping,
    encode_stream,
)
from rapini.session.ranges import RangeSet

HEAD = encode_head(7)
EVERYTHING = (
    HEAD
    + encode_ack([(90, 100), (10, 20), (0, 3)], delay_us=1500, limit=1 << 20)
    + encode_stream(1000, b"bytes")
    + encode_fragment(number=3, after=1005, total=9, offset=4, data=b"piece")
    + encode_end(1005)
    + encode_ping()
)


def refused(data: bytes) -> str:
    with pytest.raises(DecodeError) as caught:
        decode_packet_untrusted(data)
    return caught.value.code


def test_every_chunk_comes_back() -> None:
    assert decode_packet_untrusted(EVERYTHING) == Packet(
        7,
        [
            AckChunk(((90, 100), (10, 20), (0, 3)), 1500, 1 << 20),
            StreamChunk(1000, b"bytes"),
            FragmentChunk(3, 1005, 9, 4, b"piece"),
            EndChunk(1005),
            PingChunk(),
        ],
    )


@given(st.sets(st.integers(0, 300), min_size=1))
def test_an_acknowledgement_names_what_arrived_or_the_highest_ranges_of_it(numbers: set[int]) -> None:
    seen = RangeSet()
    for number in numbers:
        seen.add(number, number + 1)
    packet = decode_packet_untrusted(HEAD + encode_ack(seen.highest_first(), delay_us=0, limit=0))
    (ack,) = packet.chunks
    assert isinstance(ack, AckChunk)
    assert list(ack.ranges) == seen.highest_first()[: limits.MAX_ACK_RANGES]
    assert not packet.is_eliciting


def test_what_four_bytes_cannot_say_is_said_in_part() -> None:
    """A range longer than 2^32 - 1 is shortened from below, never lengthened; after a wider gap nothing follows."""
    big = 2**33
    data = HEAD + encode_ack([(0, big)], delay_us=2**40, limit=0)
    (ack,) = decode_packet_untrusted(data).chunks
    assert isinstance(ack, AckChunk)
    assert ack.ranges == ((big - (2**32 - 1), big),)
    assert ack.delay_us == 2**32 - 1
    (ack,) = decode_packet_untrusted(HEAD + encode_ack([(big, big + 1), (0, 5)], delay_us=0, limit=0)).chunks
    assert isinstance(ack, AckChunk)
    assert ack.ranges == ((big, big + 1),)


@given(st.binary(max_size=400))
def test_garbage_is_a_packet_or_a_decode_error(data: bytes) -> None:
    for candidate in (data, HEAD + data):
        with suppress(DecodeError):
            packet = decode_packet_untrusted(candidate)
            assert 0 < len(packet.chunks) <= limits.MAX_PACKET_CHUNKS


@given(st.integers(0, len(EVERYTHING) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_a_packet_or_a_decode_error(at: int, flip: int) -> None:
    data = bytearray(EVERYTHING)
    data[at] ^= flip
    with suppress(DecodeError):
        decode_packet_untrusted(bytes(data))


@pytest.mark.parametrize("size", range(len(EVERYTHING)))
def test_a_cut_packet_is_refused_unless_it_is_cut_between_chunks(size: int) -> None:
    borders = [len(HEAD) + each for each in (42, 58, 90, 99)]
    if size in borders:
        assert len(decode_packet_untrusted(EVERYTHING[:size]).chunks) == 1 + borders.index(size)
    else:
        assert refused(EVERYTHING[:size]) == "bad_packet"


def test_what_no_honest_peer_sends_is_refused() -> None:
    ack = struct.Struct(">BQQIBI")
    too_many = [(2 * n, 2 * n + 1) for n in range(limits.MAX_ACK_RANGES)][::-1]
    forged = bytearray(encode_ack(too_many, delay_us=0, limit=0))
    forged[21] = limits.MAX_ACK_RANGES
    bad = {
        "no chunk": b"",
        "unknown kind": b"\x06",
        "kind 0": b"\x00",
        "packet number": encode_ack([(2**62, 2**62 + 1)], delay_us=0, limit=0),
        "limit": encode_ack([(0, 1)], delay_us=0, limit=2**62),
        "empty range": ack.pack(1, 5, 0, 0, 0, 0),
        "below 0": ack.pack(1, 5, 0, 0, 0, 7),
        "giant": ack.pack(1, 5, 0, 0, 0, 2**32 - 1),
        "empty gap": ack.pack(1, 50, 0, 0, 1, 1) + struct.pack(">II", 0, 1),
        "empty second": ack.pack(1, 50, 0, 0, 1, 1) + struct.pack(">II", 1, 0),
        "second below 0": ack.pack(1, 50, 0, 0, 1, 1) + struct.pack(">II", 49, 3),
        "too many ranges": bytes(forged) + struct.pack(">II", 1, 1),
        "two acks": 2 * encode_ack([(0, 1)], delay_us=0, limit=0),
        "empty stream": encode_stream(0, b""),
        "stream offset": encode_stream(2**62, b"x"),
        "empty fragment": encode_fragment(number=0, after=0, total=1, offset=0, data=b""),
        "empty message": encode_fragment(number=0, after=0, total=0, offset=0, data=b""),
        "message": encode_fragment(number=0, after=0, total=limits.MAX_UNRELIABLE_BYTES + 1, offset=0, data=b"x"),
        "beyond": encode_fragment(number=0, after=0, total=5, offset=5, data=b"x"),
        "message number": encode_fragment(number=2**62, after=0, total=5, offset=0, data=b"x"),
        "after": encode_fragment(number=0, after=2**63, total=5, offset=0, data=b"x"),
        "end": encode_end(2**62),
        "pings": encode_ping() * (limits.MAX_PACKET_CHUNKS + 1),
    }
    assert {name: refused(HEAD + data) for name, data in bad.items()} == dict.fromkeys(bad, "bad_packet")
    assert refused(b"\x02" + HEAD[1:] + encode_ping()) == "bad_packet"
    assert refused(encode_head(2**62) + encode_ping()) == "bad_packet"
    assert refused(bytes(limits.MAX_PACKET_BYTES + 1)) == "packet_too_large"
    assert len(decode_packet_untrusted(HEAD + encode_ping() * limits.MAX_PACKET_CHUNKS).chunks) == 64


def test_the_sizes_by_which_packets_are_planned_are_those_written() -> None:
    assert len(HEAD) == packets.PACKET_HEAD_BYTES
    assert len(encode_ack([(0, 1)], delay_us=0, limit=0)) == packets.ACK_BYTES
    assert len(encode_ack([(5, 6), (0, 1)], delay_us=0, limit=0)) - packets.ACK_BYTES == packets.ACK_RANGE_BYTES
    assert len(encode_stream(0, b"x")) - 1 == packets.STREAM_HEAD_BYTES
    assert len(encode_fragment(number=0, after=0, total=1, offset=0, data=b"x")) - 1 == packets.FRAGMENT_HEAD_BYTES
    assert len(encode_end(0)) == packets.END_BYTES
    most = packets.PACKET_HEAD_BYTES + packets.ACK_BYTES + limits.MAX_ACK_RANGES * packets.ACK_RANGE_BYTES
    assert most + 100 < limits.MIN_PACKET_BYTES
