"""When to dial again: jittered exponential back-off, and the three policies of reconnecting. Sans-IO.

0MQ's own reconnecting is off (architecture 5a); every attempt is a new connection of ours. The pause doubles from
`first_s` to `max_s` and is drawn uniformly from its upper half ("equal jitter"), so that a restarted manager is not met
by all its sensors at once. A rejection that another try soon will not mend waits `rejected_s`, or what the peer asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from rapini import defaults

MAX_RETRY_AFTER_S = 300.0
"""What a peer may make us wait."""

__all__ = ["Backoff", "Reconnect", "Redial"]


class Reconnect(Enum):
    """What to do when a dialled connection ends."""

    AUTO = "auto"
    """Dial again, for ever."""
    MANUAL = "manual"
    """Wait for `Node.reconnect`."""
    NEVER = "never"
    """The endpoint is done with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Pauses between attempts, in seconds."""

    first_s: float = defaults.BACKOFF_FIRST_S
    max_s: float = defaults.BACKOFF_MAX_S
    rejected_s: float = defaults.BACKOFF_REJECTED_S


class Redial:
    """One endpoint's attempts.

    Args:
        backoff: The pauses.
        policy: Whether to try again at all.
        random: Draws from [0, 1); an argument, so that tests and simulations decide.
    """

    def __init__(self, *, backoff: Backoff, policy: Reconnect, random: Callable[[], float]) -> None:
        self.policy = policy
        self.attempts = 0
        """Attempts since the last session that came up."""
        self._backoff = backoff
        self._random = random

    def succeeded(self) -> None:
        """A session is up: the next pause is the first again."""
        self.attempts = 0

    def next_attempt_at(self, now: float, *, was_rejected: bool = False, retry_after_s: float = 0.0) -> float | None:
        """When to dial again after an attempt or a session ended, or `None` for not by ourselves."""
        self.attempts += 1
        if self.policy is not Reconnect.AUTO:
            return None
        ceiling = min(self._backoff.max_s, self._backoff.first_s * float(2 ** min(self.attempts - 1, 30)))
        pause_s = ceiling * (0.5 + self._random() / 2)
        if was_rejected:  # at least what was asked for, jittered upwards
            asked_s = min(retry_after_s or self._backoff.rejected_s, MAX_RETRY_AFTER_S)
            pause_s = max(pause_s, asked_s * (1 + self._random() / 4))
        return now + pause_s
