"""Losses, probes and windows, as RFC 9002 has them."""

from __future__ import annotations

import pytest

from rapini import limits
from rapini.session import recovery
from rapini.session.recovery import Recovery, RttEstimator, SentPacket

MDS = 1200


def sent(number: int, at: float, size: int = MDS) -> SentPacket:
    return SentPacket(number=number, sent_at=at, size=size, stream=((number, number + 1),), messages=0, has_end=False)


def sender(packets: int = 0, *, gap_s: float = 0.0) -> Recovery:
    made = Recovery(max_packet_bytes=MDS, now=0.0)
    for number in range(packets):
        made.on_sent(sent(number, number * gap_s))
    return made


def numbers(packets: list[SentPacket]) -> list[int]:
    return [each.number for each in packets]


def test_the_first_sample_sets_the_round_trip_and_later_ones_smooth_it() -> None:
    """RFC 9002 section 5.3, with a peer's delay taken off where that leaves no less than the minimum."""
    rtt = RttEstimator()
    assert rtt.probe_timeout == pytest.approx(0.1 + 0.2 + 0.02)
    rtt.update(0.2, 0.0)
    assert (rtt.smoothed, rtt.variation) == (0.2, 0.1)
    rtt.update(0.3, 0.01)
    assert rtt.smoothed == pytest.approx(0.875 * 0.2 + 0.125 * 0.29)
    assert rtt.variation == pytest.approx(0.75 * 0.1 + 0.25 * 0.09)
    before = rtt.smoothed
    rtt.update(0.2, 0.01)  # at the minimum: the delay cannot have been in it
    assert rtt.smoothed == pytest.approx(0.875 * before + 0.125 * 0.2)


def test_a_peer_cannot_claim_more_delay_than_is_agreed() -> None:
    honest, liar = RttEstimator(), RttEstimator()
    for rtt, delay in ((honest, recovery.MAX_ACK_DELAY_S), (liar, 4000.0)):
        rtt.update(0.05, 0.0)
        rtt.update(0.5, delay)
    assert honest.smoothed == liar.smoothed


def test_a_packet_is_lost_when_one_sent_three_later_was_acknowledged() -> None:
    """Section 6.1.1."""
    machine = sender(5)
    acked, lost = machine.on_ack(((2, 3),), 0.0, 0.05)
    assert (numbers(acked), lost) == ([2], [])
    acked, lost = machine.on_ack(((2, 5),), 0.0, 0.051)
    assert (numbers(acked), numbers(lost)) == ([3, 4], [0, 1])
    assert machine.flight_bytes == 0


def test_a_packet_is_lost_a_while_after_a_later_one_was_acknowledged() -> None:
    """Section 6.1.2: 9/8 of the round trip after it was sent."""
    machine = sender(2, gap_s=0.001)
    _, lost = machine.on_ack(((1, 2),), 0.0, 0.081)
    assert lost == []
    assert machine.loss_time() == pytest.approx(0.08 * 9 / 8)
    assert machine.probe_time() is None, "no probe while a loss is about to be declared"
    assert machine.detect_losses(0.089) == []
    assert numbers(machine.detect_losses(0.091)) == [0]
    assert machine.loss_time() is None


def test_a_probe_is_due_after_the_last_packet_and_backs_off_to_half_a_second() -> None:
    machine = sender(1)
    due = machine.probe_time()
    assert due == pytest.approx(0.32)
    waits = []
    for _ in range(5):
        machine.probe_count += 1
        waits.append(machine.probe_time())
    assert waits == [pytest.approx(each) for each in (0.5,) * 5]
    machine.on_ack(((0, 1),), 0.0, 2.0)
    assert machine.probe_count == 0
    assert machine.probe_time() is None, "nothing is under way"


def test_a_slow_path_is_probed_no_faster_than_its_own_timeout() -> None:
    machine = sender(1)
    machine.on_ack(((0, 1),), 0.0, 3.0)
    machine.on_sent(sent(1, 3.0))
    machine.probe_count = 3
    assert machine.probe_time() == pytest.approx(3.0 + machine.rtt.probe_timeout)
    assert machine.rtt.probe_timeout > recovery.MAX_PTO_S


def test_a_late_packet_raises_the_thresholds_and_counts_as_arrived() -> None:
    machine = sender(20)
    _, lost = machine.on_ack(((10, 20),), 0.0, 0.05)
    assert numbers(lost) == list(range(10))
    acked, _ = machine.on_ack(((10, 20), (4, 5)), 0.0, 0.051)
    assert numbers(acked) == [4]
    assert machine.packet_threshold == 16
    assert machine.rtt.time_threshold == 1.25
    assert machine.on_ack(((10, 20), (4, 5)), 0.0, 0.052) == ([], []), "once"
    for number in range(20, 300):
        machine.on_sent(sent(number, 0.1))
    machine.on_ack(((299, 300),), 0.0, 0.15)
    machine.on_ack(((20, 300),), 0.0, 0.16)
    assert machine.packet_threshold == recovery.MAX_PACKET_THRESHOLD
    assert machine.rtt.time_threshold <= recovery.MAX_TIME_THRESHOLD


def fill_window(machine: Recovery, number: int, now: float) -> int:
    while machine.flight_bytes + MDS <= machine.window_bytes:
        machine.on_sent(sent(number, now))
        number += 1
    assert not machine.may_send(now)
    return number


def test_the_window_doubles_in_slow_start_and_grows_by_a_packet_after_a_loss() -> None:
    """Sections 7.2 and 7.3."""
    machine = sender()
    assert machine.window_bytes == 10 * MDS
    number = fill_window(machine, 0, 0.0)
    machine.on_ack(((0, number),), 0.0, 0.1)
    assert machine.window_bytes == 20 * MDS
    first = number
    number = fill_window(machine, number, 0.2)
    _, lost = machine.on_ack(((first + 1, number),), 0.0, 0.3)
    assert numbers(lost) == [first]
    assert machine.window_bytes == 10 * MDS, "halved"
    first = number
    number = fill_window(machine, number, 0.4)
    machine.on_ack(((first, number),), 0.0, 0.5)
    assert machine.window_bytes == pytest.approx(11 * MDS, abs=MDS / 10)


def test_the_window_is_halved_once_a_round_trip_and_never_below_four_packets() -> None:
    machine = sender()
    fill_window(machine, 0, 0.0)
    machine.on_ack(((3, 4),), 0.0, 0.05)
    assert machine.window_bytes == 5 * MDS
    machine.on_ack(((6, 7),), 0.0, 0.06)  # more losses of the same flight
    assert machine.window_bytes == 5 * MDS
    for number in range(100, 130, 10):
        for each in range(number, number + 5):
            machine.on_sent(sent(each, float(number)))
        machine.on_ack(((number + 4, number + 5),), 0.0, number + 0.05)
    assert machine.window_bytes == recovery.MIN_WINDOW_PACKETS * MDS


def test_everything_lost_for_long_begins_anew() -> None:
    """Section 7.6: persistent congestion."""
    machine = sender()
    machine.window_bytes = 100 * MDS
    machine.on_sent(sent(0, 0.0))
    machine.on_ack(((0, 1),), 0.0, 0.05)
    for number in range(1, 12):
        machine.on_sent(sent(number, 0.1 * number))
    machine.on_ack(((11, 12),), 0.0, 1.2)
    assert machine.window_bytes == recovery.MIN_WINDOW_PACKETS * MDS


def test_a_window_that_is_not_used_does_not_grow() -> None:
    """Section 7.8."""
    machine = sender()
    for number in range(50):
        machine.on_sent(sent(number, number * 0.1))
        machine.on_ack(((number, number + 1),), 0.0, number * 0.1 + 0.05)
    assert machine.window_bytes == 10 * MDS


def test_the_pacer_spreads_a_window_over_a_round_trip() -> None:
    """Section 7.7: a burst of ten packets, then 1.25 windows a round trip."""
    machine = sender()
    machine.window_bytes = 100 * MDS
    now, number = 0.0, 0
    times: list[float] = []
    while len(times) < 60:
        if machine.may_send(now):
            machine.on_sent(sent(number, now))
            times.append(now)
            number += 1
        else:
            due = machine.pacing_time()
            assert due is not None
            assert due > now, "a timer that comes to nothing"
            now = due
    assert times[9] == 0.0 < times[10]
    assert times[59] - times[10] == pytest.approx(49 * 0.1 / 125, rel=0.1)


def test_packets_in_flight_are_bounded_however_small() -> None:
    machine = sender()
    machine.window_bytes = limits.MAX_FLIGHT_BYTES
    for number in range(limits.MAX_PACKETS_IN_FLIGHT):
        machine.on_sent(sent(number, number * 0.001, size=20))
    assert not machine.may_send(1e6)
    assert machine.pacing_time() is None


def test_patience_counts_from_the_last_progress() -> None:
    machine = sender()
    assert machine.patience_start() is None
    machine.on_sent(sent(0, 5.0))
    machine.on_sent(sent(1, 6.0))
    assert machine.patience_start() == 5.0
    machine.on_ack(((0, 1),), 0.0, 7.0)
    assert machine.patience_start() == 7.0
    machine.on_ack(((0, 1),), 0.0, 8.0)
    assert machine.patience_start() == 7.0, "the same again is no progress"
