"""Link types: what a capture file calls the kind of frame it holds, and which of them we decode.

A leaf of the sensor: `capture` refuses a file of an unknown link type when it is opened, `decode` finds the IP packet
in a frame of a known one. The numbers are LINKTYPE_ values, the ones in files, as listed by tcpdump.org
(https://www.tcpdump.org/linktypes.html); a few systems wrote their DLT_ value for raw IP instead (12 and 14).
"""

from __future__ import annotations

from typing import Final, NewType

__all__ = [
    "ETHERNET",
    "IPV4",
    "IPV6",
    "LINUX_SLL",
    "LINUX_SLL2",
    "LOOP",
    "NAMES",
    "NULL",
    "RAW",
    "RAW_TYPES",
    "LinkType",
    "name_of",
]

LinkType = NewType("LinkType", int)
"""A LINKTYPE_ value."""

NULL: Final = LinkType(0)
ETHERNET: Final = LinkType(1)
RAW: Final = LinkType(101)
LOOP: Final = LinkType(108)
LINUX_SLL: Final = LinkType(113)
IPV4: Final = LinkType(228)
IPV6: Final = LinkType(229)
LINUX_SLL2: Final = LinkType(276)

RAW_TYPES: Final = frozenset({LinkType(12), LinkType(14), RAW, IPV4, IPV6})
"""Frames that begin with the IP header."""

NAMES: Final[dict[int, str]] = {
    NULL: "BSD loopback",
    ETHERNET: "Ethernet",
    12: "raw IP",
    14: "raw IP",
    RAW: "raw IP",
    LOOP: "OpenBSD loopback",
    LINUX_SLL: "Linux cooked v1",
    IPV4: "raw IPv4",
    IPV6: "raw IPv6",
    LINUX_SLL2: "Linux cooked v2",
}
"""The link types that `decode` knows."""

_STRANGERS: Final = {9: "PPP", 105: "IEEE 802.11", 127: "IEEE 802.11 with radiotap", 189: "USB", 220: "USB"}


def name_of(link_type: int) -> str:
    """What people call this link type."""
    name = NAMES.get(link_type) or _STRANGERS.get(link_type)
    return f"{name} (link type {link_type})" if name else f"link type {link_type}"
