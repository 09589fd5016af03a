"""The retransmission machine, step by step, and what a hostile peer can make it do: little."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rapini import limits
from rapini.errors import LocalError
from rapini.secure.channel import ChannelClosed, ChannelFailed, DataReceived, Side
from rapini.session import packets
from rapini.session.packets import decode_packet_untrusted, encode_head
from rapini.session.retransmit import Retransmitter

NOW = 100.0


def machine(max_packet_bytes: int = 1200) -> Retransmitter:
    return Retransmitter(max_packet_bytes=max_packet_bytes, patience_s=10.0, linger_s=3.0, now=NOW)


def flush(sender: Retransmitter) -> list[bytes]:
    out = []
    while (packet := sender.packet_to_send()) is not None:
        out.append(packet)
    return out


def give(receiver: Retransmitter, datagrams: list[bytes], now: float = NOW) -> None:
    for datagram in datagrams:
        receiver.receive(datagram, now)


def data(receiver: Retransmitter) -> list[bytes]:
    return [each.data for each in receiver.outcomes() if isinstance(each, DataReceived)]


def failure(receiver: Retransmitter) -> tuple[str, Side, str]:
    (outcome,) = receiver.outcomes()
    assert isinstance(outcome, ChannelFailed)
    return outcome.code, outcome.side, outcome.detail


def until(sender: Retransmitter, receiver: Retransmitter, now: float) -> float:
    """Let both talk, without loss and delay, until neither has anything to do; returns the time."""
    for _ in range(5000):
        moved = False
        for one, other in ((sender, receiver), (receiver, sender)):
            for packet in flush(one):
                other.receive(packet, now)
                moved = True
        dues = [due for each in (sender, receiver) if (due := each.next_timer()) is not None]
        if not moved and not dues:
            return now
        if not moved:
            now = max(now, min(dues))
            for each in (sender, receiver):
                each.handle_timer(now)
    raise AssertionError("two machines never rest")


# -- order ------------------------------------------------------------------------------------------------------------


def test_small_things_share_a_packet_and_arrive_in_the_order_of_sending() -> None:
    a, b = machine(), machine()
    a.send(b"one,", NOW)
    a.send_message(b"two,", NOW)
    a.send_message(b"three,", NOW)
    a.send(b"four,", NOW)
    (packet,) = flush(a)
    give(b, [packet])
    assert data(b) == [b"one,", b"two,", b"three,", b"four,"]


def test_a_message_waits_for_the_reliable_bytes_before_it_and_is_given_once() -> None:
    a, b = machine(), machine()
    a.send(b"first", NOW)
    (first,) = flush(a)
    a.send_message(b"second", NOW)
    (second,) = flush(a)
    give(b, [second, second])
    assert data(b) == []
    assert b.messages.held_messages == 1
    give(b, [first, second, first])
    assert data(b) == [b"first", b"second"]
    assert (b.statistics.duplicates, b.messages.held_bytes) == (3, 0)


def test_a_message_that_was_overtaken_is_dropped_and_counted() -> None:
    a, b = machine(), machine()
    out = []
    for word in (b"m0", b"m1"):
        a.send_message(word, NOW)
        out += flush(a)
    a.send(b"r", NOW)
    out += flush(a)
    give(b, [out[1], out[0], out[2]])
    assert data(b) == [b"m1", b"r"]
    assert b.messages.late == 1
    give(machine(), out)
    c = machine()
    give(c, [out[2], out[0], out[1]])
    assert data(c) == [b"r"]
    assert c.messages.late == 2


def test_a_message_of_many_fragments_arrives_whole_or_not_at_all() -> None:
    a, b, c = machine(), machine(), machine()
    payload = bytes(range(256)) * 20
    a.send_message(payload, NOW)
    out = flush(a)
    assert len(out) == 5
    give(b, out[::-1])
    assert data(b) == [payload]
    give(c, out[:2] + out[3:])
    assert data(c) == []
    assert c.messages.held_messages == 1
    a.send(b"after", NOW)
    give(c, flush(a))
    assert data(c) == [b"after"]
    assert (c.messages.held_messages, c.messages.late) == (0, 1)


def test_a_message_too_large_to_arrive_unreliably_goes_by_the_stream() -> None:
    a, b = machine(limits.MAX_PACKET_BYTES), machine(limits.MAX_PACKET_BYTES)
    a.send_message(bytes(limits.MAX_UNRELIABLE_BYTES), NOW)
    assert a.outgoing.message_bytes == limits.MAX_UNRELIABLE_BYTES
    a.send_message(bytes(limits.MAX_UNRELIABLE_BYTES + 1), NOW)
    assert a.outgoing.stream_bytes == limits.MAX_UNRELIABLE_BYTES + 1
    until(a, b, NOW)
    assert sum(map(len, data(b))) == 2 * limits.MAX_UNRELIABLE_BYTES + 1


def test_the_largest_frame_crosses_the_window_and_leaves_no_memory_behind() -> None:
    a, b = machine(limits.MAX_PACKET_BYTES), machine(limits.MAX_PACKET_BYTES)
    a.send(bytes(limits.MAX_FRAME_BYTES + 4), NOW)
    until(a, b, NOW)
    assert sum(map(len, data(b))) == limits.MAX_FRAME_BYTES + 4
    assert (a.backlog_bytes, b.stream.held_bytes) == (0, 0)
    assert a.outgoing.retransmitted_bytes == 0


# -- loss -------------------------------------------------------------------------------------------------------------


def test_a_lost_packet_is_sent_again_after_three_later_ones_without_a_timer() -> None:
    a, b = machine(), machine()
    out = []
    for number in range(5):
        a.send(bytes([number]), NOW)
        out += flush(a)
    give(b, out[1:])
    give(a, flush(b), NOW + 0.01)
    again = flush(a)
    assert a.outgoing.retransmitted_bytes == 1
    give(b, again)
    assert b"".join(data(b)) == bytes(range(5))


def test_a_lost_tail_is_probed_for() -> None:
    a, b = machine(), machine()
    a.send(b"tail", NOW)
    assert len(flush(a)) == 1  # lost
    due = a.next_timer()
    assert due is not None
    assert due == pytest.approx(NOW + 0.32)
    a.handle_timer(due)
    give(b, flush(a), due)
    assert data(b) == [b"tail"]
    assert a.statistics.probes == 1


def test_a_lost_message_is_not_sent_again_but_its_loss_is_noticed() -> None:
    a, b = machine(), machine()
    a.send_message(b"gone", NOW)
    flush(a)
    due = a.next_timer()
    assert due is not None
    a.handle_timer(due)
    (probe,) = flush(a)
    assert decode_packet_untrusted(probe).chunks == [packets.PingChunk()]
    give(b, [probe], due)
    b.handle_timer(due + 0.02)
    now = until(a, b, due + 0.02)
    assert data(b) == []
    assert a.statistics.messages_lost == 1
    assert now < NOW + 2


def test_a_retransmission_is_the_bytes_and_not_the_packet() -> None:
    a = machine()
    a.send(b"x", NOW)
    (first,) = flush(a)
    a.handle_timer(NOW + 1)
    again = flush(a)[0]
    one, two = decode_packet_untrusted(first), decode_packet_untrusted(again)
    assert one.chunks == two.chunks
    assert one.number != two.number


def test_nobody_acknowledges_acknowledgements_and_every_second_packet_is_acknowledged_at_once() -> None:
    a, b = machine(), machine()
    a.send(b"1", NOW)
    give(b, flush(a))
    assert flush(b) == []
    assert b.next_timer() == pytest.approx(NOW + 0.02)
    a.send(b"2", NOW)
    give(b, flush(a))
    (ack,) = flush(b)
    give(a, [ack], NOW + 0.01)
    assert flush(a) == []
    assert a.next_timer() is None


def test_a_peer_that_acknowledges_nothing_is_given_up() -> None:
    a = machine()
    a.send(b"x", NOW)
    times = [NOW]
    sent = 0
    while not a.is_done:
        sent += len(flush(a))
        due = a.next_timer()
        assert due is not None
        assert due >= times[-1]
        times.append(due)
        a.handle_timer(due)
    assert failure(a) == ("unacknowledged", Side.THEIRS, "the peer acknowledges nothing that is sent to it (10 s)")
    assert times[-1] == NOW + 10.0
    assert sent <= 2 * 10 / 0.5 + 2, "two packets every half second, no flood"


def test_a_backlog_that_nobody_takes_ends_the_channel() -> None:
    a = machine()
    for _ in range(limits.MAX_STREAM_BACKLOG_BYTES // (1 << 20)):
        a.send(bytes(1 << 20), NOW)
    assert a.is_open
    a.send(bytes(1 << 20), NOW)
    assert failure(a)[:2] == ("backlog_too_large", Side.OURS)
    assert a.backlog_bytes == 0


def test_messages_that_find_no_room_push_out_the_oldest_unbegun() -> None:
    a, b = machine(), machine()
    for number in range(1100):
        a.send_message(number.to_bytes(2, "big") + bytes(1022), NOW)
    assert a.outgoing.message_bytes <= limits.HELD_MESSAGE_BYTES
    assert a.outgoing.messages_dropped == 1100 - 1024
    until(a, b, NOW)
    assert [int.from_bytes(each[:2], "big") for each in data(b)] == list(range(76, 1100))


# -- the end ----------------------------------------------------------------------------------------------------------


def test_the_end_comes_after_everything_else_and_is_repeated_until_it_is_acknowledged() -> None:
    a, b = machine(), machine()
    a.send(b"last ", NOW)
    lost = flush(a)
    a.send(b"words", NOW)
    a.end(NOW)
    a.send(b"too late", NOW)
    give(b, flush(a))
    assert b.outcomes() == []
    give(b, lost)
    assert b.outcomes() == [DataReceived(data=b"last words"), ChannelClosed()]
    until(a, b, NOW)
    assert a.is_done
    assert b.is_done


def test_an_end_that_nobody_hears_lingers_for_a_while_only() -> None:
    a = machine()
    a.send(b"x", NOW)
    a.end(NOW)
    a.end(NOW)
    now = NOW
    while not a.is_done:
        flush(a)
        due = a.next_timer()
        assert due is not None
        now = due
        a.handle_timer(now)
    assert now == NOW + 3.0
    assert a.outcomes() == []


def test_both_may_end_at_once() -> None:
    a, b = machine(), machine()
    a.end(NOW)
    b.end(NOW)
    assert until(a, b, NOW) < NOW + 3.0
    assert (a.is_done, b.is_done) == (True, True)
    assert a.outcomes() == b.outcomes() == []


# -- a hostile peer ---------------------------------------------------------------------------------------------------


def stream(number: int, offset: int, payload: bytes) -> bytes:
    return encode_head(number) + packets.encode_stream(offset, payload)


def fragment(packet: int, number: int, offset: int, payload: bytes, *, total: int = 1000, after: int = 0) -> bytes:
    body = packets.encode_fragment(number=number, after=after, total=total, offset=offset, data=payload)
    return encode_head(packet) + body


ACK_UNSENT = encode_head(0) + packets.encode_ack([(0, 1)], delay_us=0, limit=0)


@pytest.mark.parametrize(
    ("code", "hostile"),
    [
        ("bad_packet", [b""]),
        ("ack_of_unsent", [ACK_UNSENT]),
        ("window_exceeded", [stream(0, limits.STREAM_WINDOW_BYTES, b"x")]),
        ("overlapping_fragments", [fragment(0, 0, 0, b"abc"), fragment(1, 0, 2, b"c")]),
        ("overlapping_fragments", [fragment(0, 0, 2, b"abc"), fragment(1, 0, 0, b"abc")]),
        ("overlapping_fragments", [fragment(0, 0, 2, b"abc"), fragment(1, 0, 2, b"abc")]),
        ("bad_fragment", [fragment(0, 0, 0, b"abc"), fragment(1, 0, 5, b"abc", total=999)]),
        ("bad_fragment", [fragment(0, 0, 0, b"abc"), fragment(1, 0, 5, b"abc", after=1)]),
        ("bad_end", [encode_head(0) + packets.encode_end(5), encode_head(1) + packets.encode_end(6)]),
        ("bad_end", [stream(0, 0, b"123456"), encode_head(1) + packets.encode_end(5)]),
        ("bad_end", [encode_head(1) + packets.encode_end(5), stream(0, 0, b"123456")]),
    ],
)
def test_who_breaks_the_rules_ends_the_channel_with_a_code(code: str, hostile: list[bytes]) -> None:
    a = machine()
    give(a, hostile)
    reported = [each for each in a.outcomes() if not isinstance(each, DataReceived)]
    (outcome,) = reported
    assert isinstance(outcome, ChannelFailed)
    assert (outcome.code, outcome.side) == ("bad_packet", Side.OURS)
    assert code in outcome.detail
    assert a.is_done
    assert (flush(a), a.next_timer()) == ([], None)


def test_holes_cannot_make_us_hold_more_than_the_bounds() -> None:
    """Every second byte of the window: pieces are refused beyond the bound, and the first hole can still be filled."""
    a = machine()
    for number in range(3000):
        a.receive(stream(number, 2 * number + 1, b"x"), NOW)
    assert a.stream.held_segments == limits.MAX_STREAM_SEGMENTS
    assert a.statistics.refused == 3000 - limits.MAX_STREAM_SEGMENTS
    assert a.is_open
    for number in range(3000):
        a.receive(stream(3000 + number, 2 * number, b"yx"), NOW)
    assert b"".join(data(a)) == b"yx" * 3000
    assert (a.stream.held_segments, a.stream.held_bytes) == (0, 0)


def test_unfinished_messages_cannot_make_us_hold_more_than_the_bounds() -> None:
    a = machine(limits.MAX_PACKET_BYTES)
    for number in range(2000):
        a.receive(fragment(number, number, 0, bytes(16_000), total=limits.MAX_UNRELIABLE_BYTES), NOW)
        assert a.messages.held_bytes <= limits.HELD_MESSAGE_BYTES
    assert a.messages.held_messages == limits.HELD_MESSAGE_BYTES // (16_000 + limits.FRAGMENT_COST_BYTES)
    assert a.messages.evicted == 2000 - a.messages.held_messages
    tiny = machine()
    for number in range(20_000):
        tiny.receive(fragment(number, number // 10, number % 10 * 2, b"x", after=1), NOW)
        assert tiny.messages.held_messages <= limits.MAX_HELD_MESSAGES
    assert tiny.messages.held_bytes <= limits.HELD_MESSAGE_BYTES


def test_an_acknowledgement_of_everything_ever_sent_costs_no_more_steps_than_packets_in_flight() -> None:
    """2^32 - 1 numbers in one range, of which one is in flight: this returns at once, or never."""
    a = machine()
    a._next_number = 2**32
    a.send(b"x", NOW)
    flush(a)
    a.receive(encode_head(0) + packets.encode_ack([(1, 2**32 + 1)], delay_us=0, limit=1 << 20), NOW + 0.01)
    assert a.is_open
    assert a.backlog_bytes == 0


def test_a_limit_that_goes_back_changes_nothing_and_one_that_leaps_bounds_only_what_is_sent() -> None:
    a = machine()
    a.send(b"x", NOW)
    flush(a)
    a.receive(encode_head(0) + packets.encode_ack([(0, 1)], delay_us=0, limit=0), NOW)
    a.send(bytes(1000), NOW)
    assert len(flush(a)) == 1
    a.receive(encode_head(1) + packets.encode_ack([(1, 2)], delay_us=0, limit=2**62 - 1), NOW)
    a.send(bytes(8 << 20), NOW)
    assert sum(map(len, flush(a))) <= a.recovery.window_bytes


def test_sizes_that_no_path_has_are_refused() -> None:
    for size in (limits.MIN_PACKET_BYTES - 1, limits.MAX_PACKET_BYTES + 1):
        with pytest.raises(LocalError) as caught:
            machine(size)
        assert caught.value.code == "bad_packet_size"
    assert machine(limits.MIN_PACKET_BYTES).is_open


SMALL = st.integers(0, 40)
CHUNKS = st.one_of(
    st.builds(packets.encode_stream, SMALL, st.binary(min_size=1, max_size=20)),
    st.builds(
        packets.encode_fragment,
        number=st.integers(0, 5),
        after=SMALL,
        total=st.integers(1, 40),
        offset=SMALL,
        data=st.binary(min_size=1, max_size=20),
    ),
    st.builds(packets.encode_end, SMALL),
    st.just(packets.encode_ping()),
    st.builds(
        lambda first, length, limit: packets.encode_ack([(first, first + length)], delay_us=limit, limit=limit),
        st.integers(0, 6),
        st.integers(1, 3),
        SMALL,
    ),
    st.binary(min_size=1, max_size=8),
)
PACKETS = st.builds(lambda number, chunks: encode_head(number) + b"".join(chunks), SMALL, st.lists(CHUNKS, max_size=4))


@settings(max_examples=200)
@given(st.lists(st.one_of(PACKETS, st.sampled_from([b"tick", b"talk", b"word"])), max_size=40))
def test_whatever_arrives_never_raises_and_stays_within_bounds(steps: list[bytes]) -> None:
    a, now, has_ended, heard = machine(), NOW, 0, 0
    for step in steps:
        now += 0.01
        match step:
            case b"tick":
                a.handle_timer(now)
            case b"talk":
                a.send(b"reliable", now)
            case b"word":
                a.send_message(b"unreliable", now)
            case _:
                a.receive(step, now)
        for packet in flush(a):
            decode_packet_untrusted(packet)
        for outcome in a.outcomes():
            assert not has_ended, "something after the end"
            has_ended += not isinstance(outcome, DataReceived)
            heard += isinstance(outcome, DataReceived)
        assert a.recovery.flight_bytes >= 0
        due = a.next_timer()
        assert due is None or due < now + 12
    assert heard <= 4 * len(steps)
