"""A store's master: it alone changes the table, counts the versions and decides what has expired. Sans-IO.

The contract is that of every machine here: bytes, intents and the time go in, bytes and outcomes come out. What one
turn of the owner changed is one *batch*: `flush` has the backend commit it, encodes it once for all clones, and only
then do deltas and replies leave, so nothing is ever seen elsewhere that a crash could undo.

What goes out is pulled: `next_chunk(peer)` gives one message at a time, while the peer's link has room. A follower is a
version, not a queue: from that version the log gives what comes next, and where the log no longer reaches, a snapshot
begins. See `rapini.stores.messages` for what is said, `rapini.stores.writers` for how a repeated write is recognised.
"""

from __future__ import annotations

from collections.abc import Callable

from rapini import defaults, limits
from rapini.errors import DecodeError, StoreError
from rapini.stores.backend import Backend, MemoryBackend
from rapini.stores.followers import Follower
from rapini.stores.log import DeltaLog
from rapini.stores.messages import (
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
from rapini.stores.operations import Cause
from rapini.stores.outcomes import BackendFailed, MasterOutcome, ProtocolViolation, WriteResult
from rapini.stores.table import MasterTable
from rapini.stores.values import check_blob_untrusted, encode_value
from rapini.stores.writers import Writers

__all__ = ["MasterStore"]

_NO_ARGUMENT = frozenset({int(Cause.DELETE), int(Cause.CLEAR), int(Cause.TOUCH)})


class MasterStore(MasterTable):
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
        super().__init__(
            backend if backend is not None else MemoryBackend(),
            now=now,
            wall_now=wall_now,
            max_entries=max_entries,
            max_bytes=max_bytes,
            wants_changes=wants_changes,
        )
        self.name = name
        self.failures = 0
        """How often a turn was undone."""
        self.run = run
        self._may_write = may_write
        self.version, self._runs = self.backend.load()
        self._runs = [*self._runs, (run, self.version)][-limits.MAX_STORE_RUNS :]
        self.backend.add_run(run, self.version)
        self.backend.commit(self.version)
        self.log = DeltaLog(self.version, max_bytes=log_bytes, max_changes=log_changes)
        self.writers = Writers(self.backend)
        self._load_deadlines()
        self._links: dict[str, Follower] = {}
        self._refused: set[str] = set()
        self._turn_replies: list[tuple[Follower, Reply]] = []
        self._outcomes: list[MasterOutcome] = []

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
