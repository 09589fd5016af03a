"""When is a packet lost, and how much may be under way: RFC 9002, for `retransmit`. Sans-IO.

Four parts of one sender, each with its section there:

* `RttEstimator` (5): smoothed round trip and variation, without the peer's own delay;
* loss detection (6.1): a packet is lost when one sent 3 later was acknowledged, or one sent 9/8 of a round trip later.
  Both thresholds grow when a packet was declared lost and is acknowledged all the same, so a path that reorders does
  not cost a retransmission a packet (6.1.1 and 6.1.2 allow it; RFC 8985, section 7.1, does the same for TCP);
* probe timeout (6.2): when nothing is acknowledged, a probe is sent, not a loss declared; doubled each time, up to
  `MAX_PTO_S`. The RFC knows no such bound; a monitor's link has to come back soon after a blackout, and its heartbeat
  gives up after 3 s anyway, so all this can cost is a few packets;
* congestion control (7): NewReno, with slow start, one reduction a round trip, persistent congestion, and a pacer
  (7.7). The smallest window is four packets instead of two, so that the packet threshold can work in it; the initial
  round trip is 100 ms instead of 333, since a probe too early costs one packet and one too late a third of the
  handshake's patience.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import msgspec

from rapini import limits

__all__ = ["Recovery", "RttEstimator", "SentPacket"]

PACKET_THRESHOLD: Final = 3
MAX_PACKET_THRESHOLD: Final = 128
TIME_THRESHOLD: Final = 9 / 8
MAX_TIME_THRESHOLD: Final = 2.0
MAX_REMEMBERED: Final = 256
"""Packets declared lost of which we still note that they arrived."""
GRANULARITY_S: Final = 0.001
INITIAL_RTT_S: Final = 0.1
MAX_ACK_DELAY_S: Final = 0.02
"""Longest time that a receiver waits for company before it acknowledges."""
MAX_PTO_S: Final = 0.5
INITIAL_WINDOW_PACKETS: Final = 10
INITIAL_WINDOW_BYTES: Final = 14_720
MIN_WINDOW_PACKETS: Final = 4
PERSISTENT_CONGESTION_PTOS: Final = 3
PACING_GAIN: Final = 1.25
PACING_BURST_PACKETS: Final = 10
PACING_QUANTUM_S: Final = 0.002
"""Timers are not finer than this: what may go out in that time goes at once."""


class SentPacket(msgspec.Struct):
    """What we remember of a packet that wants to be acknowledged."""

    number: int
    sent_at: float
    size: int
    stream: tuple[tuple[int, int], ...]
    """Half-open ranges of the stream in it."""
    messages: int
    """Unreliable messages whose last fragment is in it."""
    has_end: bool


class RttEstimator:
    """Round trips, in seconds (RFC 9002 section 5). Thread: the owner's."""

    def __init__(self) -> None:
        self.time_threshold = TIME_THRESHOLD
        self.latest = INITIAL_RTT_S
        self.smoothed = INITIAL_RTT_S
        self.variation = INITIAL_RTT_S / 2
        self._minimum: float | None = None

    @property
    def has_sample(self) -> bool:
        """Whether anything was measured."""
        return self._minimum is not None

    def update(self, sample: float, ack_delay: float) -> None:
        """Add the time from sending a packet to its acknowledgement, of which the peer kept it for `ack_delay`."""
        self.latest = sample
        if self._minimum is None:
            self._minimum = self.smoothed = sample
            self.variation = sample / 2
            return
        self._minimum = min(self._minimum, sample)
        ack_delay = min(ack_delay, MAX_ACK_DELAY_S)
        adjusted = sample - ack_delay if sample >= self._minimum + ack_delay else sample
        self.variation = 0.75 * self.variation + 0.25 * abs(self.smoothed - adjusted)
        self.smoothed = 0.875 * self.smoothed + 0.125 * adjusted

    @property
    def probe_timeout(self) -> float:
        """The probe timeout before it is doubled (section 6.2.1)."""
        return self.smoothed + max(4 * self.variation, GRANULARITY_S) + MAX_ACK_DELAY_S

    @property
    def loss_delay(self) -> float:
        """How much later than another an acknowledged packet was sent if the other is lost (section 6.1.2)."""
        return max(self.time_threshold * max(self.latest, self.smoothed), GRANULARITY_S)


class Recovery:
    """What is under way, what of it is lost, how much more may go. Thread: the owner's.

    Args:
        max_packet_bytes: Size of a full packet.
        now: Monotonic seconds.
    """

    def __init__(self, *, max_packet_bytes: int, now: float) -> None:
        self.rtt = RttEstimator()
        self.in_flight: dict[int, SentPacket] = {}
        """By number, ascending."""
        self.flight_bytes = 0
        self.probe_count = 0
        """Probe timeouts since the last acknowledgement."""
        self.window_bytes = max(
            2 * max_packet_bytes, min(INITIAL_WINDOW_PACKETS * max_packet_bytes, INITIAL_WINDOW_BYTES)
        )
        self.packet_threshold = PACKET_THRESHOLD
        self._declared: dict[int, SentPacket] = {}  # lost, ascending; perhaps only late
        self._packet_bytes = max_packet_bytes
        self._threshold_bytes = limits.MAX_FLIGHT_BYTES
        self._recovery_start = float("-inf")
        self._largest_acked = -1
        self._loss_time: float | None = None
        self._last_sent = now
        self._progress_at = now
        self._is_limited = False
        self._tokens = float(PACING_BURST_PACKETS * max_packet_bytes)
        self._tokens_at = now

    # -- sending -----------------------------------------------------------------------------------------------------

    def may_send(self, now: float) -> bool:
        """Whether window and pacer let a full packet go; remembers when it was the window that did not."""
        if (
            self.flight_bytes + self._packet_bytes > self.window_bytes
            or len(self.in_flight) >= limits.MAX_PACKETS_IN_FLIGHT
        ):
            self._is_limited = True
            return False
        self._refill(now)
        return self._tokens >= self._packet_bytes - 1  # rounding must not make a timer that comes to nothing

    def pacing_time(self) -> float | None:
        """When the pacer lets the next packet go; `None` if the window does not."""
        if self.flight_bytes + self._packet_bytes > self.window_bytes:
            return None
        if len(self.in_flight) >= limits.MAX_PACKETS_IN_FLIGHT:
            return None
        rate = self._rate()
        wanted = max(self._packet_bytes, rate * GRANULARITY_S)  # a timer a packet would be too many
        return self._tokens_at + max(0.0, wanted - self._tokens) / rate

    def on_sent(self, packet: SentPacket) -> None:
        """A packet that wants to be acknowledged goes out."""
        if not self.in_flight:
            self._progress_at = packet.sent_at
        self.in_flight[packet.number] = packet
        self.flight_bytes += packet.size
        self._last_sent = packet.sent_at
        self._refill(packet.sent_at)
        self._tokens -= packet.size

    def forgive(self, pause_s: float) -> None:
        """Our own process stood still: what is under way is that much younger."""
        for packet in self.in_flight.values():
            packet.sent_at += pause_s
        self._last_sent += pause_s
        self._progress_at += pause_s
        if self._loss_time is not None:
            self._loss_time += pause_s

    def clear(self) -> None:
        """Nothing that is under way matters any more."""
        self.in_flight.clear()
        self._declared.clear()
        self.flight_bytes = 0
        self._loss_time = None

    # -- acknowledgements --------------------------------------------------------------------------------------------

    def on_ack(
        self, ranges: tuple[tuple[int, int], ...], ack_delay: float, now: float
    ) -> tuple[list[SentPacket], list[SentPacket]]:
        """Take an acknowledgement of numbers that were sent (the caller checked).

        Returns:
            What it newly acknowledges (of what was declared lost, too), and what is lost now.
        """
        late = self._learn(ranges)
        acked = _among(self.in_flight, ranges)
        if not acked:
            return late, []
        newest = acked[-1]
        if newest.number == ranges[0][1] - 1:  # section 5.1: the highest, and new
            self.rtt.update(max(now - newest.sent_at, 0.0), ack_delay)
        self._largest_acked = max(self._largest_acked, newest.number)
        self.probe_count = 0
        self._progress_at = now
        flight_bytes = self.flight_bytes
        for packet in acked:
            del self.in_flight[packet.number]
            self.flight_bytes -= packet.size
        lost = self.detect_losses(now)
        self._grow(acked, flight_bytes)
        return late + acked, lost

    def _learn(self, ranges: tuple[tuple[int, int], ...]) -> list[SentPacket]:
        """Be slower to declare losses, if one of them was none."""
        late = _among(self._declared, ranges)
        for packet in late:
            del self._declared[packet.number]
            distance = max(self._largest_acked, ranges[0][1] - 1) - packet.number
            self.packet_threshold = min(max(self.packet_threshold, distance + 1), MAX_PACKET_THRESHOLD)
        if late:
            self.rtt.time_threshold = min(self.rtt.time_threshold + 1 / 8, MAX_TIME_THRESHOLD)
        return late

    def detect_losses(self, now: float) -> list[SentPacket]:
        """Declare lost what is overdue by number or by time (section 6.1), and reduce the window for it."""
        self._loss_time = None
        lost = []
        delay = self.rtt.loss_delay
        for packet in self.in_flight.values():
            if packet.number > self._largest_acked:
                break
            due = packet.sent_at + delay
            if packet.number <= self._largest_acked - self.packet_threshold or due <= now:
                lost.append(packet)
            else:  # sent later, due later; but not later by number than threshold: no other is lost yet
                self._loss_time = due
                break
        for packet in lost:
            del self.in_flight[packet.number]
            self.flight_bytes -= packet.size
            self._declared[packet.number] = packet
        if lost:
            self._shrink(lost, now)
            for number in list(self._declared)[:-MAX_REMEMBERED]:
                del self._declared[number]
        return lost

    # -- timers ------------------------------------------------------------------------------------------------------

    def loss_time(self) -> float | None:
        """When `detect_losses` has something to find."""
        return self._loss_time

    def probe_time(self) -> float | None:
        """When to probe; `None` while nothing is under way or a loss is about to be declared anyway."""
        if not self.in_flight or self._loss_time is not None:
            return None
        timeout = self.rtt.probe_timeout
        return self._last_sent + min(timeout * 2.0 ** min(self.probe_count, 20), max(timeout, MAX_PTO_S))

    def patience_start(self) -> float | None:
        """Since when what is under way has not been acknowledged; `None` when nothing is."""
        return self._progress_at if self.in_flight else None

    # -- congestion --------------------------------------------------------------------------------------------------

    def _grow(self, acked: list[SentPacket], flight_bytes: int) -> None:
        if not self._is_limited or flight_bytes * 2 < self.window_bytes:
            return  # section 7.8: a window that is not used tells nothing
        self._is_limited = False
        for packet in acked:
            if packet.sent_at <= self._recovery_start:
                continue
            if self.window_bytes < self._threshold_bytes:
                self.window_bytes += packet.size
            else:
                self.window_bytes += max(1, self._packet_bytes * packet.size // self.window_bytes)
        self.window_bytes = min(self.window_bytes, limits.MAX_FLIGHT_BYTES)

    def _shrink(self, lost: list[SentPacket], now: float) -> None:
        smallest = MIN_WINDOW_PACKETS * self._packet_bytes
        if lost[-1].sent_at > self._recovery_start:
            self._recovery_start = now
            self._threshold_bytes = max(self.window_bytes // 2, smallest)
            self.window_bytes = self._threshold_bytes
        if self.rtt.has_sample and self._is_persistent(lost):
            self.window_bytes = smallest
            self._recovery_start = float("-inf")

    def _is_persistent(self, lost: list[SentPacket]) -> bool:
        """Whether everything was lost for so long that the path is another one (section 7.6)."""
        limit = PERSISTENT_CONGESTION_PTOS * self.rtt.probe_timeout
        first = lost[0]
        for before, packet in pairwise(lost):
            if packet.number != before.number + 1:
                first = packet
            elif packet.sent_at - first.sent_at > limit:
                return True
        return False

    def _rate(self) -> float:
        """Bytes per second."""
        return PACING_GAIN * self.window_bytes / max(self.rtt.smoothed, GRANULARITY_S)

    def _refill(self, now: float) -> None:
        rate = self._rate()
        burst = max(PACING_BURST_PACKETS * self._packet_bytes, rate * PACING_QUANTUM_S)
        self._tokens = min(burst, self._tokens + max(now - self._tokens_at, 0.0) * rate)
        self._tokens_at = max(now, self._tokens_at)


def _among(sent: dict[int, SentPacket], ranges: tuple[tuple[int, int], ...]) -> list[SentPacket]:
    """Of packets in ascending order, those in descending ranges. As many steps as there are packets and ranges."""
    found = []
    left = len(ranges) - 1
    for packet in sent.values():
        while left >= 0 and packet.number >= ranges[left][1]:
            left -= 1
        if left < 0:
            break
        if packet.number >= ranges[left][0]:
            found.append(packet)
    return found
