"""How many control frames a peer may send: a token bucket. Sans-IO.

Used by `link`. Batches of events are bounded by credit; pings, subscriptions and their like cost us more than them, in
time and in answers, and nothing else bounds them. An honest peer sends a few in a second.
"""

from __future__ import annotations

from rapini import limits

__all__ = ["Allowance"]


class Allowance:
    """`limits.MAX_CONTROL_FRAMES` at once, and `limits.CONTROL_FRAMES_PER_S` for ever. Thread: the owner's.

    Args:
        now: Monotonic seconds.
    """

    def __init__(self, now: float) -> None:
        self._left = float(limits.MAX_CONTROL_FRAMES)
        self._at = now

    def take(self, now: float) -> bool:
        """Take one; false if there is none."""
        if self._left < 1:
            grown = (now - self._at) * limits.CONTROL_FRAMES_PER_S
            self._left = min(float(limits.MAX_CONTROL_FRAMES), self._left + grown)
            self._at = now
            if self._left < 1:
                return False
        self._left -= 1
        return True
