"""What a spool must never forget beside its records: who it is, who is owed what, and where it begins.

On `files`. The state is small and changes seldom; it is kept twice, in `state.a` and `state.b`, each replaced whole and
in this order, so that one damaged file costs nothing. Each is one line with the CRC-32 of the rest, and JSON, for
whoever has to look.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final
from zlib import crc32

import msgspec

from rapini.storage.files import FileSystem, read_file, replace_file

__all__ = ["STATE_NAMES", "ConsumerState", "State", "load_state", "save_state"]

FORMAT: Final = 1
STATE_NAMES: Final = ("state.a", "state.b")
_MAX_BYTES: Final = 64 * 1024 * 1024


class ConsumerState(msgspec.Struct, frozen=True, kw_only=True):
    """A subscriber that is owed events."""

    position: int
    """Sequence number of the first event it has not acknowledged."""
    prefixes: tuple[str, ...]
    """The topics it is owed."""
    last_seen: float
    """When it was last set, in seconds of the caller's wall clock. Only reported: nothing here depends on it."""


class State(msgspec.Struct, kw_only=True):
    """One spool's state, as it is on disk."""

    format: int = FORMAT
    generation: int = 0
    """Counts the saves; of two good copies the later one is taken."""
    stream_id: bytes
    marker: bytes
    oldest: int = 0
    """Everything before it was removed on purpose."""
    next_sequence: int = 0
    """Everything before it was durable when the state was saved: what is missing is damage."""
    consumers_lost: bool = False
    """The state had to be made anew: there may be consumers that are not in it."""
    consumers: dict[str, ConsumerState] = {}


def _decode(data: bytes) -> State | None:
    check, _, text = data.partition(b"\n")
    if check != b"%08x" % crc32(text):
        return None
    try:
        return msgspec.json.decode(text, type=State)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def load_state(files: FileSystem, folder: Path) -> tuple[State | None, list[tuple[Path, int]]]:
    """The newest good copy, if there is one, and the damaged copies with their sizes in bytes."""
    best: State | None = None
    damaged: list[tuple[Path, int]] = []
    for name in STATE_NAMES:
        path = folder / name
        try:
            data = read_file(files, path, _MAX_BYTES)
        except OSError:
            damaged.append((path, 0))
            continue
        if data is None:
            continue
        state = _decode(data)
        if state is None:
            damaged.append((path, len(data)))
        elif best is None or state.generation > best.generation:
            best = state
    return best, damaged


def save_state(files: FileSystem, folder: Path, state: State, *, copies: int = 2) -> None:
    """Write both copies; when it returns, they are on the disk.

    Args:
        files: The file system.
        folder: The spool's.
        state: What to save; its generation is counted up.
        copies: 1 spares an fsync where the copy of before would do as well.
    """
    state.generation += 1
    text = msgspec.json.encode(state)
    data = b"%08x\n%b" % (crc32(text), text)
    for name in STATE_NAMES[:copies]:
        replace_file(files, folder / name, data)
    files.sync_folder(folder)
