"""Whether what subscribers are owed is what was numbered for them: routing, seen from outside.

A subscriber that never changes its mind is owed each event on its topics that its publisher collected from when it came
up there until it left or was released, times of absence included.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rapini.events.delivery import Delivery
from rapini.testing.simulation.process import Process

__all__ = ["Routes"]

Run = tuple[str, int]


@dataclass(slots=True)
class _Spans:
    """Positions in a publisher's sequence of events."""

    closed: list[tuple[int, int]] = field(default_factory=list)
    opened: int | None = None


class Routes:
    """What one subscriber is owed by one incarnation, counted."""

    def __init__(self) -> None:
        self._topics: dict[Run, list[str]] = {}
        self._spans: dict[tuple[Run, str], _Spans] = {}

    def published(self, process: Process, topic: str) -> None:
        """An event was published; durable ones have their own books."""
        if process.delivery_of(topic) is not Delivery.DURABLE:
            self._topics.setdefault((process.name, process.run), []).append(topic)

    def came_up(self, process: Process, peer: str) -> None:
        """From here on a peer is owed."""
        spans = self._spans.setdefault(((process.name, process.run), peer), _Spans())
        if spans.opened is None:
            spans.opened = self._collected(process)

    def departed(self, process: Process, peer: str) -> None:
        """From here on it is not."""
        spans = self._spans.setdefault(((process.name, process.run), peer), _Spans())
        if spans.opened is not None:
            spans.closed.append((spans.opened, self._collected(process)))
            spans.opened = None

    def owed(self, process: Process, peer: str, prefixes: tuple[str, ...]) -> int:
        """How many events a peer was owed so far."""
        run = process.name, process.run
        spans, topics = self._spans.get((run, peer), _Spans()), self._topics.get(run, [])
        all_spans = list(spans.closed)
        if spans.opened is not None:
            all_spans.append((spans.opened, self._collected(process)))
        return sum(topic.startswith(prefixes) for first, after in all_spans for topic in topics[first:after])

    def _collected(self, process: Process) -> int:
        """How many events were collected and routed, durable ones not counted."""
        counted = process.core.counters.published
        return sum(count for topic, count in counted.items() if process.delivery_of(topic) is not Delivery.DURABLE)
