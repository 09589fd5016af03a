"""When entries expire: a heap of deadlines with the stale ones left in it until they come up. Sans-IO."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator

from rapini.stores.values import Key

__all__ = ["Expiry"]


class Expiry:
    """Deadlines by key, in monotonic seconds."""

    def __init__(self) -> None:
        self.due_at = float("inf")
        """Not before this does anything expire."""
        self._deadlines: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._deadlines)

    def set(self, key: Key, deadline: float | None) -> bool:
        """Set or take away a deadline; says whether there is anything to note."""
        if deadline is None:
            return self._deadlines.pop(key, None) is not None
        self._deadlines[key] = deadline
        heapq.heappush(self._heap, (deadline, next(self._numbers), key))
        if len(self._heap) > 2 * len(self._deadlines) + 64:  # many were moved: each leaves a stale entry behind
            self._heap = [(when, next(self._numbers), name) for name, when in self._deadlines.items()]
            heapq.heapify(self._heap)
        self.due_at = self._heap[0][0]
        return True

    def clear(self) -> None:
        """Forget all."""
        self._deadlines.clear()
        self._heap.clear()
        self.due_at = float("inf")

    def expired(self, now: float) -> Iterator[Key]:
        """Take out the keys that are due."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            when, _, key = heapq.heappop(heap)
            if self._deadlines.get(key) == when:
                del self._deadlines[key]
                yield key
        self.due_at = heap[0][0] if heap else float("inf")
