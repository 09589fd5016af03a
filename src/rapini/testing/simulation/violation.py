"""What is raised when a promise is broken."""

from __future__ import annotations

__all__ = ["Violation"]


class Violation(BaseException):
    """An invariant does not hold. No `Exception`: a node that is watched contains those, and goes on.

    Args:
        invariant: Its name.
        detail: What was seen.
    """

    def __init__(self, invariant: str, detail: str) -> None:
        super().__init__(f"{invariant}: {detail}")
        self.invariant = invariant
        self.detail = detail
