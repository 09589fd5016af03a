"""The flow table: which packet belongs to which conversation, and when a conversation is over.

Where it sits: `analyzer` brings every segment that its short way does not settle; finished flows leave as events.

Theory: time is the capture's. A flow ends by what it shows (both sides closed, a reset: kept five seconds for
stragglers), by silence (TCP 5 minutes; UDP and ICMP one; DNS over UDP 10 s; an unanswered SYN 5 s after it), by a new
connection on the same ports, by the end of the capture, or because the table is full. Deadlines are kept in one list
a second and looked at when that second has come: a flow that had traffic since is moved on, so a packet costs nothing.

Direction: the originator is who sent the first packet, unless it comes from a well-known server port or is a SYN-ACK
met by a SYN: then the question was missed, the flow is flipped, and its history begins with `^`.

Source: zeek/src/session/Manager.cc, zeek/src/packet_analysis/protocol/{tcp,udp,icmp}, init-bare.zeek (the timeouts).
"""

from __future__ import annotations

import heapq
import struct
from dataclasses import dataclass
from typing import Final

from rapini.apps.sensor import services, tcp
from rapini.apps.sensor.decode import ICMP, ICMPV6, TCP, UDP, Segment, Undecoded
from rapini.apps.sensor.dns import DnsDialogue, DnsStream
from rapini.apps.sensor.dns_message import parse_untrusted
from rapini.apps.sensor.flow import Flow, Half, SensorEvent, TcpHalf, TcpState
from rapini.apps.sensor.records import LocalNets, UidMaker, address, connection, proto_name
from rapini.events import Address

__all__ = ["FlowTable", "Timeouts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """After how many seconds of silence a flow is over. The defaults are Zeek's."""

    tcp_s: float = 300.0
    udp_s: float = 60.0
    icmp_s: float = 60.0
    dns_s: float = 10.0
    """DNS over UDP."""
    attempt_s: float = 5.0
    """From the SYN that nobody answered."""


_TCP_HEADER: Final = struct.Struct("!HHIIBBH")
_UDP_HEADER: Final = struct.Struct("!4H")

_ICMP4_PAIRS: Final = {8: 0, 0: 8, 13: 14, 14: 13, 15: 16, 16: 15, 10: 9, 9: 10, 17: 18, 18: 17}
_ICMP6_PAIRS: Final = {
    128: 129, 129: 128, 130: 131, 131: 130, 133: 134, 134: 133, 135: 136, 136: 135, 139: 140, 140: 139, 144: 145,
    145: 144,
}  # fmt: skip
"""Requests and answers: the counterpart stands for the other port. Other types go one way, with their code as port."""

_SHORT_WAY_FLAGS: Final = tcp.FIN | tcp.SYN | tcp.RST | tcp.ACK

_EVICTED_SHARE: Final = 16
"""A full table gives up a 16th of its flows at once: looking for the idlest costs a pass over all of them."""


class FlowTable:
    """All flows under way.

    Args:
        uids: Where ids come from.
        local: The networks that count as ours.
        timeouts: When silence ends a flow.
        max_flows: Flows held at most; beyond, the longest idle ones are ended and counted in `evicted`.

    Thread: one.
    """

    def __init__(self, uids: UidMaker, local: LocalNets, timeouts: Timeouts, max_flows: int) -> None:
        self.events: list[SensorEvent] = []
        """Finished flows and DNS exchanges; the owner empties it."""
        self._tcp: dict[bytes, TcpHalf] = {}
        self.flows = 0
        """Flows begun so far."""
        self.evicted = 0
        self._others: dict[bytes, Half] = {}
        self._uids = uids
        self._local = local
        self._timeouts = timeouts
        self._max_flows = max_flows
        self._active = 0
        self._seconds: dict[int, list[Flow]] = {}
        self._now = 0.0

    @property
    def active(self) -> int:
        """Flows under way."""
        return self._active

    def take(self, ts: float, frame: bytes, segment: Segment) -> Undecoded | None:
        """Add one packet to its flow; return why that was impossible, or `None`."""
        protocol = segment.protocol
        try:
            if protocol == TCP:
                return self._take_tcp(ts, frame, segment)
            if protocol == UDP:
                return self._take_udp(ts, frame, segment)
            if protocol in (ICMP, ICMPV6):
                return self._take_icmp(ts, frame, segment)
        except (struct.error, IndexError):
            return Undecoded.SHORT
        self._take_other(ts, segment)
        return None

    # --- TCP ----------------------------------------------------------------------------------------------------

    def _take_tcp(self, ts: float, frame: bytes, segment: Segment) -> Undecoded | None:
        _sport, _dport, seq, ack, offset, flags, window = _TCP_HEADER.unpack_from(frame, segment.start)
        header = (offset >> 4) * 4
        if header < 20 or header > segment.length:
            return Undecoded.BAD_TRANSPORT_HEADER
        key = segment.addresses + frame[segment.start : segment.start + 4]
        at = segment.start + header
        self.tcp_segment(ts, key, segment.ip_bytes, seq, ack, flags, window, frame, at, at + segment.length - header)
        return None

    def tcp_segment(
        self,
        ts: float,
        key: bytes,
        ip_bytes: int,
        seq: int,
        ack: int,
        flags: int,
        window: int,
        frame: bytes,
        start: int,
        end: int,
    ) -> None:
        """Add one TCP segment; its payload is ``frame[start:end]``, as far as it was captured.

        Data and acknowledgements in order in an established connection take the short way, which only moves
        counters; it may be left at any doubt, because the long way does the same and more.
        """
        half = self._tcp.get(key)
        size = end - start
        if (
            half is not None
            and flags & _SHORT_WAY_FLAGS == tcp.ACK
            and seq == half.next_seq
            and (flow := half.flow).is_plain
            and window
            and not (half.peer.next_seq - ack) & 0x80000000
            and (half.saw_data if size else half.saw_ack)
        ):
            half.packets += 1
            half.ip_bytes += ip_bytes
            flow.last_ts = ts
            if size:
                half.next_seq = (seq + size) & 0xFFFFFFFF
                half.top += size
                half.delivered += size
            return
        if half is None:
            half = self._new_tcp(ts, key, flags)
        elif flags & tcp.SYN and _is_reuse(half, seq, flags):
            self._end(half.flow)
            half = self._new_tcp(ts, key, flags)
        half.packets += 1
        half.ip_bytes += ip_bytes
        self._tcp_long_way(half, ts, seq, ack, flags, window, frame, start, size)

    def _tcp_long_way(
        self,
        half: TcpHalf,
        ts: float,
        seq: int,
        ack: int,
        flags: int,
        window: int,
        frame: bytes,
        start: int,
        size: int,
    ) -> None:
        flow = half.flow
        is_first = not half.saw_data
        position = tcp.segment(flow, half, ts, seq, ack, flags, window, size)
        if position:
            payload = frame[start : start + size]
            if is_first and position == 1 and not flow.service:
                flow.tokens |= services.token_of(payload, is_orig=half.is_orig)
                flow.service = services.service_of(flow.tokens)
            if half.stream is not None:
                self._feed_stream(flow, half.stream, ts, position, payload, size)
        if flow.remove_at and not flow.is_closing:
            flow.is_closing = True
            self._watch(flow, flow.remove_at)

    def _new_tcp(self, ts: float, key: bytes, flags: int) -> TcpHalf:
        first, second = TcpHalf(is_orig=True), TcpHalf(is_orig=False)
        flow, back = self._new_flow(ts, TCP, key)
        first.flow = second.flow = flow
        first.peer, second.peer = second, first
        flow.orig, flow.resp = first, second
        self._tcp[key] = first
        if back is not None:
            self._tcp[back] = second
        if flags & (tcp.SYN | tcp.ACK) != tcp.SYN and _came_from_server(flow.ports, flags):
            flow.flip()
        if flow.ports[1] == 53:
            first.stream, second.stream = DnsStream(), DnsStream()
        is_attempt = flags & tcp.SYN
        self._watch(flow, ts + (self._timeouts.attempt_s if is_attempt else self._timeouts.tcp_s))
        return first

    def _feed_stream(self, flow: Flow, stream: DnsStream, ts: float, position: int, payload: bytes, size: int) -> None:
        for message in stream.feed(position, payload, size):
            if flow.dns is None:
                flow.dns = self._dialogue(flow)
            if message.is_whole:
                flow.service = "dns"
            flow.dns.message(ts, message, self.events)

    # --- UDP, ICMP and the rest ---------------------------------------------------------------------------------

    def _take_udp(self, ts: float, frame: bytes, segment: Segment) -> Undecoded | None:
        start = segment.start
        _sport, _dport, length, _checksum = _UDP_HEADER.unpack_from(frame, start)
        if segment.length < 8:
            return Undecoded.BAD_TRANSPORT_HEADER
        # A length of 0 is what offloading leaves; one beyond the packet belongs to its other fragments.
        size = min(length or segment.length, segment.length) - 8
        if size < 0:
            return Undecoded.BAD_TRANSPORT_HEADER
        self.udp_datagram(ts, segment.addresses + frame[start : start + 4], segment.ip_bytes, frame, start + 8, size)
        return None

    def udp_datagram(self, ts: float, key: bytes, ip_bytes: int, frame: bytes, start: int, size: int) -> None:
        """Add one UDP datagram; its payload is ``frame[start:start + size]``, as far as it was captured."""
        half = self._others.get(key) or self._new_udp(ts, key)
        flow = half.flow
        half.packets += 1
        half.ip_bytes += ip_bytes
        half.payload_bytes += size
        flow.last_ts = ts
        code = "D" if half.is_orig else "d"
        if code not in flow.history:
            flow.history += code
        if flow.dns is not None:
            self._dns_datagram(flow, half, ts, frame[start : start + size])
        elif not flow.service:
            flow.service = services.datagram_service(flow.ports[1], frame[start : start + size])

    def _new_udp(self, ts: float, key: bytes) -> Half:
        flow, back = self._new_flow(ts, UDP, key)
        half = self._new_halves(flow, key, back)
        sport, dport = flow.ports
        if sport in services.LIKELY_SERVER_PORTS and dport not in services.LIKELY_SERVER_PORTS:
            flow.flip()
        is_dns = flow.ports[1] in services.DNS_PORTS
        if is_dns:
            flow.dns = self._dialogue(flow)
        self._watch(flow, ts + (self._timeouts.dns_s if is_dns else self._timeouts.udp_s))
        return half

    def _dns_datagram(self, flow: Flow, half: Half, ts: float, payload: bytes) -> None:
        dialogue = flow.dns
        message = parse_untrusted(payload)
        if message is None or dialogue is None:
            return
        if not dialogue.saw_message and message.is_reply and half.is_orig and not _is_multicast(flow.hosts[1]):
            flow.flip()  # an answer whose query was missed
            dialogue.endpoints = _endpoints(flow)
        if message.is_whole:
            flow.service = "dns"
        dialogue.message(ts, message, self.events)

    def _take_icmp(self, ts: float, frame: bytes, segment: Segment) -> Undecoded | None:
        kind, code = frame[segment.start], frame[segment.start + 1]
        if segment.length < 8:
            return Undecoded.BAD_TRANSPORT_HEADER
        pairs = _ICMP4_PAIRS if segment.protocol == ICMP else _ICMP6_PAIRS
        counterpart = pairs.get(kind)
        ports = bytes((0, kind, 0, code if counterpart is None else counterpart))
        key = segment.addresses + ports + b"i"
        half = self._others.get(key)
        if half is None:
            flow, back = self._new_flow(ts, segment.protocol, key)
            half = self._new_halves(flow, key, None if counterpart is None else back)
            self._watch(flow, ts + self._timeouts.icmp_s)
        self._count(half, ts, segment.ip_bytes, segment.length - 8)
        return None

    def _take_other(self, ts: float, segment: Segment) -> None:
        key = segment.addresses + bytes((0, 0, 0, 0, segment.protocol, 0))
        half = self._others.get(key)
        if half is None:
            flow, back = self._new_flow(ts, segment.protocol, key)
            half = self._new_halves(flow, key, back)
            self._watch(flow, ts + self._timeouts.udp_s)
        self._count(half, ts, segment.ip_bytes, segment.length)

    def _new_halves(self, flow: Flow, key: bytes, back: bytes | None) -> Half:
        first, second = Half(is_orig=True), Half(is_orig=False)
        first.flow = second.flow = flow
        first.peer, second.peer = second, first
        flow.orig, flow.resp = first, second
        flow.keys = key, back
        self._others[key] = first
        if back is not None:
            self._others[back] = second
        return first

    def _count(self, half: Half, ts: float, ip_bytes: int, size: int) -> None:
        half.packets += 1
        half.ip_bytes += ip_bytes
        half.payload_bytes += size
        half.flow.last_ts = ts

    # --- Beginning and end --------------------------------------------------------------------------------------

    def _new_flow(self, ts: float, protocol: int, key: bytes) -> tuple[Flow, bytes | None]:
        if self._active >= self._max_flows:
            self._evict()
        width = 4 if len(key) < 32 else 16
        source, target = key[:width], key[width : 2 * width]
        ports = key[2 * width : 2 * width + 4]
        back: bytes | None = target + source + ports[2:] + ports[:2] + key[2 * width + 4 :]
        if back == key:
            back = None  # from a port to itself: there is only one direction
        flow = Flow(
            self._uids.next(),
            protocol,
            ts,
            (key, back),
            (source, target),
            (ports[0] << 8 | ports[1], ports[2] << 8 | ports[3]),
        )
        self.flows += 1
        self._active += 1
        return flow, back

    def _dialogue(self, flow: Flow) -> DnsDialogue:
        return DnsDialogue(flow.uid, proto_name(flow.protocol), _endpoints(flow))

    def _end(self, flow: Flow) -> None:
        """Report a flow and forget it."""
        flow.is_done = True
        table: dict[bytes, TcpHalf] | dict[bytes, Half]
        table = self._tcp if flow.protocol == TCP else self._others
        for key in flow.keys:
            if key is not None:
                del table[key]
        self._active -= 1
        if flow.dns is not None:
            flow.dns.finish(self.events)
        self.events.append(connection(flow, self._local))
        # Halves and flow refer to each other: taken apart, they are freed at once and not by the collector.
        del flow.orig.peer, flow.resp.peer, flow.orig, flow.resp

    def _evict(self) -> None:
        count = max(1, self._max_flows // _EVICTED_SHARE)
        for flow in heapq.nsmallest(count, self._all(), key=lambda flow: flow.last_ts):
            self._end(flow)
            self.evicted += 1

    def _all(self) -> list[Flow]:
        flows = [half.flow for half in self._tcp.values() if half.flow.orig is half]
        flows += [half.flow for half in self._others.values() if half.flow.orig is half]
        return flows

    # --- Time ---------------------------------------------------------------------------------------------------

    def advance(self, now: float) -> float:
        """Capture time has reached `now`: end what is over. Returns when to call again."""
        self._now = now
        due = [second for second in self._seconds if second <= now]
        over: list[tuple[float, str, Flow]] = []
        for second in due:
            for flow in self._seconds.pop(second):
                if flow.is_done:
                    continue
                deadline = self._deadline(flow)
                if deadline <= now:
                    over.append((deadline, flow.uid, flow))
                    flow.is_done = True  # a flow may be watched twice
                else:
                    self._watch(flow, deadline)
        over.sort()
        for _, _, flow in over:
            self._end(flow)
        return float(int(now) + 1)

    def finish(self) -> None:
        """The capture is over: end every flow, in the order of their beginning."""
        for flow in sorted(self._all(), key=lambda flow: (flow.first_ts, flow.uid)):
            self._end(flow)
        self._seconds.clear()

    def _watch(self, flow: Flow, deadline: float) -> None:
        second = int(deadline) + 1
        watched = self._seconds.get(second)
        if watched is None:
            self._seconds[second] = [flow]
        else:
            watched.append(flow)

    def _deadline(self, flow: Flow) -> float:
        return flow.remove_at or self._deadline_of_silence(flow)

    def _deadline_of_silence(self, flow: Flow) -> float:
        orig, timeouts = flow.orig, self._timeouts
        if isinstance(orig, TcpHalf):
            attempting = orig.state in (TcpState.SYN_SENT, TcpState.SYN_ACK_SENT)
            if attempting and orig.peer.state is TcpState.INACTIVE:
                return flow.first_ts + timeouts.attempt_s
            return flow.last_ts + timeouts.tcp_s
        if flow.dns is not None:
            return flow.last_ts + timeouts.dns_s
        return flow.last_ts + (timeouts.icmp_s if flow.protocol in (ICMP, ICMPV6) else timeouts.udp_s)


def _endpoints(flow: Flow) -> tuple[Address, int, Address, int]:
    hosts, ports = flow.hosts, flow.ports
    return address(hosts[0]), ports[0], address(hosts[1]), ports[1]


def _is_multicast(packed: bytes) -> bool:
    return packed[0] == 0xFF if len(packed) == 16 else packed[0] >> 4 == 0xE


def _came_from_server(ports: tuple[int, int], flags: int) -> bool:
    """Whether the first packet of a TCP connection, not a SYN, is rather the server's."""
    sport, dport = ports
    if sport not in services.LIKELY_SERVER_PORTS:
        return False
    if dport in services.LIKELY_SERVER_PORTS:
        return not flags & tcp.SYN and sport < dport  # a SYN-ACK may be a stealth scan: left alone
    return True


def _is_reuse(half: TcpHalf, seq: int, flags: int) -> bool:
    """Whether a SYN begins a new connection on the ports of a known one."""
    orig, resp = half.flow.orig, half.flow.resp
    assert isinstance(orig, TcpHalf)
    assert isinstance(resp, TcpHalf)
    compared = orig
    if flags & tcp.ACK:
        if orig.state is not TcpState.INACTIVE:
            return False
        compared = resp
    if orig.did_close and resp.did_close:
        return True
    if seq == compared.start:
        return False
    is_reversal = orig.state is TcpState.SYN_ACK_SENT and resp.state is TcpState.INACTIVE and seq == resp.start
    return not (is_reversal and not flags & tcp.ACK)
