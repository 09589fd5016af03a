"""Packet captures: pcap and pcapng files as one stream of timed frames.

Where it sits: the sensor's source. `open_capture` reads the file's header, so that what cannot be read at all is known
before anything starts; iterating over the `Capture` yields packets one at a time with constant memory, however long
the file. A capture that ends in the middle of a packet yields everything before, then raises.

Theory: a *pcap* file is a header that fixes byte order, timestamp resolution and link type, then records of a
16-byte header and the frame. A *pcapng* file is a list of typed blocks; each section has its own byte order and a
list of interfaces, each with its own link type and timestamp resolution, which packet blocks refer to. The file is
read in large pieces and never mapped: a mapped file that somebody truncates kills the process with SIGBUS.

dpkt reads both formats too, and is not used here: its pcapng reader takes the first interface's link type and
resolution for all, its pcap reader ends a cut file in silence and drops the length on the wire, and takes three times
as long per packet.

Source: draft-ietf-opsawg-pcap-04, draft-ietf-opsawg-pcapng-02.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import BufferedIOBase, FileIO
from pathlib import Path
from typing import Final, Self

from rapini.apps.sensor import links
from rapini.errors import CaptureError

__all__ = ["MAX_FRAME_BYTES", "Capture", "Packet", "open_capture"]

Packet = tuple[float, int, bytes, int]
"""Seconds since the epoch (UTC), link type (`links.LinkType`), the bytes captured, the frame's length on the wire."""

MAX_FRAME_BYTES: Final = 1024 * 1024
"""Longest frame we believe. libpcap writes at most 256 KiB for the link types we know: more means a damaged file."""

CHUNK_BYTES: Final = 1024 * 1024
"""Bytes read from the file at a time."""

_PCAP_MAGIC: Final[dict[bytes, tuple[str, float, int]]] = {
    b"\xd4\xc3\xb2\xa1": ("<", 1e6, 16),
    b"\xa1\xb2\xc3\xd4": (">", 1e6, 16),
    b"\x4d\x3c\xb2\xa1": ("<", 1e9, 16),
    b"\xa1\xb2\x3c\x4d": (">", 1e9, 16),
    # Kuznetzov's variant of old Linux distributions: eight more bytes in each record's header.
    b"\x34\xcd\xb2\xa1": ("<", 1e6, 24),
    b"\xa1\xb2\xcd\x34": (">", 1e6, 24),
}
"""Magic number: byte order, timestamp units a second, record header bytes."""

_PCAPNG_MAGIC: Final = b"\x0a\x0d\x0d\x0a"
_GZIP_MAGIC: Final = b"\x1f\x8b"
_PCAP_HEADER_BYTES: Final = 24
_LINK_TYPE_MASK: Final = 0x03FFFFFF  # the bits above say how long a frame check sequence is


class Capture:
    """A capture being read: iterate over it once. Made by `open_capture`; close it, or use it in a `with`.

    Raises:
        CaptureError: While iterating, `truncated` (the file ends within a packet), `damaged` or `link_type`, with
            the number of the packet; all packets before that were yielded. `unreadable` if the system fails to read.

    Thread: one at a time.
    """

    path: str
    """The file, as it was named."""
    format: str
    """``pcap`` or ``pcapng``."""
    size_bytes: int
    """The file's size; 0 where it has none (a pipe)."""
    packets_read: int
    """Packets yielded so far."""

    def __init__(self, stream: BufferedIOBase | FileIO, path: str, size_bytes: int) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self.packets_read = 0
        self._stream = stream
        self._taken = 0
        self._buffer = b""
        self._position = 0
        self.format, self._packets = self._identify()

    @property
    def bytes_read(self) -> int:
        """Bytes of the file that are behind us, to about a megabyte while iterating: for a progress bar."""
        return self._taken - len(self._buffer) + self._position

    def __iter__(self) -> Iterator[Packet]:
        return self._packets

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Iterating afterwards ends or raises `CaptureError`."""
        self._stream.close()

    def fill(self, need: int) -> int:
        """Make `need` bytes available at the position, dropping what lies before it; return how many there are."""
        rest = self._buffer[self._position :]
        pieces, have = [rest], len(rest)
        while have < need:
            try:
                piece = self._stream.read(max(CHUNK_BYTES, need - have))
            except (OSError, ValueError) as error:  # ValueError: closed under us
                raise self.error("unreadable", f"cannot be read: {error}") from error
            if not piece:
                break
            self._taken += len(piece)
            pieces.append(piece)
            have += len(piece)
        self._buffer, self._position = b"".join(pieces), 0
        return have

    def take(self, count: int) -> bytes:
        """The next `count` bytes; fewer at the end of the file."""
        if len(self._buffer) - self._position < count:
            self.fill(count)
        data = self._buffer[self._position : self._position + count]
        self._position += len(data)
        return data

    def error(self, code: str, detail: str, *, packet: int | None = None, remedy: str = "") -> CaptureError:
        """An error about the next packet (or `packet`) of this file."""
        number = self.packets_read + 1 if packet is None else packet
        return CaptureError(code, detail, path=self.path, packet=number, remedy=remedy)

    def _identify(self) -> tuple[str, Iterator[Packet]]:
        have = self.fill(4)
        magic = self._buffer[:4]
        if magic in _PCAP_MAGIC:
            return "pcap", self._open_pcap(*_PCAP_MAGIC[magic])
        if magic == _PCAPNG_MAGIC:
            from rapini.apps.sensor.pcapng import read_blocks

            return "pcapng", read_blocks(self)
        if magic.startswith(_GZIP_MAGIC):
            raise self.error(
                "not_a_capture", "is compressed", packet=0, remedy="decompress it first, for example with gunzip"
            )
        raise self.error(
            "not_a_capture",
            "is empty" if have == 0 else "is neither a pcap nor a pcapng file",
            packet=0,
            remedy="make one with: tcpdump -w FILE",
        )

    def _open_pcap(self, order: str, units: float, header_bytes: int) -> Iterator[Packet]:
        header = self.take(_PCAP_HEADER_BYTES)
        if len(header) < _PCAP_HEADER_BYTES:
            raise self.error("truncated", "ends within the file header")
        link_type = struct.unpack_from(order + "I", header, 20)[0] & _LINK_TYPE_MASK
        if link_type not in links.NAMES:
            raise self.error("link_type", f"holds frames of {links.name_of(link_type)}", packet=0, remedy=_KNOWN)
        return self._read_pcap(struct.Struct(order + "4I"), units, header_bytes, link_type)

    def _read_pcap(self, record: struct.Struct, units: float, header_bytes: int, link_type: int) -> Iterator[Packet]:
        # The loop that every packet passes: local names, one unpack, one slice.
        unpack = record.unpack_from
        buffer, position, end, count = self._buffer, self._position, len(self._buffer), self.packets_read
        while True:
            start = position + header_bytes
            if start <= end:
                seconds, fraction, captured, length = unpack(buffer, position)
                if captured > MAX_FRAME_BYTES:
                    raise self.error("damaged", f"a packet of {captured} bytes is not credible")
                position = start + captured
                if position <= end:
                    count += 1
                    self.packets_read = count
                    yield (
                        seconds + fraction / units,
                        link_type,
                        buffer[start:position],
                        length if length > captured else captured,  # noqa: FURB136 - max() costs a call a packet
                    )
                    continue
                need, start = header_bytes + captured, start - header_bytes
            else:
                need, start = header_bytes, position
            self._position = start
            have = self.fill(need)
            if have == 0:
                return
            if have < need:
                raise self.error("truncated", f"ends within a packet, {need - have} bytes short")
            buffer, position, end = self._buffer, 0, len(self._buffer)


_KNOWN: Final = "the sensor reads Ethernet, Linux cooked, raw IP and BSD loopback"


def open_capture(path: str | Path) -> Capture:
    """Open a pcap or pcapng file for reading.

    Args:
        path: The file; a pipe will do.

    Returns:
        The capture, its header already read: iterate over it once.

    Raises:
        CaptureError: `not_found`, `unreadable` (permission, a directory), `not_a_capture`, `truncated` (within the
            header) or `link_type` (frames that the sensor does not decode).

    Thread: any.
    """
    name = str(path)
    try:
        stream = Path(path).open("rb", buffering=0)  # noqa: SIM115 - the Capture closes it
        size = Path(path).stat().st_size
    except FileNotFoundError as error:
        raise CaptureError("not_found", "no such file", path=name) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CaptureError("unreadable", f"cannot be read: {reason}", path=name) from error
    try:
        return Capture(stream, name, size)
    except BaseException:
        stream.close()
        raise
