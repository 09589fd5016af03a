"""The endpoints that a node dials: one attempt at a time each, and when the next is due.

WAITING -> RESOLVING -> CONNECTING -> UP -> (ended) WAITING …
                                   -> STANDBY   the peer is connected already, by another way
                                   -> DONE      the policy says no more
"""

from __future__ import annotations

import enum

from rapini.session.link import LinkClosed
from rapini.session.redial import Redial
from rapini.transport import Endpoint
from rapini.transport.base import Address

__all__ = ["Dial", "DialState", "NETWORK_CODES"]

NETWORK_CODES = frozenset({"refused", "timeout", "unreachable", "cannot_resolve", "connect_failed", "closed"})
"""Failures that may mend themselves: whoever waits for a connection keeps waiting."""


class DialState(enum.Enum):
    """Where a dial stands."""

    WAITING = "waiting"
    RESOLVING = "resolving"
    CONNECTING = "connecting"
    UP = "up"
    STANDBY = "standby"
    DONE = "done"


class Dial:
    """One endpoint to reach. Touched under the node's lock."""

    def __init__(self, endpoint: Endpoint, redial: Redial) -> None:
        self.endpoint = endpoint
        self.redial = redial
        self.state = DialState.WAITING
        self.due_at: float | None = 0.0
        """When the next attempt is due, in monotonic seconds; `None` for not by itself."""
        self.addresses: list[Address] = []
        """Addresses of this attempt that have not been tried."""
        self.peer = ""
        """Who answered there last."""
        self.failure: tuple[str, str] | None = None
        """Code and text of the last failure since it was up."""
        self.closed: LinkClosed | None = None
        """How the last link ended, where one ended before it was up."""
        self.was_ever_up = False
        self.was_introduced = False
        """Whether it was told whom it reaches since it was last up: done at once only once."""
        self.reported = ""
        """The last code reported as `connecting`, so that a long outage is not a flood."""

    def came_up(self, peer: str) -> None:
        """A session is up over this dial."""
        self.state = DialState.UP
        self.peer = peer
        self.failure = None
        self.closed = None
        self.was_ever_up = True
        self.was_introduced = False
        self.reported = ""
        self.redial.succeeded()

    def ended(self, now: float, code: str, detail: str, closed: LinkClosed | None, *, was_rejected: bool) -> None:
        """An attempt failed, or a session over this dial ended."""
        self.failure = (code, detail)
        self.closed = closed
        retry_after_s = closed.retry_after_s if closed is not None else 0.0
        self.due_at = self.redial.next_attempt_at(now, was_rejected=was_rejected, retry_after_s=retry_after_s)
        self.state = DialState.WAITING if self.due_at is not None else DialState.DONE

    def stand_by(self, peer: str) -> None:
        """The peer is connected by another way: dial again when that ends."""
        self.state = DialState.STANDBY
        self.peer = peer
        self.due_at = None
        self.failure = None
        self.redial.succeeded()

    def wake(self, now: float) -> None:
        """Dial now, with a clean slate."""
        self.state = DialState.WAITING
        self.due_at = now
        self.failure = None
        self.closed = None

    def give_up(self) -> None:
        """Nobody wants it any more: a connection that comes about after all is ended."""
        self.state = DialState.DONE
        self.due_at = None
