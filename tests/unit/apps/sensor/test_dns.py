"""Properties of DNS analysis: Zeek's spelling of messages, queries paired with answers, over UDP and TCP."""

from __future__ import annotations

import socket
import struct
from typing import Any

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapini.apps.sensor.decode import Segment, decode
from rapini.apps.sensor.dns_message import parse_untrusted
from rapini.apps.sensor.dns_names import netbios_name, opcode_name, qclass_name, qtype_name, rcode_name
from tests.unit.apps.sensor.packets import CLIENT, SERVER, START, Talk, analyze, demo_packets, udp

POINTER = b"\xc0\x0c"


def name(text: str) -> bytes:
    return b"".join(bytes([len(label)]) + label for label in text.encode().split(b".") if label) + b"\0"


def question(text: str, qtype: int = 1, qclass: int = 1) -> bytes:
    return name(text) + struct.pack("!HH", qtype, qclass)


def record(rtype: int, data: bytes, *, owner: bytes = POINTER, ttl: int = 300) -> bytes:
    return owner + struct.pack("!HHIH", rtype, 1, ttl, len(data)) + data


def message(
    flags: int, *records: bytes, trans_id: int = 7, asked: bytes | None = None, more: tuple[int, int] = (0, 0)
) -> bytes:
    asked = question("www.Example.com") if asked is None else asked
    head = struct.pack("!6H", trans_id, flags, bool(asked), len(records), *more)
    return head + asked + b"".join(records)


QUERY, REPLY = 0x0100, 0x8580
A = record(1, socket.inet_aton("192.0.2.7"))


def exchange(*payloads: tuple[int, bytes], port: int = 53, server: str = SERVER) -> list[Any]:
    """The exchanges of datagrams given as (0 from the client, 1 from the server)."""
    frames = []
    for index, (side, payload) in enumerate(payloads):
        ends = [(CLIENT, 4000), (server, port)][:: -1 if side else 1]
        frames.append((START + index / 1000, udp(*ends[0], *ends[1], payload)))
    return analyze(frames)[1]


def test_a_query_and_its_answer_become_one_exchange() -> None:
    cname = record(5, b"\x03web" + b"\xc0\x10")
    (event,) = exchange((0, message(QUERY | 0x10)), (1, message(REPLY, cname, A)))
    assert (event.query, event.qtype_name, event.qclass_name) == ("www.example.com", "A", "C_INTERNET")
    assert (event.answers, event.TTLs) == (["web.example.com", "192.0.2.7"], [300.0, 300.0])
    assert (event.rcode, event.rcode_name, event.trans_id, event.proto) == (0, "NOERROR", 7, "udp")
    assert (event.AA, event.TC, event.RD, event.RA, event.Z) == (True, False, True, True, 1)
    assert (event.opcode, event.opcode_name, event.rejected) == (0, "query", False)
    assert event.rtt == pytest.approx(0.001, abs=1e-6)
    assert (event.ts, event.orig_p, event.resp_p) == (START, 4000, 53)


@pytest.mark.parametrize(
    ("rtype", "data", "shown"),
    [
        (1, bytes([1, 2, 3, 4]), "1.2.3.4"),
        (28, socket.inet_pton(socket.AF_INET6, "2001:db8::1"), "2001:db8::1"),
        (2, name("ns.Test"), "ns.test"),
        (6, name("ns.test") + name("root.test") + bytes(20), "ns.test"),
        (12, name("host.test"), "host.test"),
        (15, b"\x00\x0a" + name("mx.test"), "mx.test"),
        (33, bytes(6) + name("srv.test"), "srv.test"),
        (16, b"\x05hello", "TXT 5 hello"),
        (16, b"\x03one\x00\x02tw", "TXT 3 one TXT 0  TXT 2 tw"),
        (16, b"\x02\xff\xc3", "TXT 2 \\xff\\xc3"),
        (16, "\u00e4".encode().join([b"\x02", b""]), "TXT 2 \u00e4"),
        (99, b"\x01x", "SPF 1 x"),
        (43, bytes([0, 1, 8, 2]) + bytes(32), "DS 8 2"),
        (44, bytes([1, 2]) + b"\xab\xcd", "SSHFP: abcd"),
        (46, struct.pack("!HBBIIIH", 5, 8, 2, 0, 0, 0, 9) + name("") + b"sig", "RRSIG 5 <Root>"),
        (47, name("next.test"), "NSEC www.example.com next.test"),
        (48, b"\x01\x00\x03\x0dkey", "DNSKEY 13"),
        (50, b"anything", "NSEC3"),
        (51, b"anything", "NSEC3PARAM"),
        (4711, b"anything", "<unknown type=4711>"),
    ],
)
def test_a_record_is_shown_as_zeek_shows_it(rtype: int, data: bytes, shown: str) -> None:
    (event,) = exchange((0, message(QUERY)), (1, message(REPLY, record(rtype, data))))
    assert event.answers == [shown]
    assert shown.isprintable()


def test_the_txt_answer_of_a_recorded_zeek_log() -> None:
    """Two aliases, then a text of two strings: `answers` of ../shared/vectors, log_dns_txt.json."""
    texts = b"\x7f" + b"k" * 127 + b"\x62" + b"H" * 98
    aliases = (
        record(5, name("fa14._domainkey.flickr.com"), ttl=900),
        record(5, name("fa14._domainkey.yahoo.com"), ttl=900),
    )
    (event,) = exchange((0, message(QUERY)), (1, message(REPLY, *aliases, record(16, texts, ttl=7200))))
    shown = f"TXT 127 {'k' * 127} TXT 98 {'H' * 98}"
    assert event.answers == ["fa14._domainkey.flickr.com", "fa14._domainkey.yahoo.com", shown]
    assert event.TTLs == [900.0, 900.0, 7200.0]


def test_a_caa_answer_leaves_no_trace_as_in_a_recorded_zeek_log() -> None:
    (event,) = exchange((0, message(QUERY, asked=question("google.com", 257))), (1, message(REPLY, record(257, b"x"))))
    assert (event.qtype, event.qtype_name, event.answers, event.TTLs, event.rtt) == (257, "CAA", None, None, None)
    assert (event.rcode_name, event.AA, event.RA) == ("NOERROR", False, False)


def test_an_answer_without_records_has_no_round_trip_time_and_may_be_a_rejection() -> None:
    (event,) = exchange((0, message(QUERY)), (1, message(REPLY | 3, more=(1, 0))))
    assert (event.rcode_name, event.rtt, event.rejected, event.answers) == ("NXDOMAIN", None, False, None)
    (event,) = exchange((0, message(QUERY)), (1, message(REPLY | 5)))
    assert (event.rcode_name, event.rejected) == ("REFUSED", True)


def test_several_queries_on_one_flow_are_matched_by_id_in_order() -> None:
    one, two = (message(QUERY, trans_id=7, asked=question(host)) for host in ("one", "two"))
    other = message(QUERY, trans_id=8, asked=question("other"))
    replies = [message(REPLY, A, trans_id=trans_id, asked=b"") for trans_id in (8, 7, 7)]
    events = exchange(*[(0, query) for query in (one, other, two)], *[(1, reply) for reply in replies])
    assert [event.query for event in events] == ["other", "one", "two"]


def test_what_has_no_partner_is_reported_when_the_flow_ends() -> None:
    (event,) = exchange((0, message(QUERY)))
    assert (event.query, event.rcode, event.answers, event.rtt) == ("www.example.com", None, None, None)
    (event,) = exchange((1, message(REPLY, A)))
    assert (event.qtype, event.answers, str(event.orig_h), event.resp_p) == (None, ["192.0.2.7"], CLIENT, 53)


def test_pending_queries_are_bounded() -> None:
    queries = [(0, message(QUERY, trans_id=number)) for number in range(500)]
    events = exchange(*queries)
    assert [event.trans_id for event in events] == list(range(500))


def test_an_mdns_announcement_is_not_turned_round() -> None:
    announcement = message(0x8400, record(33, bytes(6) + name("gemini.local"), owner=name("_sftp.local")), asked=b"")
    frame = udp("10.0.0.9", 5353, "224.0.0.251", 5353, announcement)
    (connection,), (event,) = analyze([(START, frame)])
    assert (connection.history, connection.service, connection.conn_state) == ("D", "dns", "S0")
    assert (connection.local_orig, connection.local_resp) == (True, True)
    assert (event.query, event.answers, event.qtype, event.AA) == ("_sftp.local", ["gemini.local"], None, True)


def test_a_netbios_query_is_decoded_as_in_a_recorded_zeek_log() -> None:
    encoded = "".join(chr(0x41 + (byte >> 4)) + chr(0x41 + (byte & 15)) for byte in b"BRWC0CB383D1F42\x00")
    (event,) = exchange((0, message(0x0110, asked=question(encoded, 32))), port=137)
    assert (event.query, event.qtype_name, event.opcode_name, event.Z) == (
        "BRWC0CB383D1F42",
        "NIMLOC",
        "netbios-query",
        1,
    )
    assert netbios_name("not encoded") == "not encoded"


def test_numbers_have_zeeks_names() -> None:
    assert [qtype_name(n) for n in (1, 28, 53, 55, 65, 99, 109, 255, 257, 65521, 54, 999)] == (
        ["A", "AAAA", "SMIMEA", "HIP", "HTTPS", "SPF", "EUI64", "*", "CAA", "INTEGRITY", "query-54", "query-999"]
    )
    assert qtype_name(33, netbios=True) == "NBSTAT"
    assert [qclass_name(n) for n in (1, 3, 255, 32769)] == ["C_INTERNET", "C_CHAOS", "C_ANY", "qclass-32769"]
    assert [rcode_name(n) for n in (0, 3, 8, 15)] == ["NOERROR", "NXDOMAIN", "NXRRSet", "unassigned-15"]
    assert [opcode_name(n) for n in (0, 4, 3)] == ["query", "notify", "opcode-3"]
    assert [opcode_name(n, netbios=True) for n in (5, 9)] == ["netbios-registration", "netbios-opcode-9"]


# --- Over TCP ---------------------------------------------------------------------------------------------------


def framed(*messages: bytes) -> bytes:
    return b"".join(struct.pack("!H", len(item)) + item for item in messages)


@given(cuts=st.lists(st.integers(1, 60), max_size=6))
def test_over_tcp_exchanges_do_not_depend_on_how_segments_are_cut(cuts: list[int]) -> None:
    asked = framed(message(QUERY, trans_id=1), message(QUERY, trans_id=2))
    answered = framed(message(REPLY, A, trans_id=1), message(REPLY, A, A, trans_id=2))
    parts, rest = [], len(answered)
    for cut in cuts:
        size = min(cut, rest)
        rest -= size
        parts += [f"d{size}"] if size else []
    script = f"S h A D{len(asked)} a {' '.join(parts)} {f'd{rest}' if rest else ''} A F f A"
    talk = Talk(script, ports=(4000, 53), payloads=(asked, answered))
    (connection,), events = analyze(talk.frames)
    assert [len(event.answers or ()) for event in events] == [1, 2]
    assert {event.proto for event in events} == {"tcp"}
    assert (connection.service, connection.uid) == ("dns", events[0].uid)


def test_over_tcp_nothing_is_made_up_after_a_hole() -> None:
    asked, answered = framed(message(QUERY)), framed(message(REPLY, A))
    talk = Talk(f"S h A D{len(asked)} a l9 d{len(answered) - 9} A F f", ports=(4000, 53), payloads=(asked, answered))
    (connection,), (event,) = analyze(talk.frames)
    assert (event.answers, event.rcode) == (None, None)
    assert connection.missed_bytes == 9


# --- Hostile and independent ------------------------------------------------------------------------------------


@given(data=st.binary(max_size=100))
def test_any_bytes_can_be_parsed(data: bytes) -> None:
    for start in (b"", message(REPLY, A)[:12], message(REPLY, A)[:30]):
        parse_untrusted(start + data)


@given(changes=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=5), cut=st.integers(0, 300))
def test_a_mutated_answer_can_be_parsed_and_shown(changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(message(REPLY, A, record(5, b"\x01x" + POINTER), record(16, b"\x03abc"), record(15, bytes(9))))
    for at, value in changes:
        if at < len(data):
            data[at] = value
    exchange((0, message(QUERY)), (1, bytes(data[:cut])))


def test_pointers_that_go_round_in_circles_end() -> None:
    looped = struct.pack("!6H", 7, QUERY, 1, 0, 0, 0) + b"\x01a\xc0\x0c" + bytes(4)
    parsed = parse_untrusted(looped)
    assert parsed is not None
    assert not parsed.is_whole


def test_a_message_of_a_thousand_questions_is_no_dns() -> None:
    assert parse_untrusted(struct.pack("!6H", 7, QUERY, 1000, 0, 0, 0) + bytes(9000)) is None
    assert parse_untrusted(b"short") is None


def test_dpkt_agrees_about_every_dns_message_of_the_shipped_capture() -> None:
    seen = refused = 0
    for _, link_type, frame, wire_bytes in demo_packets():
        segment = decode(link_type, frame, wire_bytes)
        if not isinstance(segment, Segment) or segment.protocol != 17 or segment.is_fragment:
            continue
        payload = frame[segment.start + 8 : segment.start + segment.length]
        if 53 not in struct.unpack_from("!HH", frame, segment.start):
            continue
        ours = parse_untrusted(payload)
        assert ours is not None
        assert ours.is_whole
        try:
            theirs = dpkt.dns.DNS(payload)
        except (
            dpkt.UnpackError
        ):  # one record of a type unknown to it, and dpkt refuses the message: why we have our own
            assert ours.qtype in (46, 48, 65, 255, 257)
            refused += 1
            continue
        assert (ours.trans_id, ours.is_reply, ours.rcode) == (theirs.id, bool(theirs.qr), theirs.rcode)
        assert (ours.query, ours.qtype) == (theirs.qd[0].name.lower(), theirs.qd[0].type)
        addresses = [socket.inet_ntop(socket.AF_INET, answer.ip) for answer in theirs.an if answer.type == 1]
        assert [answer for answer in ours.answers if answer in addresses] == addresses
        assert len(ours.answers) == sum(answer.type not in (13, 35, 41, 64, 65, 257) for answer in theirs.an)
        seen += 1
    assert seen > 400
    assert refused < seen / 20
