"""The account between one publishing incarnation and one subscribing node: what was owed, delivered, missed.

Kept by the observer from outside: from what applications published and took and from what statuses said, never from
what a node believes of itself, which is then compared with this.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["Account", "Publications"]


@dataclass(slots=True)
class Publications:
    """Everything that one incarnation published: the topic of each event, by its number."""

    topics: list[str] = field(default_factory=list)

    def count(self, spans: list[tuple[int, int]], prefixes: tuple[str, ...]) -> Counter[str]:
        """Events with numbers in the spans and topics that begin with one of the prefixes, by topic."""
        found: Counter[str] = Counter()
        for first, after in spans:
            found.update(topic for topic in self.topics[first:after] if topic.startswith(prefixes))
        return found


@dataclass(slots=True)
class Account:
    """One publishing incarnation's account with one subscribing node, over all the incarnations of that."""

    spans: list[tuple[int, int]] = field(default_factory=list)
    """Numbers of events that are owed: from each first, to before each second."""
    owed_from: int | None = None
    """Where the span that is open began; `None` while nothing is owed."""
    delivered: Counter[str] = field(default_factory=Counter)
    """Events that applications took, by topic."""
    died: Counter[str] = field(default_factory=Counter)
    """Events that were received, and died with an incarnation that had not taken them, by topic."""
    last: dict[int, int] = field(default_factory=dict)
    """The number of the last event delivered, by the subscriber's run."""
    numbers: set[int] = field(default_factory=set)
    """Numbers of all events delivered."""

    def open(self, number: int) -> None:
        """From this number on events are owed."""
        if self.owed_from is None:
            self.owed_from = number

    def close(self, number: int) -> None:
        """From this number on nothing is owed."""
        if self.owed_from is not None:
            self.spans.append((self.owed_from, number))
            self.owed_from = None

    def owed(self, end: int) -> list[tuple[int, int]]:
        """All spans, the open one up to `end`."""
        return self.spans if self.owed_from is None else [*self.spans, (self.owed_from, end)]

    def is_owed(self, number: int) -> bool:
        """Whether an event of this number is owed."""
        if self.owed_from is not None and number >= self.owed_from:
            return True
        return any(first <= number < after for first, after in self.spans)
