"""What becomes of peers whose queues are full: the seam between `publisher` and `peers`."""

from __future__ import annotations

from typing import Protocol

from rapini.node.sessions import Session

__all__ = ["Consequences"]


class Consequences(Protocol):
    """What becomes of peers whose queues are full."""

    def release(self, session: Session, why: str) -> None:
        """End the lease of a peer that is away."""

    def disconnect(self, session: Session, code: str, detail: str, now: float) -> None:
        """End the connection of one that is here."""
