"""How many strangers may be half open at a listener, and which of them must make room.

Where it sits: used by the listeners of `zmq_listener` and `tcp`; pure bookkeeping, the time is an argument.

A connection is half open from its accept until its owner says `connection.authenticated = True`. There are three kinds.
Those that have *spoken* are in their handshake, and are never pushed out: a flood must not be able to evict an honest
peer. Those that the owner has refused and is *closing* only linger for a last word: they make room first. Those still
*silent* cost a stranger one SYN each; an honest peer speaks within two round trips. So when the limit is reached, the
longest silent one makes room, provided that it had its grace; otherwise the newcomer is refused. And nobody may stay
silent for longer than a deadline. Two thousand idle connections then leave an honest peer able to connect at once,
which a plain limit would not.

What remains open to an attacker: to fill the limit with connections that do speak, each with a plausible first message,
again and again within the owner's handshake deadline. That costs the attacker work, and us a bounded amount.

Source: requirements.md D3 idea 9 (pre-authentication budget), CVE-2020-15166 (raw connects starved honest peers).
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

from rapini.transport.base import Connection, Options

__all__ = ["SPOKEN_BYTES", "HalfOpenGate"]

SPOKEN_BYTES: Final = 64
"""A stream has spoken when it has sent this much; the smallest ClientHello is larger. One byte a second is silence."""

C = TypeVar("C", bound=Connection)


class HalfOpenGate(Generic[C]):
    """The half-open connections of one listener.

    Args:
        options: Limit, grace and deadline.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._silent: dict[C, float] = {}  # accepted at; oldest first, as dicts keep their order
        self._spoken: set[C] = set()
        self._closing: dict[C, None] = {}

    def __len__(self) -> int:
        return len(self._silent) + len(self._spoken) + len(self._closing)

    def admit(self, connection: C, now: float) -> tuple[bool, C | None]:
        """Whether a newcomer may stay, and whom it pushes out (already forgotten here)."""
        pushed_out: C | None = None
        if len(self) >= self._options.max_half_open:
            pushed_out = next(iter(self._closing), None) or self._oldest_silent(now - self._options.silence_grace_s)
            if pushed_out is None:
                return False, None
            self.forget(pushed_out)
        self._silent[connection] = now
        return True, pushed_out

    def spoke(self, connection: C) -> None:
        """Its first message has arrived."""
        if self._silent.pop(connection, None) is not None:
            self._spoken.add(connection)

    def closing(self, connection: C) -> None:
        """Its owner refused it, and it lingers."""
        if connection in self:
            self.forget(connection)
            self._closing[connection] = None

    def forget(self, connection: C) -> None:
        """It is authenticated, or over."""
        self._silent.pop(connection, None)
        self._spoken.discard(connection)
        self._closing.pop(connection, None)

    def take_overdue(self, now: float) -> list[C]:
        """Those that have been silent for too long; they are forgotten here."""
        overdue: list[C] = []
        while (oldest := self._oldest_silent(now - self._options.first_message_timeout_s)) is not None:
            del self._silent[oldest]
            overdue.append(oldest)
        return overdue

    def next_timer(self) -> float | None:
        """When the longest silent one is overdue."""
        for since in self._silent.values():
            return since + self._options.first_message_timeout_s
        return None

    def __contains__(self, connection: C) -> bool:
        return connection in self._silent or connection in self._spoken

    def members(self) -> list[C]:
        """Everybody who may still come in, silent ones first."""
        return [*self._silent, *self._spoken]

    def _oldest_silent(self, not_after: float) -> C | None:
        for connection, since in self._silent.items():
            return connection if since <= not_after else None
        return None
