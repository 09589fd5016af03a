"""A set of integers kept as ranges: which packets arrived, which bytes are acknowledged, which are lost. Sans-IO.

Below `retransmit` and `reassembly`. Ranges are half-open, sorted and apart; a set of n ranges costs log n to search
and a move of n references to change, which is little for the few dozen that there are.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

__all__ = ["RangeSet"]


class RangeSet:
    """Integers, as half-open ranges. Thread: the owner's."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __len__(self) -> int:
        """How many ranges there are."""
        return len(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._ends, strict=True)

    def __contains__(self, value: int) -> bool:
        at = bisect_right(self._starts, value) - 1
        return at >= 0 and value < self._ends[at]

    def highest_first(self) -> list[tuple[int, int]]:
        """The ranges from the highest down."""
        return list(zip(reversed(self._starts), reversed(self._ends), strict=True))

    def first(self) -> tuple[int, int]:
        """The lowest range; there must be one."""
        return self._starts[0], self._ends[0]

    def add(self, start: int, end: int) -> None:
        """Add what is from `start` to before `end`."""
        if start >= end:
            return
        if self._ends and start == self._ends[-1]:  # the usual case: the next one
            self._ends[-1] = end
            return
        low = bisect_left(self._ends, start)
        high = bisect_right(self._starts, end)
        if low < high:
            start = min(start, self._starts[low])
            end = max(end, self._ends[high - 1])
        self._starts[low:high] = [start]
        self._ends[low:high] = [end]

    def discard(self, start: int, end: int) -> None:
        """Remove what is from `start` to before `end`, if it is there."""
        low = bisect_right(self._ends, start)
        high = bisect_left(self._starts, end)
        if start >= end or low >= high:
            return
        left = [(self._starts[low], start)] if self._starts[low] < start else []
        right = [(end, self._ends[high - 1])] if self._ends[high - 1] > end else []
        kept = left + right
        self._starts[low:high] = [each[0] for each in kept]
        self._ends[low:high] = [each[1] for each in kept]

    def missing(self, start: int, end: int) -> list[tuple[int, int]]:
        """What of this range is not in the set."""
        holes = []
        at = bisect_right(self._ends, start)
        while start < end and at < len(self._starts) and self._starts[at] < end:
            if start < self._starts[at]:
                holes.append((start, self._starts[at]))
            start = self._ends[at]
            at += 1
        if start < end:
            holes.append((start, end))
        return holes

    def keep_highest(self, count: int) -> None:
        """Forget all but the `count` highest ranges."""
        del self._starts[:-count]
        del self._ends[:-count]
