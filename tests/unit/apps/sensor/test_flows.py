"""Properties of the flow table: Zeek's states, histories and counts for every way a conversation can go."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapini.apps.schema import Connection
from rapini.apps.sensor import Timeouts
from rapini.errors import ConfigError
from tests.unit.apps.sensor.packets import (
    CAPTURES,
    CLIENT,
    CLIENT6,
    SERVER,
    SERVER6,
    START,
    Talk,
    analyze,
    analyzer,
    demo_packets,
    icmp,
    only,
    udp,
)


@pytest.mark.parametrize(
    ("script", "state", "history", "orig_bytes", "resp_bytes"),
    [
        ("S", "S0", "S", None, None),
        ("S +1 S +2 S", "S0", "S", 0, 0),
        ("S h", "S1", "Sh", 0, 0),
        ("S h A D100 a d2000 A", "S1", "ShADad", 100, 2000),
        ("S h A D100 a d2000 A F f A", "SF", "ShADadFf", 100, 2000),
        ("S h A D100 a d2000 f A F a", "SF", "ShADadfF", 100, 2000),
        ("S r", "REJ", "Sr", 0, 0),
        ("S h A D5 F", "S2", "ShADF", 5, 0),
        ("S h A d5 f", "S3", "ShAdf", 0, 5),
        ("S h A D5 R", "RSTO", "ShADR", 5, 0),
        ("S h A D5 r", "RSTR", "ShADr", 5, 0),
        ("S R", "RSTOS0", "SR", 0, 0),
        ("S F", "SH", "SF", 0, 0),
        ("h r", "OTH", "HR", 0, 0),
        ("A D10 a d20", "OTH", "ADad", 10, 20),
        ("D10 R", "OTH", "DR", 10, 0),
        ("S h A D10 F f A R", "SF", "ShADFfR", 10, 0),
        ("S h A F +1 R", "RSTO", "ShAFR", 0, 0),
        ("S h W", "S1", "ShAW", 0, 0),
        ("S h A D10 T", "S1", "ShADT", 10, 0),
        ("S h A D10 T T T T T T T T T T", "S1", "ShADTT", 10, 0),
    ],
)
def test_a_conversation_has_zeeks_state_history_and_byte_counts(
    script: str, state: str, history: str, orig_bytes: int | None, resp_bytes: int | None
) -> None:
    event = only(script)
    assert (event.conn_state, event.history) == (state, history)
    assert (event.orig_bytes, event.resp_bytes) == (orig_bytes, resp_bytes)
    assert event.proto == "tcp"
    assert event.ip_proto == 6


@pytest.mark.parametrize(
    ("script", "state", "history"),
    [
        ("h", "OTH", "^h"),  # in a recorded log of a real Zeek: 6705 to 80, SYN-ACK alone
        ("h S A a D15 d88 f F", "SF", "^hSAaDdfF"),
        ("h r", "RSTRH", "^hr"),
        ("h f", "SHR", "^hf"),
        ("d10 D5", "OTH", "^dD"),
    ],
)
def test_a_conversation_that_begins_with_the_servers_packet_is_flipped(script: str, state: str, history: str) -> None:
    event = only(script, ports=(40000, 80))
    assert (event.conn_state, event.history) == (state, history)
    assert (str(event.orig_h), event.orig_p, event.resp_p) == (CLIENT, 40000, 80)
    assert event.orig_pkts == sum(word[0].isupper() for word in script.split())


def test_a_syn_that_was_overtaken_by_its_answer_turns_the_roles_round() -> None:
    event = only("h S A D1 d1", ports=(40000, 9999))
    assert (str(event.orig_h), event.orig_p, event.conn_state) == (CLIENT, 40000, "S1")
    assert event.history == "Hs^ADd"  # as Zeek: what was noted before the turn stays


def test_packets_and_ip_bytes_count_every_packet_and_duration_ends_with_the_last_fin() -> None:
    event = only("S h A D100 a d2000 A F f A")
    assert (event.orig_pkts, event.resp_pkts) == (6, 4)
    assert (event.orig_ip_bytes, event.resp_ip_bytes) == (6 * 40 + 100, 4 * 40 + 2000)
    assert event.duration == pytest.approx(0.08)  # Zeek leaves out the acknowledgement of the last FIN
    assert event.ts == START


def test_one_packet_has_neither_duration_nor_byte_counts() -> None:
    event = only("S")
    assert (event.duration, event.orig_bytes, event.resp_bytes, event.orig_pkts) == (None, None, None, 1)


def test_a_gap_is_what_was_acknowledged_and_never_seen() -> None:
    event = only("S h A d1000 A l500 d100 A F f")
    assert (event.missed_bytes, event.history, event.resp_bytes) == (500, "ShAdgFf", 1600)
    assert event.conn_state == "SF"


def test_a_gap_at_the_end_counts_too() -> None:
    event = only("S h A d1000 A l700 A +1 A")
    assert (event.missed_bytes, event.resp_bytes, event.history) == (700, 1700, "ShAdg")


def test_a_late_packet_fills_its_hole_and_is_no_gap() -> None:
    frames = Talk("S h A d100 d200 d300 A F f A").frames
    frames[3], frames[4], frames[5] = frames[4], frames[5], frames[3]
    (event,), _ = analyze(frames)
    assert (event.missed_bytes, event.resp_bytes, "g" in (event.history or "")) == (0, 600, False)


def test_sequence_numbers_may_wrap() -> None:
    script = "S h A " + "D1000 a d60000 A " * 20 + "F f A"
    plain, wrapped = only(script), only(script, first_seqs=(0xFFFFFF00, 0xFFFF0000))
    assert (wrapped.orig_bytes, wrapped.resp_bytes, wrapped.history) == (20000, 1200000, "ShADadFf")
    assert (plain.orig_bytes, plain.resp_bytes, plain.history) == (20000, 1200000, "ShADadFf")


@given(parts=st.lists(st.integers(1, 1400), min_size=1, max_size=30), seqs=st.tuples(*[st.integers(0, 2**32 - 1)] * 2))
def test_bytes_do_not_depend_on_where_the_numbers_start(parts: list[int], seqs: tuple[int, int]) -> None:
    script = "S h A D7 a " + " ".join(f"d{size}" for size in parts) + " A F f A"
    event = only(script, first_seqs=seqs)
    assert (event.orig_bytes, event.resp_bytes, event.missed_bytes) == (7, sum(parts), 0)
    assert event.conn_state == "SF"


@given(data=st.data())
def test_no_order_of_packets_invents_or_loses_packets(data: st.DataObject) -> None:
    frames = Talk("S h A D100 a d2000 d500 A D5 F f A").frames
    order = data.draw(st.permutations(range(len(frames))))
    shuffled = [(frames[at][0], frames[place][1]) for at, place in enumerate(order)]
    connections, _ = analyze(shuffled)
    assert sum(event.orig_pkts + event.resp_pkts for event in connections) == len(frames)
    assert all((event.orig_bytes or 0) <= 1 << 20 for event in connections)


# --- When a flow is over ----------------------------------------------------------------------------------------


def test_a_closed_connection_is_reported_five_seconds_later_and_an_open_one_after_five_minutes() -> None:
    closed, opened = Talk("S h A F f A").frames, Talk("S h A", ports=(40001, 9999)).frames
    unanswered = Talk("S", ports=(40002, 9999)).frames
    subject, seen = analyzer(), {}
    noise = [(START + second, udp(CLIENT, 1, SERVER, 9, b"x")) for second in range(400)]
    for ts, frame in sorted(closed + opened + unanswered + noise):
        subject.packet(ts, 1, frame, len(frame))
        for event in subject.drain():
            seen[event.orig_p] = ts - START
    assert seen == {40000: 6.0, 40001: 301.0, 40002: 6.0}


def test_events_come_out_in_the_order_of_their_deadlines() -> None:
    frames = []
    for number in range(50):
        frames += Talk("S h A D9 F f A", ports=(40000 + number, 9999), start=START + number * 0.3).frames
    subject = analyzer()
    for ts, frame in sorted(frames):
        subject.packet(ts, 1, frame, len(frame))
    subject.packet(START + 100, 1, b"", 0)
    assert [event.orig_p for event in subject.drain()] == list(range(40000, 40050))


def test_a_new_syn_on_the_ports_of_a_closed_connection_begins_another() -> None:
    frames = Talk("S h A D5 F f A").frames + Talk("S h A d7 F f A", start=START + 1, first_seqs=(77, 88)).frames
    connections, _ = analyze(frames)
    assert [(event.orig_bytes, event.resp_bytes, event.conn_state) for event in connections] == [
        (5, 0, "SF"),
        (0, 7, "SF"),
    ]
    assert len({event.uid for event in connections}) == 2


@pytest.mark.parametrize(("port", "pause", "expected"), [(9, 59, 1), (9, 62, 2), (53, 9, 1), (53, 12, 2)], ids=str)
def test_udp_ends_after_a_minute_and_dns_after_ten_seconds_of_silence(port: int, pause: int, expected: int) -> None:
    frame = udp(CLIENT, 4000, SERVER, port, b"x")
    connections, _ = analyze([(START, frame), (START + pause, frame)])
    assert len(connections) == expected


def test_a_full_table_gives_up_the_longest_idle() -> None:
    subject = analyzer(max_flows=32)
    for number in range(100):
        frame = udp(CLIENT, 1000 + number, SERVER, 9, b"x")
        subject.packet(START + number / 1000, 1, frame, len(frame))
        assert subject.counters.active_flows <= 32
    events = subject.drain()
    assert [event.orig_p for event in events] == [1000 + number for number in range(len(events))]
    assert subject.counters.evicted == len(events) >= 68
    subject.finish()
    assert len(subject.drain()) + len(events) == 100


def test_time_that_runs_backwards_or_leaps_harms_nothing() -> None:
    frame = udp(CLIENT, 4000, SERVER, 9, b"x")
    connections, _ = analyze([(START, frame), (START - 100, frame), (START + 1e9, frame), (0.0, frame)])
    assert sum(event.orig_pkts for event in connections) == 4


# --- Other protocols --------------------------------------------------------------------------------------------


def test_udp_counts_payload_and_tells_answered_from_unanswered() -> None:
    question, answer = udp(CLIENT, 4000, SERVER, 9, b"12345"), udp(SERVER, 9, CLIENT, 4000, b"123")
    (event,), _ = analyze([(START, question), (START + 1, answer), (START + 2, question)])
    assert (event.conn_state, event.history, event.orig_bytes, event.resp_bytes) == ("SF", "Dd", 10, 3)
    assert (event.orig_pkts, event.orig_ip_bytes, event.resp_ip_bytes, event.ip_proto) == (2, 66, 31, 17)
    (event,), _ = analyze([(START, question)])
    assert (event.conn_state, event.history, event.service) == ("S0", "D", None)


def test_udp_from_a_servers_port_is_an_answer() -> None:
    (event,), _ = analyze([(START, udp(SERVER, 123, CLIENT, 4000, b"x"))])
    assert (str(event.orig_h), event.resp_p, event.conn_state, event.history) == (CLIENT, 123, "SHR", "^d")


@pytest.mark.parametrize(
    ("hosts", "kinds", "protocol"), [((CLIENT, SERVER), (8, 0), 1), ((CLIENT6, SERVER6), (128, 129), 58)]
)
def test_a_ping_is_one_flow_with_types_for_ports(hosts: tuple[str, str], kinds: tuple[int, int], protocol: int) -> None:
    request = icmp(hosts[0], hosts[1], kinds[0], payload=bytes(48))
    reply = icmp(hosts[1], hosts[0], kinds[1], payload=bytes(48))
    (event,), _ = analyze([(START, request), (START + 0.1, reply), (START + 1, request)])
    assert (event.proto, event.orig_p, event.resp_p, event.ip_proto) == ("icmp", *kinds, protocol)
    assert (event.conn_state, event.history, event.orig_bytes, event.resp_bytes) == ("OTH", None, 96, 48)
    assert event.service is None


def test_a_message_without_counterpart_has_its_code_for_port_and_one_direction() -> None:
    there, back = icmp(CLIENT, SERVER, 3, 3), icmp(SERVER, CLIENT, 3, 3)
    connections, _ = analyze([(START, there), (START, back), (START + 1, there)])
    assert sorted((event.orig_p, event.resp_p, event.orig_pkts) for event in connections) == [(3, 3, 1), (3, 3, 2)]


def test_other_protocols_are_flows_too() -> None:
    from tests.unit.apps.sensor.packets import ethernet, ip_packet

    frame = ethernet(ip_packet(CLIENT, SERVER, 47, b"gre?"))
    (event,), _ = analyze([(START, frame), (START + 1, frame)])
    assert (event.proto, event.ip_proto, event.orig_bytes, event.conn_state) == ("unknown_transport", 47, 8, "OTH")


def test_a_packet_to_oneself_is_one_direction() -> None:
    (event,), _ = analyze([(START, udp(CLIENT, 9, CLIENT, 9, b"x"))] * 3)
    assert (event.orig_pkts, event.resp_pkts) == (3, 0)


# --- Services, ids, local networks ------------------------------------------------------------------------------

CLIENT_HELLO, SERVER_HELLO = b"\x16\x03\x01\x00\x40\x01", b"\x16\x03\x03\x00\x40\x02"


@pytest.mark.parametrize(
    ("payloads", "service"),
    [
        ((b"GET / HTTP/1.1\r\n", b"HTTP/1.1 200 OK\r\n"), "http"),
        ((CLIENT_HELLO, SERVER_HELLO), "ssl"),
        ((b"SSH-2.0-x\r\n", b"SSH-2.0-y\r\n"), "ssh"),
        ((b"GET / HTTP/1.1\r\n", b"SSH-2.0-y\r\n"), None),
        ((b"GET / HTTP/1.1\r\n", b""), None),
        ((b"hello", b"world"), None),
    ],
)
def test_a_service_is_what_both_sides_speak_on_whatever_port(
    payloads: tuple[bytes, bytes], service: str | None
) -> None:
    assert only("S h A D80 a d80 A F f A", payloads=payloads).service == service


def test_local_is_what_is_not_routed_unless_the_site_says_otherwise() -> None:
    event = only("S h")
    assert (event.local_orig, event.local_resp) == (True, False)
    frames = Talk("S h").frames
    (event,), _ = analyze(frames, local_nets=("93.184.0.0/16", "fd00::/8"))
    assert (event.local_orig, event.local_resp) == (False, True)
    (event,), _ = analyze(Talk("S h", client=CLIENT6, server=SERVER6).frames)
    assert (event.local_orig, event.local_resp) == (True, False)
    with pytest.raises(ConfigError) as caught:
        analyzer(local_nets=("10.0.0.0/33",))
    assert caught.value.code == "bad_network"


def test_ids_look_like_zeeks_and_depend_on_the_seed_alone() -> None:
    from rapini.apps.sensor.records import UidMaker

    ours, same, other = UidMaker(b"a"), UidMaker(b"a"), UidMaker(b"b")
    uids = [ours.next() for _ in range(1000)]
    assert uids == [same.next() for _ in range(1000)]
    assert not set(uids) & {other.next() for _ in range(1000)}
    assert len(set(uids)) == 1000
    assert {len(uid) for uid in uids} == {17}
    assert all(uid[0] == "C" and uid.isalnum() and uid.isascii() for uid in uids)


# --- Ways that must not differ ----------------------------------------------------------------------------------


def all_events(packets: list[tuple[float, int, bytes, int]]) -> list[object]:
    subject = analyzer(timeouts=Timeouts())
    subject.feed(packets)
    subject.finish()
    return list(subject.drain())


def test_the_short_way_and_the_long_way_give_the_same_events() -> None:
    """A VLAN tag takes a packet off the analyzer's short way; nothing that an event shows may change."""
    plain = demo_packets()
    tagged = [(ts, link, frame[:12] + b"\x81\x00\x00\x07" + frame[12:], size + 4) for ts, link, frame, size in plain]
    raw = [(ts, 101, frame[14:], size - 14) for ts, _, frame, size in plain]
    assert all_events(plain) == all_events(tagged) == all_events(raw)


def test_ipv4_and_ipv6_are_treated_alike() -> None:
    script = "S h A D100 a d2000 T l9 d5 A W F f A R"
    four, six = only(script), only(script, client=CLIENT6, server=SERVER6)
    fields = ("duration", "orig_bytes", "resp_bytes", "conn_state", "missed_bytes", "history", "orig_pkts")
    assert [getattr(four, field) for field in fields] == [getattr(six, field) for field in fields]
    assert six.orig_ip_bytes == four.orig_ip_bytes + 20 * four.orig_pkts


@pytest.mark.parametrize("name", ["linux_cooked", "linux_cooked2", "raw_ip", "vlan", "fragments"])
def test_the_recorded_variants_are_read_whole(name: str) -> None:
    from rapini.apps.sensor import open_capture

    subject = analyzer()
    with open_capture(CAPTURES / f"{name}.pcap") as capture:
        subject.feed(capture)
    subject.finish()
    events = [event for event in subject.drain() if isinstance(event, Connection)]
    reasons = Counter(subject.counters.undecoded)
    assert not set(reasons) - {"not_ip", "fragment"}
    assert sum(e.orig_pkts + e.resp_pkts for e in events) + reasons.total() == subject.counters.packets > 20
    assert (subject.counters.fragments > 0) == (name == "fragments")
