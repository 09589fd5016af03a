"""The seam to where reliable events spill that memory has no room for. `rapini.storage.spill` has the files."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Spill"]


class Spill(Protocol):
    """Where batches go that memory has no room for; bounded. Implemented in `rapini.storage`."""

    def has_room(self, size: int) -> bool:
        """Whether so many bytes would be taken."""

    def put(self, data: bytes) -> int | None:
        """Keep some bytes; returns what `get` and `discard` want, or `None` if that failed."""

    def get(self, token: int) -> bytes:
        """Read them back."""

    def discard(self, token: int) -> None:
        """They are not needed any more."""
