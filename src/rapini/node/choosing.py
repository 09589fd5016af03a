"""Whom to ask, of several peers that could: in turn, or always the same one for a key.

*Rendezvous hashing* (Thaler and Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM Transactions
on Networking 6(1), 1998): each peer draws a number from its name and the key, the highest wins. Everybody who knows the
same peers chooses the same one without talking; when a peer goes, only its keys move, and to all others alike.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable

__all__ = ["Turns", "rendezvous"]


class Turns:
    """Round robin by role, in the order of names; whoever comes or goes does not upset the turn of the others."""

    def __init__(self) -> None:
        self._last: dict[str, str] = {}

    def next(self, role: str, names: Iterable[str]) -> str:
        """Who is next of these (at least one)."""
        there = sorted(names)
        name = there[bisect_right(there, self._last.get(role, "")) % len(there)]
        self._last[role] = name
        return name


def rendezvous(key: str | bytes, names: Iterable[str]) -> str:
    """Whose key this is, of these (at least one)."""
    data = key.encode() if isinstance(key, str) else key
    head = len(data).to_bytes(8, "big") + data
    return max(names, key=lambda name: (hashlib.blake2b(head + name.encode(), digest_size=8).digest(), name))
