"""Hand-made traffic for the sensor's tests: packets by dpkt, conversations written as one line of letters.

    Talk("S h A D100 a d2000 A F f A").frames

Capital letters travel from the client, small ones from the server, in Zeek's letters: S a SYN, H a SYN-ACK, A an
acknowledgement, D100 data, F a FIN, R a RST, T the last data again, W an acknowledgement with a closed window, L100
data that the capture missed. A repeated S or H has the number of the first. +6 lets six seconds pass. Sequence and
acknowledgement numbers follow by themselves.
"""

from __future__ import annotations

import io
import ipaddress
import struct
from collections.abc import Iterable
from pathlib import Path

import dpkt

from rapini.apps.schema import Connection, DnsExchange
from rapini.apps.sensor import Analyzer, AnalyzerConfig
from rapini.apps.sensor.capture import Packet, open_capture
from rapini.data import demo_capture

CAPTURES = Path(__file__).parents[3] / "data" / "captures"
ETHERNET = 1
START = 1_700_000_000.0
CLIENT, SERVER = "10.1.0.1", "93.184.216.34"
CLIENT6, SERVER6 = "fd00::1", "2606:2800::34"
FLAGS = {"S": 2, "H": 18, "A": 16, "D": 24, "F": 17, "R": 20, "T": 24, "W": 16, "L": 0}


def packed(host: str) -> bytes:
    return ipaddress.ip_address(host).packed


def ip_packet(source: str, target: str, protocol: int, payload: object) -> bytes:
    """An IPv4 or IPv6 packet, lengths and checksums filled in by dpkt."""
    if ":" in source:
        size = len(bytes(payload))  # type: ignore[call-overload]
        six = dpkt.ip6.IP6(src=packed(source), dst=packed(target), nxt=protocol, hlim=64, plen=size)
        six.data = payload
        return bytes(six)
    four = dpkt.ip.IP(src=packed(source), dst=packed(target), p=protocol, data=payload)
    four.len = len(four)
    return bytes(four)


def ethernet(packet: bytes, tags: Iterable[int] = ()) -> bytes:
    kind = b"\x86\xdd" if packet[0] >> 4 == 6 else b"\x08\x00"
    tagged = b"".join(struct.pack("!HH", 0x8100, tag) for tag in tags)
    return bytes(range(12)) + tagged + kind + packet


def udp(source: str, sport: int, target: str, dport: int, payload: bytes) -> bytes:
    """An Ethernet frame with a UDP datagram."""
    datagram = dpkt.udp.UDP(sport=sport, dport=dport, data=payload)
    datagram.ulen = len(datagram)
    return ethernet(ip_packet(source, target, 17, datagram))


def icmp(source: str, target: str, kind: int, code: int = 0, payload: bytes = b"") -> bytes:
    """An Ethernet frame with an ICMP or ICMPv6 message of 4 bytes of rest of header, then `payload`."""
    message = struct.pack("!BBHI", kind, code, 0, 0) + payload
    return ethernet(ip_packet(source, target, 58 if ":" in source else 1, message))


class Talk:
    """A TCP conversation; see the module's docstring for the script."""

    def __init__(
        self,
        script: str,
        *,
        client: str = CLIENT,
        server: str = SERVER,
        ports: tuple[int, int] = (40000, 9999),
        start: float = START,
        first_seqs: tuple[int, int] = (1000, 5000),
        payloads: tuple[bytes, bytes] = (b"", b""),
    ) -> None:
        self.frames: list[tuple[float, bytes]] = []
        self._hosts = client, server
        self._ports = ports
        self._first = first_seqs
        self._seqs = list(first_seqs)
        self._last: list[tuple[int, bytes]] = [(0, b""), (0, b"")]
        self._payloads = list(payloads)
        self._now = start
        for word in script.split():
            self._step(word)

    def _step(self, word: str) -> None:
        if word[0] == "+":
            self._now += float(word[1:])
            return
        letter, count, side = word[0].upper(), int(word[1:] or 0), int(word[0].islower())
        seq = self._seqs[side]
        data = (self._payloads[side] + bytes(count))[:count]
        self._payloads[side] = self._payloads[side][count:]
        if letter == "T":
            seq, data = self._last[side]
        elif letter in "SH":
            seq = self._first[side]
            self._seqs[side] = max(self._seqs[side], seq + 1)
        else:
            self._seqs[side] += len(data) + (letter == "F")
        if letter in "DL":
            self._last[side] = seq, data
        if letter != "L":
            ack = self._first[1 - side] + 1 if letter == "H" else self._seqs[1 - side]
            self._send(side, FLAGS[letter], seq, ack, data, 0 if letter == "W" else 500)
        self._now += 0.01

    def _send(self, side: int, flags: int, seq: int, ack: int, data: bytes, window: int) -> None:
        segment = dpkt.tcp.TCP(
            sport=self._ports[side],
            dport=self._ports[1 - side],
            seq=seq & 0xFFFFFFFF,
            ack=ack & 0xFFFFFFFF if flags & 16 else 0,
            flags=flags,
            win=window,
            data=data,
        )
        packet = ip_packet(self._hosts[side], self._hosts[1 - side], 6, segment)
        self.frames.append((self._now, ethernet(packet)))


def analyzer(**options: object) -> Analyzer:
    return Analyzer(AnalyzerConfig(uid_seed=b"test", **options))  # type: ignore[arg-type]


def analyze(
    frames: Iterable[tuple[float, bytes]], link_type: int = ETHERNET, **options: object
) -> tuple[list[Connection], list[DnsExchange]]:
    """All events of these frames, by type."""
    subject = analyzer(**options)
    for ts, frame in frames:
        subject.packet(ts, link_type, frame, len(frame))
    subject.finish()
    events = subject.drain()
    connections = [event for event in events if isinstance(event, Connection)]
    return connections, [event for event in events if isinstance(event, DnsExchange)]


def only(script: str, **options: object) -> Connection:
    """The one connection that a script makes."""
    connections, _ = analyze(Talk(script, **options).frames)  # type: ignore[arg-type]
    assert len(connections) == 1, connections
    return connections[0]


def demo_packets() -> list[Packet]:
    with demo_capture() as path, open_capture(path) as capture:
        return list(capture)


def pcap_bytes(frames: Iterable[tuple[float, bytes]], *, link_type: int = ETHERNET, nano: bool = False) -> bytes:
    """A pcap file as dpkt writes it."""
    stream = io.BytesIO()
    writer = dpkt.pcap.Writer(stream, linktype=link_type, nano=nano)
    for ts, frame in frames:
        writer.writepkt(frame, ts=ts)
    return stream.getvalue()
