"""The sensor's totals on the shipped capture against an independent tally with dpkt."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from typing import Any

import dpkt
import pytest

from rapini.apps.schema import Connection, DnsExchange
from rapini.data import demo_capture
from tests.unit.apps.sensor.packets import analyzer, demo_packets

FiveTuple = tuple[object, ...]


@pytest.fixture(scope="module")
def events() -> list[Connection | DnsExchange]:
    subject = analyzer()
    subject.feed(demo_packets())
    subject.finish()
    return subject.drain()


def decoded() -> Iterator[tuple[FiveTuple, Any]]:
    """(five-tuple without direction, source, IP packet) of every unfragmented TCP and UDP packet, by dpkt alone."""
    with demo_capture() as path:
        content = path.read_bytes()
    for _, frame in dpkt.pcap.Reader(io.BytesIO(content)):
        packet = dpkt.ethernet.Ethernet(frame).data
        if isinstance(packet, (dpkt.ip.IP, dpkt.ip6.IP6)) and isinstance(packet.data, (dpkt.tcp.TCP, dpkt.udp.UDP)):
            ends = (packet.src, packet.data.sport), (packet.dst, packet.data.dport)
            yield (packet.p, *sorted(ends)), packet


def key_of(event: Connection) -> FiveTuple:
    ends = (event.orig_h.packed, event.orig_p), (event.resp_h.packed, event.resp_p)
    return event.ip_proto, *sorted(ends)


def test_flows_are_the_distinct_five_tuples(events: list[Connection | DnsExchange]) -> None:
    ours = {key_of(event) for event in events if isinstance(event, Connection) and event.proto in ("tcp", "udp")}
    theirs = {key for key, _ in decoded()}
    assert ours == theirs
    assert len(ours) > 400


def test_every_packet_and_ip_byte_is_in_exactly_one_connection(events: list[Connection | DnsExchange]) -> None:
    packets: Counter[FiveTuple] = Counter()
    sizes: Counter[FiveTuple] = Counter()
    for key, packet in decoded():
        packets[key] += 1
        sizes[key] += packet.len if packet.v == 4 else packet.plen + 40
    for event in events:
        if isinstance(event, Connection) and event.proto in ("tcp", "udp"):
            packets[key_of(event)] -= event.orig_pkts + event.resp_pkts
            sizes[key_of(event)] -= event.orig_ip_bytes + event.resp_ip_bytes
    assert not +packets
    assert not -packets
    assert not +sizes
    assert not -sizes


def test_tcp_endings_agree_with_the_flags_alone(events: list[Connection | DnsExchange]) -> None:
    fins: dict[FiveTuple, set[bytes]] = {}
    resets: dict[FiveTuple, bool] = {}
    for key, packet in decoded():
        if packet.p == 6:
            seen = fins.setdefault(key, set())
            if packet.data.flags & 1:
                seen.add(packet.src)
            resets[key] = resets.get(key, False) or bool(packet.data.flags & 4)
    for event in events:
        if isinstance(event, Connection) and event.proto == "tcp":
            key = key_of(event)
            assert (event.conn_state in {"REJ", "RSTO", "RSTR", "RSTOS0", "RSTRH"}) == resets[key], event
            if not resets[key]:
                assert (event.conn_state == "SF") == (len(fins[key]) == 2), event


def test_dns_queries_and_answers_over_udp_are_all_there(events: list[Connection | DnsExchange]) -> None:
    queries: Counter[tuple[str, int]] = Counter()
    replies: Counter[int] = Counter()
    for _, packet in decoded():
        if packet.p == 17 and 53 in (packet.data.sport, packet.data.dport):
            message = packet.data.data  # not dpkt.dns.DNS: it refuses messages with a CAA record
            if message[2] & 0x80:
                replies[message[3] & 15] += 1
            else:
                name, at = dpkt.dns.unpack_name(message, 12)
                queries[name.lower(), int.from_bytes(message[at : at + 2], "big")] += 1
    exchanges = [event for event in events if isinstance(event, DnsExchange) and event.proto == "udp"]
    assert Counter((event.query, event.qtype) for event in exchanges if event.qtype is not None) == queries
    assert Counter(event.rcode for event in exchanges if event.rcode is not None) == replies
    assert sum(queries.values()) > 200


def test_ids_tie_dns_exchanges_to_their_connections(events: list[Connection | DnsExchange]) -> None:
    connections = {event.uid: event for event in events if isinstance(event, Connection)}
    exchanges = [event for event in events if isinstance(event, DnsExchange)]
    assert len(connections) == sum(isinstance(event, Connection) for event in events)
    for event in exchanges:
        connection = connections[event.uid]
        assert (connection.service, connection.orig_h, connection.resp_p) == ("dns", event.orig_h, event.resp_p)


def test_services_are_recognised_although_payloads_are_cut(events: list[Connection | DnsExchange]) -> None:
    found = Counter(event.service for event in events if isinstance(event, Connection))
    assert set(found) == {None, "dns", "http", "ssl", "ssh", "ntp"}
    assert found["http"] > 100
    assert found["ssl"] == 22


def test_events_can_be_encoded_as_their_classes_declare(events: list[Connection | DnsExchange]) -> None:
    import msgspec

    for event in events:
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(event), type=type(event)) == event
