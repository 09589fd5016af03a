"""Captures as a stream of packets: as fast as possible, at a steady rate or at their own pace, once or for ever.

Where it sits: between `rapini.apps.sensor`, which knows no clock, and the sensor's program, which has one.

Theory: packets are fed in chunks, so that the loop every packet passes is the analyzer's own. A chunk's events are
published when its last packet is due. In later rounds of a loop the packets' times are moved on by what the captures
span, so that for the analyzer time never goes back.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

from rapini.apps.ledger import Ledger
from rapini.apps.programs.stopping import Stop
from rapini.apps.sensor import Analyzer, Capture, Packet, open_capture
from rapini.errors import CaptureError

__all__ = ["Replay"]

CHUNK: Final = 256
"""Packets between two looks at the clock when nothing limits the rate."""

_TURN_S: Final = 0.01
_LATE_S: Final = 0.5
"""Who is later than this (the process was stopped, publishing waited) goes on from here, and does not catch up: a
burst would be nothing like the traffic that is replayed."""
_BETWEEN_ROUNDS_S: Final = 1.0


class Replay:
    """Feeds captures to an analyzer. Iterate: each turn has fed some packets, whose events can be drained now.

    Args:
        paths: The captures, read one after the other as parts of one.
        analyzer: Who takes the packets.
        ledger: Where packets and bytes are counted (`packets`, `bytes_read`, `bytes_total`, `rounds`).
        stop: Ends the replay early.
        rate: Packets a second; 0 for no limit.
        speed: Multiple of the capture's own pace; 0 for no limit. Excludes `rate`.
        is_loop: Whether to begin again at the end.

    Raises:
        CaptureError: When made: a capture cannot be opened.
    """

    def __init__(
        self,
        paths: Sequence[str],
        analyzer: Analyzer,
        ledger: Ledger,
        stop: Stop,
        *,
        rate: float = 0.0,
        speed: float = 0.0,
        is_loop: bool = False,
    ) -> None:
        self.damages: list[CaptureError] = []
        """What could not be read to its end; the other captures were."""
        self.packets = 0
        self._paths = paths
        self._analyzer = analyzer
        self._ledger = ledger
        self._stop = stop
        self._rate = rate
        self._speed = speed
        self._is_loop = is_loop
        self._shift = 0.0
        self._first_ts: float | None = None
        self._last_ts = 0.0
        self._bytes_before = 0
        self._began = 0.0
        # All are opened before anything starts, so that a typing error in the last is known at once.
        self._captures: list[Capture] = []
        with contextlib.ExitStack() as opened:
            for path in paths:
                self._captures.append(opened.enter_context(open_capture(path)))
            opened.pop_all()
        ledger.set("bytes_total", sum(capture.size_bytes for capture in self._captures))

    def __iter__(self) -> Iterator[None]:
        self._began = time.monotonic()
        while not self._stop.is_set:
            captures, self._captures = self._captures, []
            packets_before = self.packets
            with contextlib.ExitStack() as opened:
                for capture in captures:
                    opened.enter_context(capture)
                for capture in captures:
                    yield from self._one(capture)
            self._ledger.add("rounds")
            if not self._is_loop or self.packets == packets_before:
                return
            self._shift += self._last_ts - self._shift - (self._first_ts or 0.0) + _BETWEEN_ROUNDS_S
            self._bytes_before = 0
            self._captures = [open_capture(path) for path in self._paths]

    def _one(self, capture: Capture) -> Iterator[None]:
        is_plain = not (self._speed or self._is_loop)
        packets = iter(capture) if is_plain else self._timed(capture)
        packets_slot, bytes_slot = self._ledger.slot("packets"), self._ledger.slot("bytes_read")
        values = self._ledger.values
        chunk = self._chunk()
        before = self.packets
        has_more = True
        while has_more and not self._stop.is_set:
            try:
                self._analyzer.feed(islice(packets, chunk))
            except CaptureError as damage:
                self.damages.append(damage)
                has_more = False
            packets_now = before + capture.packets_read
            has_more = has_more and packets_now - self.packets == chunk
            self.packets = packets_now
            values[packets_slot] = packets_now
            values[bytes_slot] = self._bytes_before + capture.bytes_read
            self._pace()
            yield
        self._bytes_before += capture.size_bytes

    def _chunk(self) -> int:
        if self._speed:
            return 1
        return min(CHUNK, max(1, int(self._rate * _TURN_S))) if self._rate else CHUNK

    def _pace(self) -> None:
        if self._rate:
            due = self._began + self.packets / self._rate
        elif self._speed and self._first_ts is not None:
            due = self._began + (self._last_ts - self._first_ts) / self._speed
        else:
            return
        early_s = due - time.monotonic()
        if early_s < -_LATE_S:
            self._began -= early_s
        self._stop.wait(early_s)

    def _timed(self, capture: Capture) -> Iterator[Packet]:
        """The packets with their times moved on, and remembered."""
        shift = self._shift
        for ts, link_type, frame, wire_bytes in capture:
            if self._first_ts is None:
                self._first_ts = ts
            self._last_ts = ts + shift
            yield ts + shift, link_type, frame, wire_bytes
