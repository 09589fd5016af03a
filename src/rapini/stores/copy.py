"""A clone's table: replaced by a snapshot when that is complete, moved on by deltas, one version each. Sans-IO.

Whatever a master sends is checked before it is in the table: values decode, versions follow each other without a gap, a
snapshot has as many entries as were announced and all of one version, and an entry that is deleted was there. The last
is no check of the peer alone: it notices that two replicas have parted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rapini.errors import DecodeError
from rapini.stores.messages import Change, Chunk
from rapini.stores.operations import Cause
from rapini.stores.outcomes import EntryChanged
from rapini.stores.values import Key, check_blob_untrusted, key_bytes

__all__ = ["FullError", "TableCopy"]

_GONE: Final = frozenset({int(Cause.DELETE), int(Cause.EXPIRE), int(Cause.CLEAR)})


class FullError(Exception):
    """The master's table does not fit; never leaves this package."""


class TableCopy:
    """Entries and their version.

    Args:
        max_entries: Entries, at most.
        max_bytes: Keys and values, at most.
    """

    def __init__(self, *, max_entries: int, max_bytes: int) -> None:
        self.blobs: dict[Key, bytes] = {}
        self.version = 0
        self.size_bytes = 0
        self.changes: list[EntryChanged] = []
        """What happened to entries, for the owner to take."""
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._staged: dict[Key, bytes] = {}
        self._staged_bytes = 0
        self._staged_version = 0
        self._staged_count = 0

    # -- a snapshot ----------------------------------------------------------------------------------------------

    def stage(self, version: int, count: int) -> None:
        """A snapshot of so many entries begins."""
        self.drop_staged()
        self._staged_version, self._staged_count = version, count
        if count > self._max_entries:
            raise FullError(f"{count} entries; at most {self._max_entries} here")

    def drop_staged(self) -> None:
        """What came of an unfinished snapshot is of no use."""
        self._staged = {}
        self._staged_bytes = 0

    def add_staged(self, chunk: Chunk) -> None:
        """The next part.

        Raises:
            DecodeError: `bad_snapshot` or `bad_value`.
            FullError: It does not fit.
        """
        if chunk.version != self._staged_version:
            raise DecodeError("bad_snapshot", f"a part of version {chunk.version} in {self._staged_version}")
        staged = self._staged
        size = self._staged_bytes
        for entry in chunk.entries:
            key, blob = entry.key, entry.blob
            check_blob_untrusted(blob)
            staged[key] = blob
            size += len(blob) + (len(key) if type(key) is str and key.isascii() else key_bytes(key))
        self._staged_bytes = size
        if size > self._max_bytes:
            raise FullError(f"{size} bytes; at most {self._max_bytes} here")
        if len(staged) > self._staged_count or (chunk.is_last and len(staged) != self._staged_count):
            raise DecodeError("bad_snapshot", f"{len(staged)} entries where {self._staged_count} were announced")
        if not chunk.is_last and not chunk.entries:
            raise DecodeError("bad_snapshot", "an empty part")

    def replace(self, *, wants_changes: bool) -> int:
        """Put the complete snapshot in the table's place.

        Returns:
            Entries that are not as they were.
        """
        old, new, version = self.blobs, self._staged, self._staged_version
        gone = [key for key in old if key not in new]
        came = [(key, blob) for key, blob in new.items() if old.get(key) != blob]
        if wants_changes:
            self.changes += [EntryChanged(key, True, False, version, Cause.SYNC, "", None) for key in gone]
            self.changes += [EntryChanged(key, key in old, True, version, Cause.SYNC, "", blob) for key, blob in came]
        self.blobs, self.size_bytes, self.version = new, self._staged_bytes, version
        self.drop_staged()
        return len(gone) + len(came)

    # -- deltas --------------------------------------------------------------------------------------------------

    def apply(self, first_version: int, changes: Sequence[Change], *, wants_changes: bool) -> None:
        """Changes, the first of which leads to `first_version`.

        Raises:
            DecodeError: `bad_version`, `bad_delta` or `bad_value`; what was before the fault is applied.
            FullError: It does not fit.
        """
        if first_version != self.version + 1:
            raise DecodeError("bad_version", f"deltas from {first_version} on where we have {self.version}")
        for change in changes:
            self._apply(change, wants_changes)

    def _apply(self, change: Change, wants_changes: bool) -> None:
        key, blob, cause = change.key, change.blob, change.cause
        if (blob is None) != (cause in _GONE) or (key is None) != (cause == Cause.CLEAR) or cause == Cause.TOUCH:
            raise DecodeError("bad_delta", f"a change of cause {cause} cannot be like this")
        if key is None:
            self._clear(change, wants_changes)
            return
        old = self.blobs.get(key)
        if blob is None:
            if old is None:
                raise DecodeError("bad_delta", "an entry is taken out that is not here")
            del self.blobs[key]
            self.size_bytes -= len(old) + key_bytes(key)
        else:
            check_blob_untrusted(blob)
            self.blobs[key] = blob
            self.size_bytes += len(blob) + key_bytes(key) if old is None else len(blob) - len(old)
            if self.size_bytes > self._max_bytes or len(self.blobs) > self._max_entries:
                self._put_back(key, old, blob)
        self.version += 1
        if wants_changes:
            changed = EntryChanged(key, old is not None, blob is not None, self.version, Cause(cause), change.by, blob)
            self.changes.append(changed)

    def _put_back(self, key: Key, old: bytes | None, blob: bytes) -> None:
        if old is None:
            del self.blobs[key]
            self.size_bytes -= len(blob) + key_bytes(key)
        else:
            self.blobs[key] = old
            self.size_bytes += len(old) - len(blob)
        raise FullError(f"more than {self._max_entries} entries or {self._max_bytes} bytes")

    def _clear(self, change: Change, wants_changes: bool) -> None:
        self.version += 1
        if wants_changes:
            self.changes += [
                EntryChanged(key, True, False, self.version, Cause.CLEAR, change.by, None) for key in self.blobs
            ]
        self.blobs = {}
        self.size_bytes = 0
