"""Two retransmitters over a bad network in virtual time, everything drawn from one seed.

`Run(seed).play()` is one life: two sides send each other reliable and unreliable messages in bursts while the network
loses, repeats, reorders, delays and goes dark one way; then the faults stop, all reliable messages must be there within
a bound, and both sides end. What was promised is checked at every step; `BrokenPromiseError` says what did not hold.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from typing import Final

from rapini import limits
from rapini.secure.channel import ChannelClosed, ChannelFailed, DataReceived
from rapini.session.retransmit import Retransmitter

RELIABLE: Final = 1
UNRELIABLE: Final = 2
FAULTS_S: Final = 8.0
"""The network is bad for so long."""
START: Final = 1000.0
PATIENCE_S: Final = 15.0
LINGER_S: Final = 3.0


class BrokenPromiseError(AssertionError):
    """An invariant did not hold."""


def check(holds: bool, what: str) -> None:
    if not holds:
        raise BrokenPromiseError(what)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """How bad the network is, both ways; `dark` are the times in which a direction (0 or 1) carries nothing."""

    loss: float
    repetition: float
    delay_s: float
    jitter_s: float
    dark: tuple[tuple[int, float, float], ...] = ()

    @property
    def is_fair(self) -> bool:
        """Whether every datagram arrives once and in order."""
        return not (self.loss or self.repetition or self.jitter_s or self.dark)


def draw_weather(rng: random.Random) -> Weather:
    delay_s = rng.choice([0.0005, 0.005, 0.02, 0.06])
    kind = rng.random()
    if kind < 0.1:
        return Weather(loss=0.0, repetition=0.0, delay_s=delay_s, jitter_s=0.0)
    dark = []
    for _ in range(rng.choice([0, 0, 1, 2])):
        begin = START + rng.uniform(0.0, FAULTS_S - 1.0)
        dark.append((rng.randrange(2), begin, min(begin + rng.uniform(0.3, 5.0), START + FAULTS_S)))
    return Weather(
        loss=rng.choice([0.0, 0.1, 0.3]),
        repetition=rng.choice([0.0, 0.05, 0.3]),
        delay_s=delay_s,
        jitter_s=rng.choice([0.0, 0.2 * delay_s, 3 * delay_s]),
        dark=tuple(dark),
    )


@dataclass(slots=True)
class Side:
    """One end: its machine, what it is to say, what it heard."""

    number: int
    machine: Retransmitter
    sent: list[int] = field(default_factory=lambda: [0, 0, 0])
    """Messages given to the machine, by kind."""
    stream_bytes: int = 0
    heard: list[int] = field(default_factory=lambda: [0, 0, 0])
    last_unreliable: int = -1
    kept: bytearray = field(default_factory=bytearray)
    timer: float | None = None
    is_closed: bool = False
    dropped_bytes: int = 0
    """Of what it sent, what the network lost."""
    dropped: int = 0
    packets: int = 0


class Run:
    """One life of two sides."""

    def __init__(self, seed: int, *, weather: Weather | None = None, messages: int = 500) -> None:
        rng = self.rng = random.Random(seed)
        self.weather = weather or draw_weather(rng)
        self.is_fair = self.weather.is_fair
        self.faults_end = START + FAULTS_S
        self.now = START
        self.max_packet_bytes = rng.choice([600, 1200, 1200, limits.MAX_PACKET_BYTES])
        self.sides = [Side(number, self._machine()) for number in (0, 1)]
        self._events: list[tuple[float, int, int, bytes | None]] = []  # time, order, side, packet or None: a timer
        self._order = 0
        self._arrival = [START, START]
        self._plan: list[tuple[float, int, bool, list[tuple[int, int]]]] = []  # time, side, at once?, kinds and sizes
        self._write_plan(messages)
        self.finished_at: float | None = None

    def _machine(self) -> Retransmitter:
        return Retransmitter(
            max_packet_bytes=self.max_packet_bytes, patience_s=PATIENCE_S, linger_s=LINGER_S, now=START
        )

    def _write_plan(self, messages: int) -> None:
        """Bursts of messages, on both sides, over the time of the faults."""
        rng = self.rng
        for side in (0, 1):
            left = messages
            while left > 0:
                at = START + rng.uniform(0.0, FAULTS_S)
                burst = min(left, rng.choice([1, 5, 40, 150]))
                left -= burst
                said = []
                for _ in range(burst):
                    size = int(rng.expovariate(1 / 60)) + 13 if rng.random() < 0.99 else rng.randrange(1000, 9000)
                    said.append((RELIABLE if rng.random() < 0.6 else UNRELIABLE, size))
                self._plan.append((at, side, rng.random() < 0.8, said))
        self._plan.sort()

    # -- the play ----------------------------------------------------------------------------------------------------

    def play(self) -> Run:
        """From the first message to the last word."""
        for at, number, is_one_turn, said in self._plan:
            self._run_until(at)
            side = self.sides[number]
            for kind, size in said:
                self._say(side, kind, size)
                if not is_one_turn:
                    self._serve(side)
            self._serve(side)
        self._run_until(self.faults_end)
        self.weather = Weather(loss=0.0, repetition=0.0, delay_s=self.weather.delay_s, jitter_s=0.0)
        deadline = self.faults_end + self.liveness_bound_s
        while self._events and not self._is_complete() and self._events[0][0] <= deadline:
            self._step()
        check(self._is_complete(), f"liveness: not everything is here {self.liveness_bound_s:g} s after the faults")
        self.finished_at = self.now
        self._run_until(self.now + 1.0)
        for side in self.sides:
            self._check_effort(side)
        self._end()
        return self

    @property
    def liveness_bound_s(self) -> float:
        """A probe half a second old, the next half a second later, then the backlog from the smallest window."""
        return 1.0 + 60 * 2 * self.weather.delay_s

    def _end(self) -> None:
        first, second = self.sides if self.rng.random() < 0.5 else self.sides[::-1]
        self._say(first, RELIABLE, 100)
        first.machine.end(self.now)
        self._serve(first)
        limit = self.now + LINGER_S + 1.0
        while self._events and self._events[0][0] <= limit:
            self._step()
        check(second.is_closed, "the end did not arrive")
        check(second.heard[RELIABLE] == first.sent[RELIABLE], "the end came before the last words")
        check(first.machine.is_done and second.machine.is_done, "an ended machine goes on")
        check(first.machine.next_timer() is None, "a machine that is done wants a timer")

    def _is_complete(self) -> bool:
        one, other = self.sides
        return one.heard[RELIABLE] == other.sent[RELIABLE] and other.heard[RELIABLE] == one.sent[RELIABLE]

    def _say(self, side: Side, kind: int, size: int) -> None:
        index = side.sent[kind]
        before = side.sent[RELIABLE]
        body = bytes([kind]) + index.to_bytes(4, "big") + before.to_bytes(4, "big")
        body = body.ljust(size, bytes([index % 251]))
        frame = len(body).to_bytes(4, "big") + body
        side.sent[kind] += 1
        if kind == RELIABLE:
            side.stream_bytes += len(frame)
            side.machine.send(frame, self.now)
        else:
            side.machine.send_message(frame, self.now)

    def _run_until(self, at: float) -> None:
        while self._events and self._events[0][0] <= at:
            self._step()
        self.now = max(self.now, at)

    def _step(self) -> None:
        at, _, number, packet = heapq.heappop(self._events)
        self.now = max(self.now, at)
        side = self.sides[number]
        if packet is not None:
            side.machine.receive(packet, self.now)
        elif side.timer != at:
            return
        else:
            side.timer = None
            side.machine.handle_timer(self.now)
        self._serve(side)

    def _serve(self, side: Side) -> None:
        """What every driver does: outcomes, flush, timer."""
        machine = side.machine
        for outcome in machine.outcomes():
            self._hear(side, outcome)
        burst = 0
        while (packet := machine.packet_to_send()) is not None:
            check(len(packet) <= self.max_packet_bytes, "a packet is too large")
            self._carry(side, packet)
            burst += 1
            check(burst <= limits.MAX_PACKETS_IN_FLIGHT + 10, "a machine never stops sending")
        self._check_bounds(side)
        due = machine.next_timer()
        if due is not None and (side.timer is None or due < side.timer or side.timer < self.now):
            side.timer = due
            self._push(due, side.number, None)

    def _push(self, at: float, number: int, packet: bytes | None) -> None:
        self._order += 1
        heapq.heappush(self._events, (at, self._order, number, packet))

    # -- the network -------------------------------------------------------------------------------------------------

    def _carry(self, side: Side, packet: bytes) -> None:
        side.packets += 1
        weather, rng = self.weather, self.rng
        to = 1 - side.number
        is_dark = any(way == side.number and begin <= self.now < end for way, begin, end in weather.dark)
        if is_dark or rng.random() < weather.loss:
            side.dropped_bytes += len(packet)
            side.dropped += 1
            return
        for _ in range(2 if rng.random() < weather.repetition else 1):
            at = self.now + weather.delay_s
            if weather.jitter_s:
                at += rng.uniform(0.0, weather.jitter_s)
            else:
                at = self._arrival[to] = max(at, self._arrival[to])
            self._push(at, to, packet)

    # -- the promises ------------------------------------------------------------------------------------------------

    def _hear(self, side: Side, outcome: object) -> None:
        match outcome:
            case ChannelFailed(code=code, detail=detail):
                check(False, f"failed: {code}, {detail}")
            case ChannelClosed():
                check(not side.kept, "the end in the middle of a message")
                side.is_closed = True
            case DataReceived(data=data):
                check(not side.is_closed, "data after the end")
                side.kept += data
                self._parse(side)
            case _:
                check(False, f"an outcome that none is: {outcome}")

    def _parse(self, side: Side) -> None:
        kept, at = side.kept, 0
        while len(kept) - at >= 4:
            size = int.from_bytes(kept[at : at + 4], "big")
            check(13 <= size < 10_000, "the stream is out of step")
            if len(kept) - at - 4 < size:
                break
            self._hear_message(side, kept[at + 4 : at + 4 + size])
            at += 4 + size
        del kept[:at]

    def _hear_message(self, side: Side, body: bytearray) -> None:
        kind, index = body[0], int.from_bytes(body[1:5], "big")
        before = int.from_bytes(body[5:9], "big")
        check(body[9:] == bytes([index % 251]) * (len(body) - 9), "a message was altered")
        check(before == side.heard[RELIABLE], f"order: sent after {before} reliable ones, here after other ones")
        if kind == RELIABLE:
            check(index == side.heard[RELIABLE], f"reliable {side.heard[RELIABLE]} expected, {index} came")
        else:
            check(index > side.last_unreliable, f"unreliable {index} came after {side.last_unreliable}")
            side.last_unreliable = index
        side.heard[kind] += 1

    def _check_effort(self, side: Side) -> None:
        """Retransmissions are bounded by what went wrong; where nothing did, there are none."""
        machine, statistics = side.machine, side.machine.statistics
        drops = sum(each.dropped for each in self.sides)
        if self.is_fair:
            check(machine.outgoing.retransmitted_bytes == 0, "bytes sent again on a fair network")
            check(statistics.packets_lost == statistics.probes == 0, "losses or probes on a fair network")
            check(side.heard[UNRELIABLE] == self.sides[1 - side.number].sent[UNRELIABLE], "lost on a fair network")
        check(statistics.probes <= drops + 8, f"{statistics.probes} probes for {drops} lost packets")
        # A probe repeats two packets at most; what was declared lost and came late all the same was sent in vain.
        vain = (2 * statistics.probes + statistics.packets_late) * self.max_packet_bytes
        again = machine.outgoing.retransmitted_bytes
        check(again <= side.dropped_bytes + vain, f"{again} bytes sent again, {side.dropped_bytes} were lost")
        if not drops:
            # The first burst that is reordered teaches how much this network reorders.
            check(statistics.packets_late <= 150 + side.packets // 10, "packets were declared lost in vain")

    def _check_bounds(self, side: Side) -> None:
        machine = side.machine
        check(machine.stream.held_bytes <= limits.STREAM_WINDOW_BYTES, "the stream holds too much")
        check(machine.stream.held_segments <= limits.MAX_STREAM_SEGMENTS, "the stream holds too many pieces")
        check(machine.messages.held_bytes <= limits.HELD_MESSAGE_BYTES, "messages hold too much")
        check(machine.messages.held_messages <= limits.MAX_HELD_MESSAGES, "too many messages are held")
        check(len(machine.recovery.in_flight) <= limits.MAX_PACKETS_IN_FLIGHT + 40, "too much in flight")
        check(machine.recovery.in_flight != {} or machine.recovery.flight_bytes == 0, "the flight is miscounted")
