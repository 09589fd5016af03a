"""The sensor's packet side in one object: frames in, events out.

Where it sits: the sensor's program reads a `capture`, gives each packet to `Analyzer.packet`, and publishes what
`drain` returns. No file, socket, thread or clock of its own: time is what the packets say.

Theory: nearly all packets are TCP or UDP over Ethernet and plain IPv4 or IPv6. Their headers are decoded here with one
`struct` call, and the key of the flow table is a slice of the frame: the *short way*. Everything else (tags, options,
extension headers, fragments, other links) goes through `decode`, to the same result: a test gives every packet a VLAN
tag and compares the events.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from rapini.apps.sensor.capture import Packet
from rapini.apps.sensor.decode import Undecoded, decode
from rapini.apps.sensor.flow import SensorEvent
from rapini.apps.sensor.flows import FlowTable, Timeouts
from rapini.apps.sensor.links import ETHERNET
from rapini.apps.sensor.records import DEFAULT_LOCAL_NETS, LocalNets, UidMaker
from rapini.errors import ConfigError

__all__ = ["Analyzer", "AnalyzerConfig", "Counters"]

# Ethernet type, version and header length, total length, fragment, protocol, (addresses, ports,) and of TCP: sequence
# and acknowledgement numbers, data offset, flags, window. Of UDP, the length stands where the sequence number begins.
_IPV4_TCP: Final = struct.Struct("!12xHBxHxxHxB14xIIBBH")
_IPV6_TCP: Final = struct.Struct("!14xB3xHB37xIIBBH")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalyzerConfig:
    """How packets become events."""

    uid_seed: bytes
    """Entropy of the flows' ids: 16 random bytes a sensor and run. Equal seeds give equal ids."""
    local_nets: tuple[str, ...] = DEFAULT_LOCAL_NETS
    """Networks whose hosts count as local, as text."""
    max_flows: int = 200_000
    """Flows held at a time (about 1.5 KB each); beyond, the longest idle ones are reported and forgotten."""
    timeouts: Timeouts = field(default_factory=Timeouts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What the analyzer has seen so far."""

    packets: int
    bytes: int
    """By the frames' lengths on the wire."""
    fragments: int
    """IP fragments, first ones included."""
    undecoded: dict[str, int]
    """Packets that became part of no flow, by `Undecoded` reason; those with none are left out."""
    flows: int
    """Flows begun."""
    active_flows: int
    evicted: int
    """Flows reported early because the table was full."""


class Analyzer:
    """Turns packets into `Connection` and `DnsExchange` events.

    Args:
        config: See `AnalyzerConfig`.

    Raises:
        ConfigError: `bad_network`: a local network is not one.

    Thread: one.
    """

    def __init__(self, config: AnalyzerConfig) -> None:
        try:
            local = LocalNets(config.local_nets)
        except ValueError as error:
            raise ConfigError("bad_network", str(error), remedy="write networks like 10.0.0.0/8") from error
        self._table = FlowTable(UidMaker(config.uid_seed), local, config.timeouts, max(1, config.max_flows))
        self._tcp = self._table.tcp_segment
        self._udp = self._table.udp_datagram
        self._advance_at = 0.0
        self._packets = 0
        self._bytes = 0
        self._fragments = 0
        self._undecoded: dict[Undecoded, int] = {}

    @property
    def counters(self) -> Counters:
        """A snapshot."""
        table = self._table
        return Counters(
            packets=self._packets,
            bytes=self._bytes,
            fragments=self._fragments,
            undecoded={reason.value: count for reason, count in sorted(self._undecoded.items())},
            flows=table.flows,
            active_flows=table.active,
            evicted=table.evicted,
        )

    def drain(self) -> list[SensorEvent]:
        """The events since the last call, in the order in which they were complete."""
        table = self._table
        events, table.events = table.events, []
        return events

    def finish(self) -> None:
        """The capture is over: every flow still under way becomes an event. Then `drain`."""
        self._table.finish()

    def feed(self, packets: Iterable[Packet]) -> None:
        """Call `packet` for each of them."""
        packet = self.packet
        for ts, link_type, frame, wire_bytes in packets:
            packet(ts, link_type, frame, wire_bytes)

    def packet(self, ts: float, link_type: int, frame: bytes, wire_bytes: int) -> None:
        """Take one packet; never raises, whatever its bytes.

        Args:
            ts: Its time in seconds, normally not before that of the packet before.
            link_type: What kind of frame it is: a `links.LinkType`.
            frame: The captured bytes.
            wire_bytes: The frame's length on the wire, at least that of `frame`.
        """
        self._packets += 1
        self._bytes += wire_bytes
        if ts >= self._advance_at:
            self._advance_at = self._table.advance(ts)
        if link_type == ETHERNET and len(frame) >= 54:
            kind, version, total, fragment, protocol, seq, ack, offset, flags, window = _IPV4_TCP.unpack_from(frame)
            if kind == 0x0800:
                end = total + 14
                if version == 0x45 and not fragment & 0x3FFF and end <= wire_bytes:
                    if protocol == 6:
                        start = 34 + (offset >> 2 & 60)
                        if 54 <= start <= end:
                            key = frame[26:38]
                            self._tcp(ts, key, total, seq, ack, flags, window, frame, start, end)
                            return
                    elif protocol == 17 and 8 <= (size := seq >> 16) <= total - 20:
                        self._udp(ts, frame[26:38], total, frame, 42, size - 8)
                        return
            elif kind == 0x86DD and len(frame) >= 74 and self._is_plain_ipv6(ts, frame, wire_bytes):
                return
        self._long_way(ts, link_type, frame, wire_bytes)

    def _is_plain_ipv6(self, ts: float, frame: bytes, wire_bytes: int) -> bool:
        version, payload, protocol, seq, ack, offset, flags, window = _IPV6_TCP.unpack_from(frame)
        end = payload + 54
        if version >> 4 != 6 or end > wire_bytes or not payload:
            return False
        if protocol == 6:
            start = 54 + (offset >> 2 & 60)
            if 74 <= start <= end:
                self._tcp(ts, frame[22:58], payload + 40, seq, ack, flags, window, frame, start, end)
                return True
        elif protocol == 17 and 8 <= (size := seq >> 16) <= payload:
            self._udp(ts, frame[22:58], payload + 40, frame, 62, size - 8)
            return True
        return False

    def _long_way(self, ts: float, link_type: int, frame: bytes, wire_bytes: int) -> None:
        segment = decode(link_type, frame, wire_bytes)
        if isinstance(segment, Undecoded):
            refused: Undecoded | None = segment
        else:
            self._fragments += segment.is_fragment
            refused = self._table.take(ts, frame, segment)
        if refused is not None:
            self._undecoded[refused] = self._undecoded.get(refused, 0) + 1
            self._fragments += refused is Undecoded.FRAGMENT
