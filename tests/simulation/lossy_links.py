"""A whole session over datagrams in virtual time: two links, plain datagrams, retransmission, a bad network.

`Session(seed, loss=…).play()` greets, exchanges state, sends best-effort and reliable batches both ways, and leaves; it
raises `BrokenPromiseError` where the session does not get there.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from typing import Final

from rapini.events.delivery import Delivery
from rapini.secure.datagrams import PlainDatagrams
from rapini.session.datagram_channel import DatagramChannel
from rapini.session.link import LinkState
from rapini.session.outcomes import CloseKind, EventsAcknowledged, EventsReceived, LinkClosed, LinkUp
from rapini.testing import LinkEnd, LinkPair, joined_pair
from tests.simulation.lossy import check

BATCHES: Final = 60
EVENTS: Final = 5
LIMIT_S: Final = 60.0


@dataclass(slots=True)
class Traffic:
    """What one end sends, and what it heard; by delivery class."""

    sent: list[int] = field(default_factory=lambda: [0, 0])
    expected: list[int] = field(default_factory=lambda: [0, 0])
    received: list[int] = field(default_factory=lambda: [0, 0])
    missing: int = 0
    """Of best effort."""
    batches_left: int = BATCHES


class Session:
    """Two links and the network between them."""

    def __init__(self, seed: int, *, loss: float, max_datagram_bytes: int = 1200) -> None:
        self.rng = rng = random.Random(seed)
        self.loss = loss
        self.delay_s = rng.choice([0.001, 0.01, 0.05])
        self.jitter_s = rng.choice([0.0, 2 * self.delay_s])
        self.repetition = rng.choice([0.0, 0.2])
        self.channels = tuple(
            DatagramChannel(
                PlainDatagrams(
                    is_initiator=is_initiator,
                    entropy=rng.randbytes(8),
                    max_datagram_bytes=max_datagram_bytes,
                    handshake_timeout_s=10.0,
                )
            )
            for is_initiator in (True, False)
        )
        self.pair: LinkPair = joined_pair(channels=(self.channels[0], self.channels[1]), subscriptions=((), ("a/",)))
        self.traffic = [Traffic(), Traffic()]
        self._seen = [0, 0]
        self._flying: list[tuple[float, int, int, bytes]] = []
        self._order = 0
        self.up_after_s = 0.0

    def play(self) -> Session:
        start = self.pair.clock.now
        self._until(lambda: all(end.link.is_up for end in self.pair.ends), "the links did not come up")
        self.up_after_s = self.pair.clock.now - start
        self._until(self._is_quiet, "the reliable batches did not arrive")
        for number in (0, 1):  # what was sent by now: a batch of nothing, so that what is missing is known to be
            traffic, end = self.traffic[number], self.pair.ends[number]
            end.link.send_events(
                Delivery.BEST_EFFORT, traffic.sent[0], 0, b"\x90", self.pair.clock.now, is_reliable=True
            )
        self._until(self._is_acknowledged, "not everything sent was accounted for")
        self.pair.initiator.link.leave("goodbye", "", self.pair.clock.now)
        self._until(lambda: all(end.link.is_drained for end in self.pair.ends), "the links did not end")
        return self

    def closed(self) -> list[LinkClosed]:
        return [end.seen(LinkClosed)[0] for end in self.pair.ends]

    def _is_quiet(self) -> bool:
        one, other = self.traffic
        are_here = one.received[1] == other.sent[1] and other.received[1] == one.sent[1]
        return are_here and not one.batches_left and not other.batches_left

    def _is_acknowledged(self) -> bool:
        for number, end in enumerate(self.pair.ends):
            told = end.seen(EventsAcknowledged)
            if not told or list(told[-1].taken) != self.traffic[number].sent:
                return False
        return True

    def _until(self, is_reached: object, what: str) -> None:
        assert callable(is_reached)
        limit = self.pair.clock.now + LIMIT_S
        self._serve()
        while not is_reached():
            check(self.pair.clock.now < limit, what)
            self._step()

    def _step(self) -> None:
        """On to the next datagram, timer, or a hundredth of a second later, whichever is first."""
        times = [self.pair.clock.now + 0.01]
        times += [due for end in self.pair.ends if (due := end.link.next_timer()) is not None]
        if self._flying:
            times.append(self._flying[0][0])
        self.pair.clock.now = now = max(self.pair.clock.now, min(times))
        while self._flying and self._flying[0][0] <= now:
            _, _, to, datagram = heapq.heappop(self._flying)
            self.pair.ends[to].receive(datagram)
        for end in self.pair.ends:
            due = end.link.next_timer()
            if due is not None and due <= now:
                end.link.handle_timer(now)
        self._serve()

    def _serve(self) -> None:
        for number, end in enumerate(self.pair.ends):
            end.react()
            self._hear(number, end)
            if end.link.is_up and self.traffic[number].batches_left and self.rng.random() < 0.3:
                self._publish(number, end)
            while datagram := end.link.data_to_send():
                self._carry(1 - number, datagram)

    def _publish(self, number: int, end: LinkEnd) -> None:
        traffic = self.traffic[number]
        traffic.batches_left -= 1
        delivery = self.rng.choice([Delivery.BEST_EFFORT, Delivery.RELIABLE])
        size = self.rng.choice([50, 500, 4000])
        end.link.send_events(delivery, traffic.sent[delivery], EVENTS, bytes(size), self.pair.clock.now)
        traffic.sent[delivery] += EVENTS

    def _hear(self, number: int, end: LinkEnd) -> None:
        traffic = self.traffic[number]
        for outcome in end.happened[self._seen[number] :]:
            match outcome:
                case EventsReceived(delivery=delivery, first_sequence=first, count=count):
                    check(end.seen(LinkUp) != [], "events before Ready")
                    gap = first - traffic.expected[delivery]
                    check(gap >= 0, "the numbers go back")
                    check(delivery is Delivery.BEST_EFFORT or gap == 0, "a reliable batch is missing")
                    traffic.missing += gap
                    traffic.received[delivery] += count
                    traffic.expected[delivery] = first + count
                    end.link.acknowledge(traffic.expected, self.pair.clock.now)
                case LinkClosed(kind=kind, code=code, detail=detail):
                    check(kind in (CloseKind.LEFT, CloseKind.CLOSED), f"closed: {kind}, {code}, {detail}")
                case _:
                    pass
        self._seen[number] = len(end.happened)
        check(end.link.state is not LinkState.CLOSED or end.seen(LinkClosed) != [], "closed without a word")

    def _carry(self, to: int, datagram: bytes) -> None:
        rng = self.rng
        if rng.random() < self.loss:
            return
        for _ in range(2 if rng.random() < self.repetition else 1):
            self._order += 1
            at = self.pair.clock.now + self.delay_s + rng.uniform(0.0, self.jitter_s)
            heapq.heappush(self._flying, (at, self._order, to, datagram))
