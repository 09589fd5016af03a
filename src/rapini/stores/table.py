"""A master's table: operations carried out one version at a time, and what they changed in this turn. Sans-IO.

The lower half of `MasterStore`, which adds the turn's end (commit, undo) and the links. Everything here may be called
many times in a turn; what it changed waits in `_pending` until `flush`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Final

from rapini import limits
from rapini.errors import StoreError
from rapini.stores.backend import Backend, Snapshot
from rapini.stores.expiry import Expiry
from rapini.stores.messages import Change
from rapini.stores.operations import Cause, Operation, evaluate, is_expiry
from rapini.stores.outcomes import EntryChanged, WriteResult
from rapini.stores.values import Key, check_key, decode_value, encode_value, key_bytes

__all__ = ["MasterTable"]

_MAX_TURN_CHANGES: Final = 4096
"""Changes after which a turn is flushed though the owner has not said so: bounds what waits."""
_RETRY_S: Final = 1.0
_PUT: Final = int(Cause.PUT)
_PUT_UNIQUE: Final = int(Cause.PUT_UNIQUE)


class MasterTable(ABC):
    """The table and its version; `MasterStore` says what the arguments are. Thread: the owner's."""

    def __init__(
        self,
        backend: Backend,
        *,
        now: float,
        wall_now: float,
        max_entries: int,
        max_bytes: int,
        wants_changes: bool,
    ) -> None:
        self.backend = backend
        self.wants_changes = wants_changes
        self.version = 0
        """Changes so far."""
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._wall_offset = wall_now - now
        self._expiry = Expiry()
        self._retry_at = 0.0
        self._pending: list[Change] = []
        self._is_dirty = False
        """Something else than entries is to be committed."""
        self._turn_changes: list[EntryChanged] = []

    @abstractmethod
    def flush(self) -> bool:
        """End the turn."""

    @abstractmethod
    def _undo(self, exc: StoreError) -> None:
        """The backend failed: end the turn as if it had not been."""

    # -- reading -------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Entries, those included that have expired and were not looked at since: call `handle_timer` first."""
        return len(self.backend)

    def get(self, key: Key, now: float, default: object = None) -> object:
        """An entry's value, a fresh copy.

        Raises:
            StoreError: The backend cannot be read.
        """
        if now >= self._expiry.due_at:
            self.handle_timer(now)
        blob = self.backend.get(key)
        return default if blob is None else decode_value(blob)

    def contains(self, key: Key, now: float) -> bool:
        """Whether the entry is there."""
        if now >= self._expiry.due_at:
            self.handle_timer(now)
        return self.backend.get(key) is not None

    def scan(self, now: float, prefix: Key | None = None) -> Snapshot:
        """Read all entries as they are now, or those whose key begins with `prefix`, in parts; `close` it after use."""
        self.handle_timer(now)
        self.flush()
        return self.backend.snapshot(prefix)

    # -- writing -------------------------------------------------------------------------------------------------

    def put(self, key: Key, value: object, now: float, expires_in_s: float | None = None) -> WriteResult:
        """Put an entry, whatever was there."""
        return self._put(_PUT, key, value, now, expires_in_s)

    def put_unique(self, key: Key, value: object, now: float, expires_in_s: float | None = None) -> WriteResult:
        """Put an entry if there is none: `value` of the result says whether this call won, the code `exists` if not."""
        return self._put(_PUT_UNIQUE, key, value, now, expires_in_s)

    def _put(self, kind: int, key: Key, value: object, now: float, expires_in_s: float | None) -> WriteResult:
        """What `apply` does for these two, without the detours: most of a monitor's writes are such."""
        if now >= self._expiry.due_at:
            self.handle_timer(now)
        is_plain = type(key) is str and len(key) <= 255 and key.isascii()
        backend = self.backend
        try:
            if not is_plain:
                check_key(key)
            blob = encode_value(value)
        except StoreError as exc:
            return WriteResult(exc.code, self.version)
        if expires_in_s is not None:
            return self.apply(Operation(kind, key, blob, expires_in_s), now)
        try:
            old = backend.get(key)
            if old is not None and kind == _PUT_UNIQUE:
                return WriteResult("exists", self.version, False)
            if not self._has_room(key, blob, old):
                return WriteResult("store_full", self.version)
            backend.set(key, blob)
            self.version += 1
            self._pending.append(Change(kind, key, blob))
            if self.wants_changes:
                self._tell(kind, key, blob, "", was_present=old is not None)
            if len(self._expiry):
                self._set_deadline(kind, key, None, now)
        except StoreError as exc:
            self._undo(exc)
            return WriteResult("store_failed", self.version)
        if len(self._pending) >= _MAX_TURN_CHANGES:
            self.flush()
        return WriteResult("ok", self.version, True if kind == _PUT_UNIQUE else None)

    def put_unique_many(
        self, items: Iterable[tuple[Key, object]], now: float, expires_in_s: float | None = None
    ) -> list[WriteResult]:
        """`put_unique` for each; each has its own result."""
        return [self.put_unique(key, value, now, expires_in_s) for key, value in items]

    def apply(self, operation: Operation, now: float, by: str = "") -> WriteResult:
        """Carry out an operation; its outcome is final once `flush` was called and reported no `BackendFailed`."""
        if now >= self._expiry.due_at:
            self.handle_timer(now)
        key, kind = operation.key, operation.kind
        try:
            if kind == Cause.CLEAR:
                return self._clear(by)
            if key is None:
                return WriteResult("bad_key", self.version)
            expires_in_s = operation.expires_in_s
            if expires_in_s is not None and not is_expiry(expires_in_s):
                return WriteResult("bad_expiry", self.version)
            backend = self.backend
            old = backend.get(key)
            verdict = evaluate(kind, old, operation.blob)
            if verdict.code != "ok":
                return WriteResult(verdict.code, self.version, verdict.result)
            if verdict.is_change:
                blob = verdict.blob
                if blob is None:
                    backend.delete(key)
                elif not self._has_room(key, blob, old):
                    return WriteResult("store_full", self.version)
                else:
                    backend.set(key, blob)
                self._note(kind, key, blob, by, was_present=old is not None)
            self._set_deadline(kind, key, expires_in_s, now)
        except StoreError as exc:
            self._undo(exc)
            return WriteResult("store_failed", self.version)
        if len(self._pending) >= _MAX_TURN_CHANGES:
            self.flush()
        return WriteResult("ok", self.version, verdict.result)

    def _has_room(self, key: Key, blob: bytes, old: bytes | None) -> bool:
        backend = self.backend
        if old is not None:
            return len(blob) <= len(old) or backend.size_bytes + len(blob) - len(old) <= self._max_bytes
        size = len(blob) + key_bytes(key)
        return len(backend) < self._max_entries and backend.size_bytes + size <= self._max_bytes

    def _note(self, cause: int, key: Key | None, blob: bytes | None, by: str, *, was_present: bool) -> None:
        self.version += 1
        self._pending.append(Change(cause, key, blob, by))
        if self.wants_changes and key is not None:
            self._tell(cause, key, blob, by, was_present=was_present)

    def _tell(self, cause: int, key: Key, blob: bytes | None, by: str, *, was_present: bool) -> None:
        changed = EntryChanged(key, was_present, blob is not None, self.version, Cause(cause), by, blob)
        self._turn_changes.append(changed)

    def _set_deadline(self, kind: int, key: Key, expires_in_s: float | None, now: float) -> None:
        """PUT, PUT_UNIQUE and TOUCH set what they say, DELETE takes it away, the others change it only if they say."""
        if expires_in_s is None or kind == Cause.DELETE:
            if not len(self._expiry) or kind in (Cause.INCREMENT, Cause.APPEND, Cause.ADD, Cause.REMOVE):
                return
            deadline = None
        else:
            deadline = now + expires_in_s
        if self._expiry.set(key, deadline):
            self.backend.set_deadline(key, None if deadline is None else deadline + self._wall_offset)
            self._is_dirty = True

    def _clear(self, by: str) -> WriteResult:
        count = len(self.backend)
        if count:
            keys = []
            if self.wants_changes:
                self.flush()  # a backend's snapshot shows what is committed
                snapshot = self.backend.snapshot()
                while part := snapshot.read(limits.MAX_STORE_MESSAGE_BYTES, 0):
                    keys += [key for key, _ in part]
                snapshot.close()
            self.backend.clear()
            self._expiry.clear()
            self._note(Cause.CLEAR, None, None, by, was_present=True)
            self._turn_changes += [EntryChanged(key, True, False, self.version, Cause.CLEAR, by, None) for key in keys]
        return WriteResult("ok", self.version, count)

    # -- time ----------------------------------------------------------------------------------------------------

    def next_timer(self) -> float | None:
        """When the next entry expires, in monotonic seconds."""
        due = self._expiry.due_at
        return None if due == float("inf") else max(due, self._retry_at)

    def handle_timer(self, now: float) -> None:
        """Take out what has expired."""
        if now < self._expiry.due_at or now < self._retry_at:
            return
        try:
            for key in self._expiry.expired(now):
                self.backend.delete(key)
                self._note(Cause.EXPIRE, key, None, "", was_present=True)
        except StoreError as exc:
            self._undo(exc)
            self._retry_at = now + _RETRY_S

    def _load_deadlines(self) -> None:
        self._expiry.clear()
        for key, wall in self.backend.deadlines():
            self._expiry.set(key, wall - self._wall_offset)
