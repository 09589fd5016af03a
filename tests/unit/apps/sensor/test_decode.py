"""Properties of decoding: every link layer leads to the same segment, dpkt agrees, and no bytes whatever raise."""

from __future__ import annotations

import struct
from typing import Any

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapini.apps.schema import Connection
from rapini.apps.sensor import links
from rapini.apps.sensor.decode import Segment, Undecoded, decode
from tests.unit.apps.sensor.packets import (
    CLIENT,
    CLIENT6,
    SERVER,
    SERVER6,
    analyzer,
    demo_packets,
    ethernet,
    ip_packet,
    packed,
    udp,
)

FOUR = ip_packet(CLIENT, SERVER, 17, dpkt.udp.UDP(sport=1, dport=2, data=b"hello", ulen=13))
SIX = ip_packet(CLIENT6, SERVER6, 17, dpkt.udp.UDP(sport=1, dport=2, data=b"hello", ulen=13))
LINK_TYPES = sorted(links.NAMES)


def framings(packet: bytes) -> dict[str, tuple[int, bytes]]:
    """The packet behind every link-layer header that we know."""
    is_six = packet[0] >> 4 == 6
    kind = b"\x86\xdd" if is_six else b"\x08\x00"
    plain = ethernet(packet)
    found = {
        "ethernet": (1, plain),
        "vlan": (1, ethernet(packet, [7])),
        "qinq": (1, plain[:12] + b"\x88\xa8\x00\x07\x81\x00\x00\x08" + kind + packet),
        "snap": (1, plain[:12] + struct.pack("!H", len(packet) + 8) + b"\xaa\xaa\x03\x00\x00\x00" + kind + packet),
        "pppoe": (1, plain[:12] + b"\x88\x64\x11\x00\0\1\0\7" + (b"\x00\x57" if is_six else b"\x00\x21") + packet),
        "cooked": (113, bytes(14) + kind + packet),
        "cooked vlan": (113, bytes(14) + b"\x81\x00\x00\x07" + kind + packet),
        "cooked 2": (276, kind + bytes(18) + packet),
        "cooked 2 vlan": (276, b"\x81\x00" + bytes(18) + b"\x00\x07" + kind + packet),
        "loop": (108, struct.pack("!I", 24 if is_six else 2) + packet),
        "raw 6": (229, packet) if is_six else (228, packet),
    }
    for family in (10, 24, 28, 30) if is_six else (2,):
        found[f"null little {family}"] = 0, struct.pack("<I", family) + packet
        found[f"null big {family}"] = 0, struct.pack(">I", family) + packet
    found.update({f"raw {number}": (number, packet) for number in (12, 14, 101)})
    return found


@pytest.mark.parametrize("packet", [FOUR, SIX], ids=["IPv4", "IPv6"])
def test_every_link_layer_leads_to_the_same_segment(packet: bytes) -> None:
    is_six = packet[0] >> 4 == 6
    addresses = packet[8:40] if is_six else packet[12:20]
    header = 40 if is_six else 20
    for name, (link_type, frame) in framings(packet).items():
        start = len(frame) - len(packet) + header
        assert decode(link_type, frame, len(frame)) == Segment(17, addresses, len(packet), start, 13, False), name


def extended(*headers: bytes, last: int = 17) -> bytes:
    """The IPv6 packet with extension headers, each given as its number and its bytes after the next-header byte."""
    chain = b""
    for index, header in enumerate(headers):
        follower = headers[index + 1][0] if index + 1 < len(headers) else last
        chain += bytes([follower]) + header[1:]
    head = bytearray(SIX[:40])
    head[6] = headers[0][0]
    struct.pack_into("!H", head, 4, len(chain) + len(SIX) - 40)
    return bytes(head) + chain + SIX[40:]


HOP = b"\x00" + b"\x01" + bytes(14)
DESTINATION = b"\x3c" + b"\x00" + bytes(6)
AUTHENTICATION = b"\x33" + b"\x04" + bytes(22)
ATOMIC = b"\x2c" + bytes(7)
FIRST = b"\x2c" + b"\x00\x00\x01" + bytes(4)
LATER = b"\x2c" + b"\x00\x00\x09" + bytes(4)


@pytest.mark.parametrize(
    ("headers", "is_fragment"),
    [((HOP,), False), ((HOP, DESTINATION, AUTHENTICATION), False), ((ATOMIC,), False), ((HOP, FIRST), True)],
)
def test_extension_headers_are_walked_to_the_transport_header(headers: tuple[bytes, ...], is_fragment: bool) -> None:
    packet = extended(*headers)
    start = len(packet) - 13
    assert decode(101, packet, len(packet)) == Segment(17, packet[8:40], len(packet), start, 13, is_fragment)


def with_fragment(field: int) -> bytes:
    packet = bytearray(FOUR)
    struct.pack_into("!H", packet, 6, field)
    return bytes(packet)


@pytest.mark.parametrize(
    ("frame", "link_type", "reason"),
    [
        (b"", 1, Undecoded.SHORT),
        (ethernet(FOUR)[:30], 1, Undecoded.SHORT),
        (FOUR, 127, Undecoded.LINK_TYPE),
        (bytes(12) + b"\x08\x06" + bytes(28), 1, Undecoded.NOT_IP),
        (b"\x50" + FOUR[1:], 101, Undecoded.NOT_IP),
        (b"\x44" + FOUR[1:], 101, Undecoded.BAD_IP_HEADER),
        (ethernet(b"\x55" + FOUR[1:]), 1, Undecoded.BAD_IP_HEADER),
        (FOUR[:2] + b"\x00\x13" + FOUR[4:], 101, Undecoded.BAD_IP_HEADER),
        (FOUR[:2] + b"\x05\xdc" + FOUR[4:], 101, Undecoded.BAD_IP_HEADER),
        (extended(*[DESTINATION] * 20), 101, Undecoded.BAD_IP_HEADER),
        (with_fragment(0x2005), 101, Undecoded.FRAGMENT),
        (extended(LATER), 101, Undecoded.FRAGMENT),
    ],
)
def test_a_frame_without_a_segment_has_a_reason(frame: bytes, link_type: int, reason: Undecoded) -> None:
    assert decode(link_type, frame, len(frame)) is reason


def test_a_header_cut_by_the_snapshot_length_is_short() -> None:
    packet = extended(HOP)
    assert decode(101, packet[:41], len(packet)) is Undecoded.SHORT


def test_padding_does_not_count_and_a_cut_packet_counts_in_full() -> None:
    padded = ethernet(FOUR) + bytes(13)
    segment = decode(1, padded, len(padded))
    cut = decode(1, ethernet(FOUR)[:42], len(ethernet(FOUR)))
    assert segment == cut == Segment(17, FOUR[12:20], 33, 34, 13, False)


def test_a_total_length_of_zero_means_the_whole_frame() -> None:
    packet = FOUR[:2] + b"\x00\x00" + FOUR[4:]
    assert decode(101, packet, len(packet)) == decode(101, FOUR, len(FOUR))


def test_dpkt_agrees_about_every_packet_of_the_shipped_capture() -> None:
    seen = 0
    for _, link_type, frame, wire_bytes in demo_packets():
        ours, theirs = decode(link_type, frame, wire_bytes), dpkt.ethernet.Ethernet(frame).data
        if isinstance(ours, Segment) and not ours.is_fragment:
            assert ours.addresses == theirs.src + theirs.dst
            assert ours.protocol == theirs.p
            assert ours.ip_bytes == (theirs.len if theirs.v == 4 else theirs.plen + 40)
            if ours.protocol in (6, 17):
                assert struct.unpack_from("!HH", frame, ours.start) == (theirs.data.sport, theirs.data.dport)
                seen += 1
    assert seen > 3000


# --- Totality ---------------------------------------------------------------------------------------------------

REAL = [packet[2] for packet in demo_packets()[:600]] + [frame for _, frame in framings(SIX).values()]


def survives(frames: list[tuple[int, bytes]]) -> None:
    """Every frame is counted exactly once: in a flow's packets, or with the reason why not."""
    subject = analyzer(max_flows=5)
    for number, (link_type, frame) in enumerate(frames):
        subject.packet(number * 0.7, link_type, frame, len(frame))
    subject.finish()
    events = subject.drain()
    in_flows = sum(e.orig_pkts + e.resp_pkts for e in events if isinstance(e, Connection))
    assert in_flows + sum(subject.counters.undecoded.values()) == len(frames) == subject.counters.packets
    assert subject.counters.active_flows == 0


@given(frames=st.lists(st.tuples(st.sampled_from([*LINK_TYPES, 127]), st.binary(max_size=120)), max_size=30))
def test_garbage_is_counted_and_never_raises(frames: list[Any]) -> None:
    survives(frames)


@given(
    frames=st.lists(
        st.tuples(st.sampled_from(REAL), st.lists(st.tuples(st.integers(0, 90), st.integers(0, 255)), max_size=4)),
        max_size=30,
    ),
    cut=st.integers(0, 120),
)
def test_mutated_real_frames_are_counted_and_never_raise(frames: list[Any], cut: int) -> None:
    mutated = []
    for frame, changes in frames:
        data = bytearray(frame)
        for at, value in changes:
            if at < len(data):
                data[at] = value
        mutated.append((1, bytes(data[: cut or None])))
    survives(mutated)


@given(data=st.binary(max_size=200), port=st.sampled_from([53, 137, 5353, 123, 67]))
def test_garbage_on_the_port_of_a_known_service_never_raises(data: bytes, port: int) -> None:
    survives([(1, udp(CLIENT, 4000, SERVER, port, data)), (1, udp(SERVER, port, CLIENT, 4000, data))])


def test_an_address_is_what_it_was() -> None:
    assert packed(CLIENT) + packed(SERVER) == FOUR[12:20]
