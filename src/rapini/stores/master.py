"""A store's master: it alone changes the table, counts the versions and decides what has expired. Sans-IO.

The contract is that of every machine here: bytes, intents and the time go in, bytes and outcomes come out. What one
turn of the owner changed is one *batch*: `flush` has the backend commit it, encodes it once for all clones, and only
then do deltas and replies leave, so nothing is ever seen elsewhere that a crash could undo.

What goes out is pulled: `next_chunk(peer)` gives one message at a time, while the peer's link has room. A follower is a
version, not a queue: from that version the log gives what comes next, and where the log no longer reaches, a snapshot
begins. See `rapini.stores.messages` for what is said, `rapini.stores.writers` for how a repeated write is recognised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rapini import defaults, limits
from rapini.errors import DecodeError, StoreError
from rapini.stores.backend import Backend, MemoryBackend, Snapshot
from rapini.stores.expiry import Expiry
from rapini.stores.followers import Follower
from rapini.stores.log import DeltaLog
from rapini.stores.messages import (
    Change,
    Follow,
    Following,
    NoStore,
    Offer,
    Reply,
    Unfollow,
    Write,
    Writes,
    decode_from_clone_untrusted,
)
from rapini.stores.operations import Cause, Operation, evaluate, is_expiry
from rapini.stores.outcomes import BackendFailed, EntryChanged, MasterOutcome, ProtocolViolation, WriteResult
from rapini.stores.values import Key, check_blob_untrusted, check_key, decode_value, encode_value, key_bytes
from rapini.stores.writers import Writers

__all__ = ["MasterStore"]

_MAX_TURN_CHANGES = 4096
"""Changes after which a turn is flushed though the owner has not said so: bounds what waits."""
_RETRY_S = 1.0
_PUT, _PUT_UNIQUE = int(Cause.PUT), int(Cause.PUT_UNIQUE)
_NO_ARGUMENT = frozenset({int(Cause.DELETE), int(Cause.CLEAR), int(Cause.TOUCH)})


class MasterStore:
    """The table itself. Thread: the owner's.

    After every call drain `next_chunk` of each peer that has room, `outcomes()`, and re-arm `next_timer()`.

    Args:
        name: The store's name, for people.
        run: 16 fresh random bytes: the incarnation of this start.
        may_write: Asked for every write of a peer, with its name; only `True` lets it happen. An exception refuses.
        now: Monotonic seconds.
        wall_now: Seconds since 1970, for expiries that outlive the process.
        backend: Where the table is kept; in memory by default.
        max_entries: Entries, at most.
        max_bytes: Keys and values, at most.
        log_bytes: Encoded deltas kept for clones that lag.
        log_changes: The same as a number.
        wants_changes: Report `EntryChanged` outcomes.

    Raises:
        StoreError: The backend cannot be read.
    """

    def __init__(
        self,
        name: str,
        *,
        run: bytes,
        may_write: Callable[[str], bool],
        now: float,
        wall_now: float,
        backend: Backend | None = None,
        max_entries: int = defaults.STORE_MAX_ENTRIES,
        max_bytes: int = defaults.STORE_MAX_BYTES,
        log_bytes: int = defaults.STORE_LOG_BYTES,
        log_changes: int = defaults.STORE_LOG_CHANGES,
        wants_changes: bool = False,
    ) -> None:
        if len(run) != 16:
            raise ValueError("a run is 16 bytes")
        self.name = name
        self.failures = 0
        """How often a turn was undone."""
        self.run = run
        self.wants_changes = wants_changes
        self.backend: Backend = backend if backend is not None else MemoryBackend()
        self._may_write = may_write
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._wall_offset = wall_now - now
        self.version, self._runs = self.backend.load()
        self._runs = [*self._runs, (run, self.version)][-limits.MAX_STORE_RUNS :]
        self.backend.add_run(run, self.version)
        self.backend.commit(self.version)
        self.log = DeltaLog(self.version, max_bytes=log_bytes, max_changes=log_changes)
        self.writers = Writers(self.backend)
        self._expiry = Expiry()
        self._load_deadlines()
        self._retry_at = 0.0
        self._links: dict[str, Follower] = {}
        self._refused: set[str] = set()
        self._pending: list[Change] = []
        self._is_dirty = False
        self._turn_changes: list[EntryChanged] = []
        self._turn_replies: list[tuple[Follower, Reply]] = []
        self._outcomes: list[MasterOutcome] = []

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

    # -- a turn's end --------------------------------------------------------------------------------------------

    def flush(self) -> bool:
        """Commit what this turn changed, and let deltas and replies go. False: it failed, and is undone."""
        if not (self._pending or self._is_dirty or self._turn_replies):
            return True
        try:
            self.backend.commit(self.version)
        except StoreError as exc:
            self._undo(exc)
            return False
        self._is_dirty = False
        for peer in self._refused & self._links.keys():
            self._links[peer].say(Offer())
        self._refused.clear()
        if self._pending:
            self.log.append(self._pending)
            self._pending = []
        if self._turn_changes:
            self._outcomes += self._turn_changes
            self._turn_changes = []
        self._release_replies()
        return True

    def _release_replies(self) -> None:
        for link, reply in self._turn_replies:
            if link.writer is not None:
                link.replies.append(reply)
        self._turn_replies.clear()

    def _undo(self, exc: StoreError) -> None:
        lost = len(self._pending)
        self.failures += 1
        self.version -= lost
        self._pending = []
        self._turn_changes = []
        self._is_dirty = False
        self.backend.rollback()
        self._outcomes.append(BackendFailed(code=exc.code, detail=exc.detail, lost_changes=lost))
        self._turn_replies = [
            (link, Reply(reply.number, "store_failed", self.version)) for link, reply in self._turn_replies
        ]
        self._release_replies()
        try:
            self.writers.load()
            self._load_deadlines()
        except StoreError as again:
            self._outcomes.append(BackendFailed(code=again.code, detail=again.detail, lost_changes=0))
        for link in self._links.values():
            if link.writer is not None:
                link.writer = self.writers.find(link.writer.id) or link.writer

    def _load_deadlines(self) -> None:
        self._expiry.clear()
        for key, wall in self.backend.deadlines():
            self._expiry.set(key, wall - self._wall_offset)

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

    # -- links ---------------------------------------------------------------------------------------------------

    def link_up(self, peer: str, now: float) -> None:
        """A link to this peer begins: before its `Ready`, or, for a store made later, at once."""
        self.link_lost(peer, now)
        link = self._links[peer] = Follower(peer)
        link.say(Offer())

    def link_lost(self, peer: str, now: float) -> None:
        """The link is over; what was under way on it may be lost."""
        link = self._links.pop(peer, None)
        if link is not None:
            link.end_link()

    @property
    def followers(self) -> list[str]:
        """The peers that follow now."""
        return [peer for peer, link in self._links.items() if link.writer is not None]

    def outcomes(self) -> list[MasterOutcome]:
        """Drain what happened."""
        drained, self._outcomes = self._outcomes, []
        return drained

    def next_chunk(self, peer: str) -> bytes | None:
        """The next message to this peer, at most `limits.MAX_STORE_MESSAGE_BYTES`; `None`: nothing for now.

        Call it while the peer's link has room; what was given counts as sent.
        """
        self.flush()
        link = self._links.get(peer)
        if link is None:
            return None
        try:
            if link.needs_snapshot(self.log):
                self._begin_snapshot(link, is_continued=True, is_known=True)
            return link.next_message(self.log)
        except StoreError as exc:
            self._outcomes.append(BackendFailed(code=exc.code, detail=exc.detail, lost_changes=0))
            self._refuse(link)
            return link.next_message(self.log)

    def data_to_send(self) -> list[tuple[str, bytes]]:
        """Drain everything for everybody, for links without bounds (tests)."""
        data: list[tuple[str, bytes]] = []
        for peer in list(self._links):
            while (message := self.next_chunk(peer)) is not None:
                data.append((peer, message))
        return data

    def receive(self, peer: str, data: bytes | memoryview, now: float) -> None:
        """A message from this peer; its fault becomes a `ProtocolViolation`."""
        link = self._links.get(peer)
        if link is None or link.is_broken:
            return
        try:
            message = decode_from_clone_untrusted(data)
            match message:
                case Follow():
                    self._follow(link, message, now)
                case Writes():
                    self._write_all(link, message, now)
                case Unfollow():
                    link.end()
        except DecodeError as exc:
            link.is_broken = True
            link.end_link()
            self._outcomes.append(ProtocolViolation(peer=peer, code=exc.code, detail=exc.detail))

    def _follow(self, link: Follower, message: Follow, now: float) -> None:
        if link.writer is not None:
            raise DecodeError("bad_state", "a second Follow on one link")
        link.count_follow(now)
        try:
            writer, is_known = self.writers.greet((link.peer, message.writer))
            self._is_dirty = True
            if not self.flush():
                self._refuse(link)
                return
            link.writer = writer
            is_continued, is_ours = self._judge(message.run, message.version)
            if is_ours and self.log.reaches(message.version):
                link.begin(writer, message.version, None)
                link.say(Following(self.run, self.version, False, 0, True, is_known))
            else:
                self._begin_snapshot(link, is_continued=is_continued, is_known=is_known)
        except StoreError as exc:
            self._undo(exc)
            self._refuse(link)

    def _refuse(self, link: Follower) -> None:
        """The backend fails: as if there were no store here, until something could be committed again."""
        link.end()
        link.say(NoStore())
        self._refused.add(link.peer)

    def _judge(self, run: bytes, version: int) -> tuple[bool, bool]:
        """Whether a run is a part of our history, and whether this version of it is."""
        ends = [start for _, start in self._runs[1:]] + [self.version]
        for (known, start), end in zip(self._runs, ends, strict=True):
            if known == run:
                return True, start <= version <= end
        return False, False

    def _begin_snapshot(self, link: Follower, *, is_continued: bool, is_known: bool) -> None:
        if link.writer is None:
            return
        snapshot = self.backend.snapshot()
        link.begin(link.writer, self.version, snapshot)
        link.say(Following(self.run, self.version, True, snapshot.count, is_continued, is_known))

    def _write_all(self, link: Follower, message: Writes, now: float) -> None:
        writer = link.writer
        if writer is None:
            raise DecodeError("bad_state", "Writes before Follow")
        link.check_reading()
        try:
            self.writers.confirm(writer, message.settled_below)
        except StoreError as exc:
            self._undo(exc)
        self._is_dirty = True
        for write in message.writes:
            self._write(link, write, now)

    def _write(self, link: Follower, write: Write, now: float) -> None:
        writer = link.writer
        if writer is None:
            return
        number, operation = write.number, write.operation
        if number <= writer.last:
            again = writer.replies.get(number) or Reply(number, "in_doubt", self.version)
            self._turn_replies.append((link, again))
            return
        if len(writer.replies) >= limits.MAX_PENDING_WRITES:
            raise DecodeError("too_many_writes", f"more than {limits.MAX_PENDING_WRITES} writes without confirmation")
        if operation.kind not in _NO_ARGUMENT:
            check_blob_untrusted(operation.blob)
        if self._is_allowed(link.peer):
            result = self.apply(operation, now, link.peer)
        else:
            result = WriteResult("not_authorised", self.version)
        reply = Reply(number, result.code, result.version, encode_value(result.value))
        try:
            self.writers.answered(link.writer or writer, reply)
        except StoreError as exc:
            self._undo(exc)
            reply = Reply(number, "store_failed", self.version)
        self._turn_replies.append((link, reply))

    def _is_allowed(self, peer: str) -> bool:
        try:
            return self._may_write(peer) is True
        except Exception:  # noqa: BLE001 - whatever a policy raises, it has not said yes
            return False
