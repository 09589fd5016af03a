"""Which events have been here already, by origin: what cuts duplicates and loops of relayed events. Sans-IO.

A publisher numbers all its events; who published (`origin`) and in which incarnation (`stream`) names the count. What
was seen of a stream is a set of ranges. One path brings a stream's numbers in rising order, so a range nearly always
goes to the end, or joins the last one; topics that nobody subscribed to, and a second path that lags behind, leave
holes.

Memory is bounded: of a stream with too many ranges the lowest is forgotten, and of too many streams those that were
heard of least recently. What was forgotten counts as new, so the bound can let a duplicate through that comes very
late, and can never cut an event that was not seen.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from typing import Final

__all__ = ["Ranges", "Seen"]

MAX_RANGES: Final = 4096
"""Ranges remembered of one stream: at low rates, where each event is a range, so many events."""

MAX_STREAMS: Final = 4096
"""Streams remembered."""

MAX_ALL_RANGES: Final = 65_536
"""Ranges remembered of all streams together: some 8 MB."""


class Ranges:
    """A set of numbers, as ranges that neither overlap nor touch. Thread: the owner's."""

    __slots__ = ("_afters", "_firsts")

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._afters: list[int] = []

    def __len__(self) -> int:
        return len(self._firsts)

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._firsts, number) - 1
        return at >= 0 and number < self._afters[at]

    def add(self, first: int, after: int) -> list[tuple[int, int]]:
        """Add the numbers from `first` up to `after` (excluded); returns the ranges among them that are new."""
        firsts, afters = self._firsts, self._afters
        if not firsts or first > afters[-1]:  # nearly always one of these two
            firsts.append(first)
            afters.append(after)
            return [(first, after)]
        if first == afters[-1]:
            afters[-1] = after
            return [(first, after)]
        low = bisect_left(afters, first)  # the first range that it overlaps or touches
        high = bisect_right(firsts, after)  # after the last one
        new: list[tuple[int, int]] = []
        at = first
        for known_first, known_after in zip(firsts[low:high], afters[low:high], strict=True):
            if at < known_first:
                new.append((at, min(known_first, after)))
            at = max(at, known_after)
        if at < after:
            new.append((at, after))
        if low < high:
            first, after = min(first, firsts[low]), max(after, afters[high - 1])
        firsts[low:high] = [first]
        afters[low:high] = [after]
        return new

    def extend(self, first: int, after: int) -> bool:
        """Add these numbers if they come right after the highest; false if they do not."""
        afters = self._afters
        if not afters or afters[-1] != first:
            return False
        afters[-1] = after
        return True

    def forget_lowest(self) -> None:
        """Forget the range with the lowest numbers."""
        del self._firsts[0], self._afters[0]


class Seen:
    """What was seen of every stream. Thread: the owner's.

    Args:
        max_ranges: Of one stream.
        max_streams: How many of them.
        max_all_ranges: Of all of them.
    """

    def __init__(
        self,
        *,
        max_ranges: int = MAX_RANGES,
        max_streams: int = MAX_STREAMS,
        max_all_ranges: int = MAX_ALL_RANGES,
    ) -> None:
        self._max_ranges = max_ranges
        self._max_streams = max_streams
        self._max_all_ranges = max_all_ranges
        self._streams: OrderedDict[tuple[str, bytes], Ranges] = OrderedDict()
        self._all_ranges = 0
        self._last_key = ("", b"")
        self._last = Ranges()

    def __len__(self) -> int:
        """Ranges that are remembered."""
        return self._all_ranges

    def follows(self, origin: str, stream: bytes, first: int, count: int) -> bool:
        """Whether these are of the stream of the last call, and come right after its highest: then they are new.

        They are noted as seen. If not, nothing is, and `add` says which of them are new: a short cut of that.
        """
        return self._last_key == (origin, stream) and self._last.extend(first, first + count)

    def add(self, origin: str, stream: bytes, first: int, count: int) -> list[tuple[int, int]]:
        """Note events as seen.

        Args:
            origin: Who published them.
            stream: In which incarnation.
            first: The number of the first.
            count: How many, at least 1.

        Returns:
            The new ones among them, as ranges (first, number after the last); nearly always all or none.
        """
        key = (origin, stream)
        ranges = self._streams.get(key)
        if ranges is None:
            ranges = self._streams[key] = Ranges()
        else:
            self._streams.move_to_end(key)
        self._last_key, self._last = key, ranges
        before = len(ranges)
        new = ranges.add(first, first + count)
        if len(ranges) > self._max_ranges:
            ranges.forget_lowest()
        self._all_ranges += len(ranges) - before
        if self._all_ranges > self._max_all_ranges or len(self._streams) > self._max_streams:
            self._forget(ranges)
        return new

    def _forget(self, present: Ranges) -> None:
        """Stay within the bounds, at the cost of those heard of least recently."""
        while self._all_ranges > self._max_all_ranges or len(self._streams) > self._max_streams:
            key, oldest = next(iter(self._streams.items()))
            if oldest is present:
                oldest.forget_lowest()
                self._all_ranges -= 1
                continue
            self._all_ranges -= len(oldest)
            del self._streams[key]
