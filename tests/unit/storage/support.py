"""What the tests of this folder share."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Literal

from rapini.storage import FileSystem, Hole, Record, Spool

__all__ = ["FOLDER", "MARKER", "covered", "entropy", "open_spool", "read_all"]

FOLDER = Path("spool")
MARKER = b"\xf0MARKER\x0f"


def entropy(number: int = 1) -> bytes:
    """A stream id that says its number, and the marker."""
    return number.to_bytes(16, "big") + MARKER


def open_spool(
    files: FileSystem,
    *,
    folder: Path = FOLDER,
    max_bytes: int = 1 << 20,
    segment_bytes: int = 1 << 14,
    fsync: Literal["group", "always", "never"] = "group",
) -> Spool:
    """A small spool."""
    return Spool.open(
        folder, max_bytes=max_bytes, segment_bytes=segment_bytes, fsync=fsync, files=files, entropy=entropy()
    )


def read_all(
    spool: Spool, position: int = 0, *, prefixes: tuple[str, ...] = ("",), max_bytes: int = 1 << 20
) -> list[Record | Hole]:
    """Everything from `position` to the synced end, checking that reading gets on."""
    items: list[Record | Hole] = []
    while position < spool.synced_sequence:
        found, reached = spool.read(position, prefixes=prefixes, max_bytes=max_bytes)
        assert reached > position
        items += found
        position = reached
    return items


def covered(items: list[Record | Hole], start: int, end: int) -> bool:
    """Whether records and holes are in order and cover every number from `start` to `end`, each once."""
    edges = [(item.first_sequence, item.first_sequence + item.count) for item in items]
    joined = all(before[1] == after[0] for before, after in itertools.pairwise(edges))
    return joined and (edges[0][0], edges[-1][1]) == (start, end) if edges else start == end
