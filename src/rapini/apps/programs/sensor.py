"""`rapini sensor`: replays captures, turns packets into events, publishes them.

Where it sits: above `rapini.apps.sensor` (packets to events) and a `Node`. It begins when the peers it was told to wait
for are up, and at the end delivers what is left and says goodbye.

What happens to each event is on the ledger: `published` is stored before `publish` is called, so that the number is
never too small, whenever the process is killed.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import Final

from rapini import Node, PeerState, PeerStatus
from rapini.apps.ledger import Ledger
from rapini.apps.programs.book import Book
from rapini.apps.programs.replay import Replay
from rapini.apps.programs.report import Reporter
from rapini.apps.programs.starting import NodePlan, open_node
from rapini.apps.programs.stopping import Stop
from rapini.apps.sensor import DEFAULT_LOCAL_NETS, Analyzer, AnalyzerConfig
from rapini.errors import HandshakeError, PeerTimeoutError

__all__ = ["SensorOptions", "run_sensor"]

_MENDS_ITSELF: Final = frozenset(
    {"aborted", "closed", "duplicate_connection", "handshake_timeout", "lost", "reset", "superseded", "timeout"}
)
"""Codes of attempts that failed and may succeed without anybody's help."""

_TURN_S: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorOptions:
    """What `rapini sensor` was told."""

    captures: tuple[str, ...]
    rate: float = 0.0
    """Packets a second; 0 for no limit."""
    speed: float = 0.0
    """Multiple of the capture's own pace; 0 for no limit."""
    is_loop: bool = False
    wait_for: tuple[str, ...] = ()
    """Peers that must be up before anything is read; any one, if none are named."""
    wait_timeout_s: float = 30.0
    """How long they may take; 0 begins at once."""
    drain_timeout_s: float = 30.0
    """How long the delivery of the last events may take at the end of the captures. Whoever tells the sensor to stop
    waits for `drain_timeout_s` of its node at most."""
    local_nets: tuple[str, ...] = DEFAULT_LOCAL_NETS


def run_sensor(
    plan: NodePlan,
    options: SensorOptions,
    *,
    reporter: Reporter,
    ledger: Ledger,
    stop: Stop,
) -> int:
    """Run a sensor until its captures are read or it is told to stop.

    Returns:
        The exit status: 0, 1 if a capture was damaged or events were not delivered, 130 after Ctrl-C.

    Raises:
        CaptureError: A capture cannot be opened at all.
        ConfigError: As `Node`.
        HandshakeError: No channel came about with a peer it waits for, and trying again would not help.
        PeerTimeoutError: `not_up`.
    """
    analyzer = Analyzer(AnalyzerConfig(uid_seed=os.urandom(16), local_nets=options.local_nets))
    replay = Replay(
        options.captures,
        analyzer,
        ledger,
        stop,
        rate=options.rate,
        speed=options.speed,
        is_loop=options.is_loop,
    )
    book = Book(ledger, reporter)
    with contextlib.closing(open_node(plan, reporter)) as node:
        sensor = _Sensor(node, analyzer, replay, book)
        if options.wait_timeout_s:
            sensor.wait_for_peers(options, stop)
        sensor.read()
        node.close(None if stop.is_set else options.drain_timeout_s)
        sensor.report_statuses()
        book.enter(node)
    for damage in replay.damages:
        reporter.say("damaged", str(damage), path=damage.path, packet=damage.packet, code=damage.code)
    sensor.summary()
    if stop.is_set:
        return stop.exit_status
    return 1 if replay.damages or sensor.undelivered else 0


class _Sensor:
    def __init__(self, node: Node, analyzer: Analyzer, replay: Replay, book: Book) -> None:
        self._node = node
        self._analyzer = analyzer
        self._replay = replay
        self._book = book
        self._published_slot = book.ledger.slot("published")
        self._began = time.monotonic()

    def wait_for_peers(self, options: SensorOptions, stop: Stop) -> None:
        """Wait until the peers are up; raise if they cannot be, or take too long."""
        deadline = time.monotonic() + options.wait_timeout_s
        while not stop.is_set:
            self.report_statuses(is_waiting=True)
            try:
                self._node.wait_for(*options.wait_for, timeout_s=_TURN_S)
                break
            except PeerTimeoutError as late:
                if time.monotonic() >= deadline:
                    who = ", ".join(options.wait_for) or "any peer"
                    detail = f"{who} not up within {options.wait_timeout_s:g} s"
                    why = late.detail.partition(" s (")[2]
                    raise PeerTimeoutError("not_up", f"{detail} ({why}" if why else detail) from None
        self.report_statuses()
        self._began = time.monotonic()

    def report_statuses(self, *, is_waiting: bool = False) -> None:
        """Pass on what has happened to the peers."""
        for item in self._node.items(timeout_s=0):
            if isinstance(item, PeerStatus):
                self._book.status(item)
                if is_waiting and item.state is PeerState.REJECTED and item.code not in _MENDS_ITSELF:
                    raise HandshakeError(item.code, f"{item.detail} ({item.code})", peer=item.peer or item.endpoint)

    def read(self) -> None:
        """Read everything and publish."""
        analyzer, ledger = self._analyzer, self._book.ledger
        for _ in self._replay:
            self._publish()
            self.report_statuses()
            self._book.tick(self._node)
        analyzer.finish()
        self._publish()
        counters = analyzer.counters
        for name in ("bytes", "fragments", "flows", "evicted"):
            ledger.set(name, getattr(counters, name))
        for reason, count in counters.undecoded.items():
            ledger.set(f"undecoded/{reason}", count)

    def _publish(self) -> None:
        values, slot, publish = self._book.ledger.values, self._published_slot, self._node.publish
        published = values[slot]
        for event in self._analyzer.drain():
            published += 1
            values[slot] = published  # before the call: see the module's text
            publish(event)

    @property
    def undelivered(self) -> int:
        """Events that at least one subscriber did not get."""
        counters = self._node.counters()
        return counters.total_dropped + sum(counters.not_encodable.values()) + sum(counters.unrouted.values())

    def summary(self) -> None:
        """Say what was done."""
        published = self._book.ledger.values[self._published_slot]
        packets, seconds = self._replay.packets, time.monotonic() - self._began
        lost = f", {self.undelivered} not delivered" if self.undelivered else ""
        text = f"{packets} packets, {published} events in {seconds:.1f} s{lost}"
        self._book.reporter.say("summary", text, packets=packets, published=published, seconds=seconds)
