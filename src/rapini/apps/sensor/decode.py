"""From a frame to the transport header: link layer, IP, fragments, extension headers.

Where it sits: between `capture` and `flows`. `decode` takes any frame of any link type in `links` and returns where
its transport header begins, or a reason why there is none; it never raises, whatever the bytes. The commonest case
(Ethernet, IPv4 or IPv6 without options, TCP) is decoded by `analyzer` itself with one `struct` call, to the same
result: a test compares both on all kinds of frames.

Lengths are those of the IP header, not of the capture: a packet cut by the snapshot length counts in full, as Zeek
counts it, and Ethernet's padding does not count. A total length of 0 is what a capture of segments before their
offloading shows; the frame's length on the wire is used then.

Fragments: the first one has the ports, so it belongs to its flow (with the bytes that it carries); later ones have
none and are only counted. Nothing is reassembled.

dpkt could decode all this and does in the tests, where it is the independent opinion; here it would take three times
as long as everything the analyzer does with a packet, because it builds an object per header.

Source: RFC 791, RFC 8200 (section 4.1: the extension headers), RFC 4302 (AH), IEEE 802.1Q; Zeek's IPAnalyzer.
"""

from __future__ import annotations

import enum
import struct
from typing import Final, NamedTuple

from rapini.apps.sensor import links

__all__ = ["ICMP", "ICMPV6", "TCP", "UDP", "Segment", "Undecoded", "decode"]

ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
ICMPV6: Final = 58


class Undecoded(enum.StrEnum):
    """Why a frame did not become part of a flow."""

    SHORT = "short"
    """It ends before the transport header does."""
    LINK_TYPE = "link_type"
    """Its link type is not one that we decode."""
    NOT_IP = "not_ip"
    """ARP, spanning tree, LLDP and the like: healthy, and no business of ours."""
    BAD_IP_HEADER = "bad_ip_header"
    """The IP header contradicts itself or the frame."""
    BAD_TRANSPORT_HEADER = "bad_transport_header"
    """The TCP or UDP header contradicts itself or the IP header."""
    FRAGMENT = "fragment"
    """A fragment other than the first."""


class Segment(NamedTuple):
    """Where the transport header of a packet is."""

    protocol: int
    """The IP protocol number of what begins at `start`."""
    addresses: bytes
    """Source and destination: 8 bytes for IPv4, 32 for IPv6."""
    ip_bytes: int
    """The packet's length by its IP header, header included."""
    start: int
    """Offset of the transport header in the frame; may lie at the frame's end."""
    length: int
    """Bytes from there to the end of the packet, by the IP header: more than captured if the frame was cut."""
    is_fragment: bool
    """It is the first of several fragments."""


_IPV4: Final = 0x0800
_IPV6: Final = 0x86DD
_PPPOE_SESSION: Final = 0x8864
_VLAN_TAGS: Final = frozenset({0x8100, 0x88A8, 0x9100, 0x9200})
_MAX_VLAN_TAGS: Final = 4
_PPP_PROTOCOLS: Final = {b"\x00\x21": _IPV4, b"\x00\x57": _IPV6}
_INET6_FAMILIES: Final = frozenset({10, 24, 28, 30})  # Linux, NetBSD and OpenBSD, FreeBSD, Darwin

_IPV4_HEADER: Final = struct.Struct("!BxHxxHxBxx8s")
_IPV6_HEADER: Final = struct.Struct("!B3xHBx32s")

_HOP_BY_HOP: Final = 0
_ROUTING: Final = 43
_FRAGMENT: Final = 44
_AUTHENTICATION: Final = 51
_DESTINATION: Final = 60
_MOBILITY: Final = 135
_EXTENSIONS: Final = frozenset({_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _DESTINATION, _MOBILITY})
_MAX_EXTENSIONS: Final = 16


def decode(link_type: int, frame: bytes, wire_bytes: int) -> Segment | Undecoded:
    """Find the transport header of a frame.

    Args:
        link_type: The frame's `links.LinkType`.
        frame: The captured bytes; may be hostile.
        wire_bytes: The frame's length on the wire.

    Returns:
        The segment, or why there is none. Thread: any.
    """
    try:
        ethertype, start = _network(link_type, frame)
        if ethertype == _IPV4:
            return _ipv4(frame, start, wire_bytes)
        if ethertype == _IPV6:
            return _ipv6(frame, start, wire_bytes)
    except (struct.error, IndexError):
        return Undecoded.SHORT
    return Undecoded.NOT_IP if link_type in links.NAMES else Undecoded.LINK_TYPE


def _network(link_type: int, frame: bytes) -> tuple[int, int]:
    """The Ethernet type and the offset of what it names; 0 if there is none."""
    if link_type == links.ETHERNET:
        return _ethernet(frame, 12)
    if link_type in links.RAW_TYPES:
        return _by_version(frame, 0), 0
    if link_type == links.LINUX_SLL:
        return _ethernet(frame, 14)
    if link_type == links.LINUX_SLL2:
        ethertype, start = _ethernet(frame, 0)
        # The protocol stands first here and the payload follows the 20-byte header; only tags move it further.
        return ethertype, start + 18
    if link_type in (links.NULL, links.LOOP):
        return _loopback(frame), 4
    return 0, 0


def _ethernet(frame: bytes, at: int) -> tuple[int, int]:
    ethertype = frame[at] << 8 | frame[at + 1]
    at += 2
    if ethertype in _VLAN_TAGS:
        shift = 18 if at == 2 else 0  # cooked v2: the tag is where the payload is
        for _ in range(_MAX_VLAN_TAGS):
            if ethertype not in _VLAN_TAGS:
                break
            ethertype = frame[at + shift + 2] << 8 | frame[at + shift + 3]
            at += 4
    if ethertype == _PPPOE_SESSION:
        return _PPP_PROTOCOLS.get(frame[at + 6 : at + 8], 0), at + 8
    if ethertype <= 1500 and frame[at : at + 6] == b"\xaa\xaa\x03\x00\x00\x00":  # 802.3 with LLC and SNAP
        return frame[at + 6] << 8 | frame[at + 7], at + 8
    return ethertype, at


def _by_version(frame: bytes, start: int) -> int:
    version = frame[start] >> 4
    return _IPV4 if version == 4 else _IPV6 if version == 6 else 0


def _loopback(frame: bytes) -> int:
    # The family is in the byte order of the machine that wrote it, and differs between systems for IPv6.
    family = max(frame[0], frame[3])
    return _IPV4 if family == 2 else _IPV6 if family in _INET6_FAMILIES else 0


def _ipv4(frame: bytes, start: int, wire_bytes: int) -> Segment | Undecoded:
    version_length, total, fragment, protocol, addresses = _IPV4_HEADER.unpack_from(frame, start)
    header = (version_length & 15) * 4
    total = total or wire_bytes - start
    if version_length >> 4 != 4 or header < 20 or total < header or start + total > wire_bytes:
        return Undecoded.BAD_IP_HEADER
    if fragment & 0x1FFF:
        return Undecoded.FRAGMENT
    return Segment(protocol, addresses, total, start + header, total - header, bool(fragment & 0x2000))


def _ipv6(frame: bytes, start: int, wire_bytes: int) -> Segment | Undecoded:
    version, payload, header, addresses = _IPV6_HEADER.unpack_from(frame, start)
    total = payload + 40 if payload else wire_bytes - start
    if version >> 4 != 6 or total < 40 or start + total > wire_bytes:
        return Undecoded.BAD_IP_HEADER
    at, end, is_fragment = start + 40, start + total, False
    for _ in range(_MAX_EXTENSIONS):
        if header not in _EXTENSIONS:
            return Segment(header, addresses, total, at, end - at, is_fragment)
        if header == _FRAGMENT:
            if (frame[at + 2] << 8 | frame[at + 3]) & 0xFFF8:
                return Undecoded.FRAGMENT
            is_fragment = bool(frame[at + 3] & 1)
            length = 8
        else:
            length = (frame[at + 1] + 2) * 4 if header == _AUTHENTICATION else (frame[at + 1] + 1) * 8
        header, at = frame[at], at + length
        if at > end:
            return Undecoded.BAD_IP_HEADER
    return Undecoded.BAD_IP_HEADER
