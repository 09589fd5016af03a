"""The pcapng format: typed blocks in sections, packets that refer to the interfaces of their section.

Where it sits: below `capture`, which hands its buffered file to `read_blocks`. Blocks that carry no packet (names,
statistics, secrets, comments) are skipped; unknown ones too, as the format asks.

A file may hold interfaces of several link types, so each packet is yielded with its own. Only when not one interface
known at the first packet is of a kind that we decode, the file is refused; later strangers are left to the decoder,
which counts them. A simple packet block has no time: it gets that of the packet before, so that time never jumps.

Source: draft-ietf-opsawg-pcapng-02.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rapini.apps.sensor import links

if TYPE_CHECKING:
    from rapini.apps.sensor.capture import Capture, Packet

__all__ = ["read_blocks"]

MAX_BLOCK_BYTES: Final = 16 * 1024 * 1024
"""Largest block we believe, name and secrets blocks included. Wireshark's own bound is the same."""

_SECTION: Final = 0x0A0D0D0A
_INTERFACE: Final = 1
_OLD_PACKET: Final = 2
_SIMPLE_PACKET: Final = 3
_ENHANCED_PACKET: Final = 6
_OPTION_END: Final = 0
_OPTION_TSRESOL: Final = 9
_OPTION_TSOFFSET: Final = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class _Interface:
    link_type: int
    snap_bytes: int
    units: float
    """Timestamp units a second."""
    offset_s: int
    """Seconds to add to each timestamp."""


def read_blocks(capture: Capture) -> Iterator[Packet]:
    """Yield the packets of a pcapng file whose first section header is still unread.

    Raises:
        CaptureError: `truncated`, `damaged` or `link_type`, after the packets before.
    """
    reader = _Reader(capture)
    reader.next_block()  # the first section header, now: a file that is only a magic number is found when opened
    return reader.packets()


class _Reader:
    """The state that blocks refer to: byte order and interfaces of the section, and the last packet's time."""

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self._order = "<"
        self._interfaces: list[_Interface] = []
        self._last_ts = 0.0
        self._checked_links = False

    def packets(self) -> Iterator[Packet]:
        capture = self._capture
        while (block := self.next_block()) is not None:
            kind, body = block
            try:
                packet = self._packet(kind, body)
            except struct.error as error:
                raise capture.error("damaged", "a block is shorter than its own header") from error
            if packet is None:
                continue
            if not self._checked_links:
                self._check_links()
            capture.packets_read += 1
            yield packet

    def next_block(self) -> tuple[int, bytes] | None:
        """The next block's type and body, a section header's byte order applied; `None` at the end of the file."""
        capture = self._capture
        head = capture.take(8)
        if not head:
            return None
        if head.startswith(b"\x0a\x0d\x0d\x0a"):
            head += capture.take(4)
            self._begin_section(head)
        elif len(head) < 8:
            raise capture.error("truncated", f"ends within a block header, {8 - len(head)} bytes short")
        kind, length = struct.unpack_from(self._order + "II", head)
        if length < len(head) + 4 or length % 4 or length > MAX_BLOCK_BYTES:
            raise capture.error("damaged", f"a block of {length} bytes is not credible")
        rest = capture.take(length - len(head))
        if len(rest) < length - len(head):
            raise capture.error("truncated", f"ends within a block, {length - len(head) - len(rest)} bytes short")
        if struct.unpack_from(self._order + "I", rest, len(rest) - 4)[0] != length:
            raise capture.error("damaged", "a block's two lengths differ")
        return kind, rest[:-4]

    def _begin_section(self, head: bytes) -> None:
        match head[8:12]:
            case b"\x4d\x3c\x2b\x1a":
                self._order = "<"
            case b"\x1a\x2b\x3c\x4d":
                self._order = ">"
            case magic if len(magic) < 4:
                raise self._capture.error("truncated", "ends within a section header")
            case _:
                raise self._capture.error("damaged", "a section header has no byte order")
        self._interfaces = []

    def _packet(self, kind: int, body: bytes) -> Packet | None:
        if kind == _ENHANCED_PACKET:
            index, high, low, captured, length = struct.unpack_from(self._order + "5I", body)
            start = 20
        elif kind == _OLD_PACKET:
            index, _drops, high, low, captured, length = struct.unpack_from(self._order + "HHIIII", body)
            start = 20
        elif kind == _SIMPLE_PACKET:
            return self._simple_packet(body)
        else:
            if kind == _INTERFACE:
                self._interfaces.append(self._interface(body))
            return None
        interface = self._interface_of(index)
        if start + captured > len(body):
            raise self._capture.error("damaged", "a packet is longer than its block")
        self._last_ts = ts = _seconds((high << 32) | low, interface)
        return ts, interface.link_type, body[start : start + captured], max(length, captured)

    def _simple_packet(self, body: bytes) -> Packet:
        (length,) = struct.unpack_from(self._order + "I", body)
        interface = self._interface_of(0)
        captured = min(length, interface.snap_bytes or length)  # the block does not say; the interface does
        if 4 + captured > len(body):
            raise self._capture.error("damaged", "a packet is longer than its block")
        return self._last_ts, interface.link_type, body[4 : 4 + captured], length

    def _interface_of(self, index: int) -> _Interface:
        if index >= len(self._interfaces):
            raise self._capture.error("damaged", f"a packet refers to interface {index}, which is not described")
        return self._interfaces[index]

    def _interface(self, body: bytes) -> _Interface:
        link_type, _reserved, snap_bytes = struct.unpack_from(self._order + "HHI", body)
        units, offset_s = 1e6, 0
        for code, value in self._options(body, 8):
            if code == _OPTION_TSRESOL and value:
                exponent = value[0] & 0x7F
                units = 2.0**exponent if value[0] & 0x80 else 10.0**exponent
            elif code == _OPTION_TSOFFSET and len(value) == 8:
                (offset_s,) = struct.unpack(self._order + "q", value)
        return _Interface(link_type=link_type, snap_bytes=snap_bytes, units=units, offset_s=offset_s)

    def _options(self, body: bytes, start: int) -> Iterator[tuple[int, bytes]]:
        while start + 4 <= len(body):
            code, length = struct.unpack_from(self._order + "HH", body, start)
            if code == _OPTION_END:
                return
            yield code, body[start + 4 : start + 4 + length]
            start += 4 + (length + 3 & ~3)

    def _check_links(self) -> None:
        self._checked_links = True
        if not any(interface.link_type in links.NAMES for interface in self._interfaces):
            kinds = " and ".join(sorted({links.name_of(i.link_type) for i in self._interfaces}))
            raise self._capture.error("link_type", f"holds frames of {kinds}")


def _seconds(ticks: int, interface: _Interface) -> float:
    # Whole seconds apart: dividing 64-bit nanoseconds by 1e9 at once would round twice.
    units = interface.units
    if units <= 1e18:
        whole = int(units)
        return ticks // whole + interface.offset_s + (ticks % whole) / units
    return ticks / units + interface.offset_s
