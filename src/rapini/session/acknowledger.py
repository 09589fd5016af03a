"""Which packets arrived, and when to say so (RFC 9000 section 13.2). Sans-IO; beside `retransmit`.

Numbers are kept as at most `limits.MAX_ACK_RANGES` ranges, the highest ones. What is below them is forgotten and taken
for a duplicate if it turns up; its sender sends what was in it again. So a packet is never processed twice.
"""

from __future__ import annotations

from rapini import limits
from rapini.session.packets import encode_ack
from rapini.session.ranges import RangeSet
from rapini.session.recovery import MAX_ACK_DELAY_S

__all__ = ["Acknowledger"]


class Acknowledger:
    """The receiver's memory of packets. Thread: the owner's."""

    def __init__(self) -> None:
        self.due: float | None = None
        """When an acknowledgement must go out; ``None`` when there is nothing to acknowledge."""
        self._seen = RangeSet()
        self._floor = 0
        self._unacknowledged = 0
        self._largest_at = 0.0

    @property
    def is_pending(self) -> bool:
        """Whether there is anything new to acknowledge."""
        return self.due is not None

    def is_due(self, now: float) -> bool:
        """Whether an acknowledgement must go out by itself now."""
        return self.due is not None and now >= self.due

    def is_new(self, number: int) -> bool:
        """Whether a packet has not been here yet, for certain."""
        return number >= self._floor and number not in self._seen

    def note(self, number: int, *, is_eliciting: bool, now: float) -> None:
        """A new packet is here."""
        highest = self._seen.highest_first()[0][1] if len(self._seen) else 0
        self._seen.add(number, number + 1)
        if len(self._seen) > limits.MAX_ACK_RANGES:
            self._seen.keep_highest(limits.MAX_ACK_RANGES)
            self._floor = self._seen.first()[0]
        if number >= highest:
            self._largest_at = now
        if not is_eliciting:
            return
        self._unacknowledged += 1
        if self._unacknowledged >= 2 or number != highest:  # the second, or a hole was made or filled
            self.due = now
        elif self.due is None:
            self.due = now + MAX_ACK_DELAY_S

    def hurry(self, now: float) -> None:
        """What is to be acknowledged is to be at once."""
        if self.due is not None:
            self.due = now

    def write(self, *, limit: int, now: float) -> bytes:
        """An acknowledgement of everything that is remembered; there must be something."""
        self.due = None
        self._unacknowledged = 0
        delay_us = int(max(now - self._largest_at, 0.0) * 1e6)
        return encode_ack(self._seen.highest_first(), delay_us=delay_us, limit=limit)
