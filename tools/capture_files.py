"""Reads, trims, converts and counts packet captures for the recorder.

Sits beside `record_capture.py`, which records; this module only touches files, needs no privileges, and can
be run alone to count any Ethernet pcap:

    python -m tools.capture_files src/rapini/data/demo.pcap

Theory: a classic pcap file is a 24-byte header and, per packet, 16 bytes (seconds, microseconds, captured
length, length on the wire) and the bytes. A capture may hold less of a packet than the wire did (the *snap
length*); everything here keeps the wire length, because a reader must count bytes from the headers, not from
what was captured. The record format is read and written by hand for that reason: dpkt's reader drops the wire
length. dpkt decodes.

Source: draft-ietf-opsawg-pcap; link types from https://www.tcpdump.org/linktypes.html.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import dpkt

MAGIC_MICROSECONDS = 0xA1B2C3D4
LINKTYPE_ETHERNET = 1
LINKTYPE_RAW = 101
ETHERNET_HEADER = 14
SNAP_LENGTH = 256
"""Bytes kept of packets that are neither UDP nor DNS: all headers, and enough payload to name the service."""

SERVICES = {22: "ssh", 53: "dns", 80: "http", 123: "ntp", 443: "tls", 514: "syslog", 7000: "ticker"}
RCODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED", 9: "NOTAUTH"}

FlowKey = tuple[int, tuple[bytes, int], tuple[bytes, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One packet of a capture."""

    time_us: int
    """Microseconds since 1970."""
    wire_length: int
    """Bytes the packet had on the wire; at least `len(data)`."""
    data: bytes
    """What was captured of it, link layer included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """What the tally needs to know of a decoded IP packet."""

    key: FlowKey
    source: tuple[bytes, int]
    destination: tuple[bytes, int]
    is_fragment: bool
    transport: object
    """dpkt's TCP, UDP or ICMP object, or bytes for a later fragment."""


@dataclass(slots=True, kw_only=True)
class Flow:
    """One connection: everything that shares a 5-tuple, either way round."""

    originator: tuple[bytes, int]
    responder: tuple[bytes, int]
    proto: int
    packets: int = 0
    syn: bool = False
    syn_ack: bool = False
    fins: set[tuple[bytes, int]] = field(default_factory=set)
    resets: set[tuple[bytes, int]] = field(default_factory=set)
    answered: bool = False

    @property
    def service(self) -> str:
        """The service's name, taken from the responder's port."""
        if self.proto in (dpkt.ip.IP_PROTO_ICMP, dpkt.ip.IP_PROTO_ICMP6):
            return "icmp"
        return SERVICES.get(self.responder[1], "other")

    @property
    def ending(self) -> str:
        """How a TCP connection ended, in plain words."""
        match self.syn, self.syn_ack, bool(self.resets), len(self.fins):
            case False, False, _, _:
                return "begun before the capture"
            case True, False, True, _:
                return "refused"
            case True, False, False, _:
                return "unanswered"
            case _, _, True, _:
                return "reset by client" if self.originator in self.resets else "reset by server"
            case _, _, _, 2:
                return "closed by both"
            case _, _, _, 1:
                return "closed by one side"
            case _:
                return "open at the end"


@dataclass(slots=True, kw_only=True)
class Tally:
    """What a capture holds, counted."""

    packets: int = 0
    wire_bytes: int = 0
    seconds: float = 0.0
    not_ip: int = 0
    ipv6_packets: int = 0
    fragments: int = 0
    cut_packets: int = 0
    flows: dict[FlowKey, Flow] = field(default_factory=dict)
    rcodes: Counter[str] = field(default_factory=Counter)
    truncated_answers: int = 0

    def by_service(self) -> Counter[str]:
        """Connections by transport and service."""
        names = {6: "tcp", 17: "udp", 1: "ipv4", 58: "ipv6"}
        return Counter(f"{names.get(f.proto, f.proto)}/{f.service}" for f in self.flows.values())

    def by_ending(self) -> Counter[str]:
        """TCP connections by how they ended."""
        return Counter(f.ending for f in self.flows.values() if f.proto == dpkt.ip.IP_PROTO_TCP)

    def unanswered_udp(self) -> int:
        """UDP flows in which the responder never spoke."""
        return sum(f.proto == dpkt.ip.IP_PROTO_UDP and not f.answered for f in self.flows.values())


def read_pcap(path: Path) -> list[Record]:
    """All records of a little-endian microsecond pcap; of a file cut in the middle, those before the cut."""
    raw = path.read_bytes()
    if len(raw) < 24 or struct.unpack_from("<I", raw)[0] != MAGIC_MICROSECONDS:
        raise ValueError(f"{path}: not a little-endian microsecond pcap file")
    return list(_records(raw))


def _records(raw: bytes) -> Iterator[Record]:
    at = 24
    while at + 16 <= len(raw):
        seconds, micros, captured, wire = struct.unpack_from("<IIII", raw, at)
        data = raw[at + 16 : at + 16 + captured]
        if len(data) < captured:
            return
        yield Record(time_us=seconds * 1_000_000 + micros, wire_length=wire, data=data)
        at += 16 + captured


def write_pcap(path: Path, records: Iterable[Record], *, linktype: int = LINKTYPE_ETHERNET) -> None:
    """Writes a little-endian microsecond pcap."""
    parts = [struct.pack("<IHHiIII", MAGIC_MICROSECONDS, 2, 4, 0, 0, 65535, linktype)]
    for record in records:
        seconds, micros = divmod(record.time_us, 1_000_000)
        parts.append(struct.pack("<IIII", seconds, micros, len(record.data), record.wire_length))
        parts.append(record.data)
    path.write_bytes(b"".join(parts))


def decode(data: bytes) -> Packet | None:
    """Decodes an Ethernet frame; None if it holds no IP. ICMP gets ports 0, fragments after the first too."""
    ip = dpkt.ethernet.Ethernet(data).data
    if isinstance(ip, dpkt.ip.IP):
        is_fragment = bool(ip.offset or ip.mf)
    elif isinstance(ip, dpkt.ip6.IP6):
        is_fragment = dpkt.ip.IP_PROTO_FRAGMENT in ip.extension_hdrs
    else:
        return None
    inner = ip.data
    ports = (inner.sport, inner.dport) if isinstance(inner, (dpkt.tcp.TCP, dpkt.udp.UDP)) else (0, 0)
    source, destination = (ip.src, ports[0]), (ip.dst, ports[1])
    low, high = sorted((source, destination))
    return Packet(
        key=(ip.p, low, high),
        source=source,
        destination=destination,
        is_fragment=is_fragment,
        transport=inner,
    )


def trim(records: Iterable[Record]) -> Iterator[Record]:
    """Cuts what is neither UDP nor DNS to `SNAP_LENGTH`, as a smaller snap length would have."""
    for record in records:
        packet = decode(record.data)
        whole = packet is not None and (
            packet.key[0] == dpkt.ip.IP_PROTO_UDP or 53 in (packet.source[1], packet.destination[1])
        )
        data = record.data if whole else record.data[:SNAP_LENGTH]
        yield Record(time_us=record.time_us, wire_length=record.wire_length, data=data)


def tally(records: Iterable[Record]) -> Tally:
    """Counts packets, connections, endings and DNS answers."""
    counts = Tally()
    times: list[int] = []
    for record in records:
        times.append(record.time_us)
        counts.packets += 1
        counts.wire_bytes += record.wire_length
        counts.cut_packets += len(record.data) < record.wire_length
        packet = decode(record.data)
        if packet is None:
            counts.not_ip += 1
        else:
            _count_packet(counts, packet)
    counts.seconds = (max(times) - min(times)) / 1e6 if times else 0.0
    return counts


def _count_packet(counts: Tally, packet: Packet) -> None:
    counts.ipv6_packets += len(packet.source[0]) == 16
    counts.fragments += packet.is_fragment
    if packet.is_fragment and isinstance(packet.transport, bytes):
        return  # a later fragment has no ports, so it names no connection
    flow = counts.flows.get(packet.key)
    if flow is None:
        flow = Flow(originator=packet.source, responder=packet.destination, proto=packet.key[0])
        counts.flows[packet.key] = flow
    flow.packets += 1
    flow.answered |= packet.source == flow.responder
    match packet.transport:
        case dpkt.tcp.TCP() as segment:
            _count_segment(flow, packet, segment.flags)
        case dpkt.udp.UDP() as datagram if packet.source[1] == 53 and len(datagram.data) >= 12:
            counts.rcodes[RCODES.get(datagram.data[3] & 0xF, "other")] += 1
            counts.truncated_answers += bool(datagram.data[2] & 0x02)


def _count_segment(flow: Flow, packet: Packet, flags: int) -> None:
    if flags & dpkt.tcp.TH_SYN:
        if flags & dpkt.tcp.TH_ACK:
            flow.syn_ack = True
        else:
            flow.syn = True
    if flags & dpkt.tcp.TH_FIN:
        flow.fins.add(packet.source)
    if flags & dpkt.tcp.TH_RST:
        flow.resets.add(packet.source)


def whole_flows(records: list[Record], count: int, wanted: Callable[[Packet], bool]) -> list[Record]:
    """All packets of the first `count` connections that have a `wanted` packet, in capture order."""
    keys: dict[FlowKey, None] = {}
    decoded = [(record, decode(record.data)) for record in records]
    for _, packet in decoded:
        if packet is not None and len(keys) < count and wanted(packet):
            keys[packet.key] = None
    return [record for record, packet in decoded if packet is not None and packet.key in keys]


def strip_ethernet(record: Record) -> Record:
    """The same packet as a capture of link type 101 (raw IP) holds it."""
    return Record(
        time_us=record.time_us,
        wire_length=record.wire_length - ETHERNET_HEADER,
        data=record.data[ETHERNET_HEADER:],
    )


def add_vlan(record: Record, *tags: tuple[int, int]) -> Record:
    """The same frame with VLAN tags, outermost first, each (ethertype, tag control information)."""
    inserted = b"".join(struct.pack("!HH", *tag) for tag in tags)
    return Record(
        time_us=record.time_us,
        wire_length=record.wire_length + len(inserted),
        data=record.data[:12] + inserted + record.data[12:],
    )


def fragments_only(records: list[Record]) -> list[Record]:
    """Every fragment of the capture."""
    decoded = ((record, decode(record.data)) for record in records)
    return [record for record, packet in decoded if packet is not None and packet.is_fragment]


def facts(path: Path) -> str:
    """The facts of a capture, as the Markdown lines its README carries."""
    raw = path.read_bytes()
    counts = tally(read_pcap(path))
    lines = [
        f"- sha256: `{hashlib.sha256(raw).hexdigest()}`",
        f"- file: {len(raw):,} bytes, {counts.packets:,} packets ({counts.cut_packets:,} cut to {SNAP_LENGTH} bytes)",
        f"- on the wire: {counts.wire_bytes:,} bytes in {counts.seconds:.1f} s",
        f"- connections (distinct 5-tuples): {len(counts.flows)}",
        f"- by protocol and port: {_listed(counts.by_service())}",
        f"- TCP endings: {_listed(counts.by_ending())}",
        f"- UDP without an answer: {counts.unanswered_udp()}",
        f"- DNS answers over UDP: {_listed(counts.rcodes)}; with TC {counts.truncated_answers}",
        f"- packets of IPv6 {counts.ipv6_packets}, fragments {counts.fragments}, not IP (ARP) {counts.not_ip}",
    ]
    return "\n".join(lines)


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counts.most_common())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tools.capture_files FILE.pcap    (prints what an Ethernet pcap holds)")
    try:
        print(facts(Path(sys.argv[1])))
    except (OSError, ValueError) as error:
        sys.exit(f"capture_files: {error}")
