"""A store's clone: a copy that follows its master, readable at all times; its writes go there. Sans-IO.

A clone asks every peer whose link comes up (`Follow`); the one that answers `Following` has the master. It then gets
what it lacks: deltas, applied as they come, or a snapshot, which replaces the table when it is complete and not
before. A cut at any moment leaves the table as it was at *some* version of the master, never between two.

A write waits in `pending` from the call to its outcome. It is sent once on each link, with the same number, until a
reply comes or its deadline passes; the master does it once (`rapini.stores.writers`). A reply is reported when the
table has the version it speaks of, so a writer reads its own writes.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Final

from rapini import defaults, limits
from rapini.errors import DecodeError
from rapini.stores.copy import FullError, TableCopy
from rapini.stores.messages import (
    Chunk,
    Deltas,
    Follow,
    Following,
    FromMaster,
    NoStore,
    Offer,
    Replies,
    Reply,
    Unfollow,
    Write,
    Writes,
    answer_unknown_untrusted,
    decode_changes_untrusted,
    decode_from_master_untrusted,
    encode,
    is_from_clone_untrusted,
)
from rapini.stores.operations import Operation
from rapini.stores.outcomes import (
    CloneOutcome,
    MasterFound,
    MasterLost,
    ProtocolViolation,
    SecondMaster,
    Synced,
    SyncFailed,
    WriteDone,
    WriteResult,
)
from rapini.stores.values import Key, check_blob_untrusted, decode_value, key_bytes

__all__ = ["CloneStore", "LinkRole"]

_WRITES_BYTES: Final = limits.MAX_STORE_MESSAGE_BYTES - 64
_WRITE_OVERHEAD: Final = 48


class LinkRole(Enum):
    """What a linked peer is to a clone."""

    ASKED = "asked"
    ABSENT = "absent"
    """It has no master of this store."""
    SYNCING = "syncing"
    LIVE = "live"
    SPARE = "spare"
    """It has a master too, which is not followed."""
    FULL = "full"
    """Its table does not fit here."""
    BROKEN = "broken"
    """It violated the protocol."""


_FOLLOWED: Final = (LinkRole.SYNCING, LinkRole.LIVE)
_DEAF: Final = (LinkRole.SPARE, LinkRole.FULL, LinkRole.ABSENT)
"""What these sent before they heard our `Unfollow` is ignored."""


class _Pending:
    __slots__ = ("deadline", "is_sent", "operation", "was_sent")

    def __init__(self, operation: Operation, deadline: float) -> None:
        self.operation = operation
        self.deadline = deadline
        self.is_sent = False
        """On the present link."""
        self.was_sent = False
        """On any."""


class CloneStore:
    """A copy of a store. Thread: the owner's.

    After every call drain `next_chunk` of each peer that has room, `outcomes()`, and re-arm `next_timer()`.

    Args:
        name: The store's name, for people.
        writer: 16 random bytes, this node's incarnation: writes are numbered within it.
        now: Monotonic seconds.
        max_entries: Entries, at most.
        max_bytes: Keys and values, at most.
        wants_changes: Report `EntryChanged` outcomes.
    """

    def __init__(
        self,
        name: str,
        *,
        writer: bytes,
        now: float,
        max_entries: int = defaults.STORE_MAX_ENTRIES,
        max_bytes: int = defaults.STORE_MAX_BYTES,
        wants_changes: bool = False,
    ) -> None:
        if len(writer) != 16:
            raise ValueError("a writer's incarnation is 16 bytes")
        self.name = name
        self.wants_changes = wants_changes
        self.table = TableCopy(max_entries=max_entries, max_bytes=max_bytes)
        self.master: str | None = None
        """The peer that is followed."""
        self.run = b""
        """The run that counted our version; empty before the first synchronisation."""
        self.stale_since: float | None = now
        """Since when the table may lack what the master has; `None`: it follows live."""
        self._writer = writer
        self._links: dict[str, LinkRole] = {}
        self._first: dict[str, deque[bytes]] = {}
        self._following: Following | None = None
        self._sync_changes = 0
        self._next_number = 1
        self._pending: dict[int, _Pending] = {}
        self._to_send: deque[int] = deque()
        self._held: dict[int, Reply] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._outcomes: list[CloneOutcome] = []

    # -- reading -------------------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """The master's version that the table is."""
        return self.table.version

    @property
    def is_stale(self) -> bool:
        """Whether the master is away, or a synchronisation runs."""
        return self.stale_since is not None

    def __len__(self) -> int:
        return len(self.table.blobs)

    def get(self, key: Key, default: object = None) -> object:
        """An entry's value, a fresh copy; of the last version known, however stale."""
        blob = self.table.blobs.get(key)
        return default if blob is None else decode_value(blob)

    def contains(self, key: Key) -> bool:
        """Whether the entry is there."""
        return key in self.table.blobs

    # -- writing -------------------------------------------------------------------------------------------------

    def write(self, operation: Operation, now: float, timeout_s: float = defaults.STORE_WRITE_TIMEOUT_S) -> int:
        """Have the master carry out an operation.

        Returns:
            The number of the write: exactly one `WriteDone` with it follows, within `timeout_s`. Its code is the
            master's, or `master_away` (it was not sent, and will not be), `deadline` (likewise, though the master is
            there), `in_doubt` (it was sent; whether it was done is not known) or `busy`.
        """
        number = self._next_number
        self._next_number += 1
        oldest = next(iter(self._pending), number)
        if number - oldest >= limits.MAX_PENDING_WRITES:
            self._done(number, "busy")
            return number
        self._pending[number] = _Pending(operation, now + timeout_s)
        heapq.heappush(self._deadlines, (now + timeout_s, number))
        if self.master is not None:
            self._to_send.append(number)
        return number

    def _done(self, number: int, code: str) -> None:
        self._outcomes.append(WriteDone(number, WriteResult(code, self.version)))

    # -- links ---------------------------------------------------------------------------------------------------

    def link_up(self, peer: str, now: float) -> None:
        """A link to this peer begins: before its `Ready`, or, for a store made later, at once."""
        self.link_lost(peer, now)
        self._first[peer] = deque()
        self._ask(peer)

    def link_lost(self, peer: str, now: float) -> None:
        """The link is over; what was under way on it may be lost."""
        self._links.pop(peer, None)
        self._first.pop(peer, None)
        if peer == self.master:
            self._lose_master(now)

    def is_settled_with(self, peer: str) -> bool:
        """Whether our part of the state exchange with this peer is done, so that `Ready` may be sent."""
        return self._links.get(peer, LinkRole.ABSENT) not in (LinkRole.ASKED, LinkRole.SYNCING)

    def _ask(self, peer: str) -> None:
        self._links[peer] = LinkRole.ASKED
        self._say(peer, Follow(self._writer, self.run, self.version))

    def _say(self, peer: str, message: Follow | Unfollow) -> None:
        self._first[peer].append(encode(message))

    def _lose_master(self, now: float) -> None:
        peer = self.master
        self.master = None
        self._following = None
        self.table.drop_staged()
        self._to_send.clear()
        for pending in self._pending.values():
            pending.is_sent = False
        if self.stale_since is None:
            self.stale_since = now
        if peer is not None:
            self._outcomes.append(MasterLost(peer=peer))
        for other, role in list(self._links.items()):
            if role is LinkRole.SPARE:
                self._ask(other)

    def outcomes(self) -> list[CloneOutcome]:
        """Drain what happened."""
        if self.table.changes:
            # Before the outcomes of the writes that they came from.
            self._outcomes = [*self.table.changes, *self._outcomes]
            self.table.changes = []
        drained, self._outcomes = self._outcomes, []
        return drained

    def next_chunk(self, peer: str) -> bytes | None:
        """The next message to this peer, at most `limits.MAX_STORE_MESSAGE_BYTES`; `None`: nothing for now."""
        first = self._first.get(peer)
        if first:
            return first.popleft()
        if peer != self.master or not self._to_send:
            return None
        part: list[Write] = []
        size = 0
        while self._to_send:
            number = self._to_send[0]
            pending = self._pending.get(number)
            if pending is not None:
                operation = pending.operation
                size += _WRITE_OVERHEAD + len(operation.blob)
                size += 0 if operation.key is None else key_bytes(operation.key)
                if part and size > _WRITES_BYTES:
                    break
                pending.is_sent = pending.was_sent = True
                part.append(Write(number, operation))
            self._to_send.popleft()
        return encode(Writes(next(iter(self._pending), self._next_number), part)) if part else None

    def data_to_send(self) -> list[tuple[str, bytes]]:
        """Drain everything for everybody, for links without bounds (tests)."""
        data: list[tuple[str, bytes]] = []
        for peer in list(self._links):
            while (message := self.next_chunk(peer)) is not None:
                data.append((peer, message))
        return data

    # -- time ----------------------------------------------------------------------------------------------------

    def next_timer(self) -> float | None:
        """The earliest deadline of a write, in monotonic seconds."""
        while self._deadlines and not self._is_waiting(self._deadlines[0][1]):
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def _is_waiting(self, number: int) -> bool:
        return number in self._pending or number in self._held

    def handle_timer(self, now: float) -> None:
        """End the writes whose deadline has passed."""
        while self._deadlines and self._deadlines[0][0] <= now:
            _, number = heapq.heappop(self._deadlines)
            pending = self._pending.pop(number, None)
            if pending is not None:
                away = "master_away" if self.master is None else "deadline"
                self._done(number, "in_doubt" if pending.was_sent else away)
            elif number in self._held:
                self._report(self._held.pop(number), is_visible=False)

    # -- what a peer says ----------------------------------------------------------------------------------------

    def receive(self, peer: str, data: bytes | memoryview, now: float) -> None:
        """A message from this peer; its fault becomes a `ProtocolViolation`."""
        role = self._links.get(peer)
        if role is None or role is LinkRole.BROKEN:
            return
        if role not in _FOLLOWED and is_from_clone_untrusted(data):
            self._answer_clone(peer, data)
            return
        try:
            self._handle(peer, role, decode_from_master_untrusted(data), now)
        except DecodeError as exc:
            self._links[peer] = LinkRole.BROKEN
            self._first[peer].clear()
            self._outcomes.append(ProtocolViolation(peer=peer, code=exc.code, detail=exc.detail))
            if peer == self.master:
                self._lose_master(now)
        except FullError as exc:
            self._links[peer] = LinkRole.FULL
            self._say(peer, Unfollow())
            self._outcomes.append(SyncFailed(peer=peer, code="store_full", detail=str(exc)))
            self._lose_master(now)

    def _answer_clone(self, peer: str, data: bytes | memoryview) -> None:
        """The peer has a clone too, and asks us as we ask it; whatever else a clone says is for a master."""
        answer = answer_unknown_untrusted(data)
        if answer is not None and len(self._first[peer]) <= limits.MAX_STORE_ANSWERS:
            self._first[peer].append(answer)

    def _handle(self, peer: str, role: LinkRole, message: FromMaster, now: float) -> None:
        match message:
            case Offer():
                if role is LinkRole.ABSENT:
                    if len(self._first[peer]) > limits.MAX_STORE_ANSWERS:
                        raise DecodeError("not_reading", "it offers, and does not read the answers")
                    self._ask(peer)
            case NoStore():
                self._links[peer] = LinkRole.ABSENT
                if peer == self.master:
                    self._lose_master(now)
            case _ if role in _DEAF:
                pass
            case Following():
                self._on_following(peer, role, message, now)
            case Chunk():
                self._on_chunk(peer, message)
            case Deltas():
                self._on_deltas(peer, role, message)
            case Replies():
                self._on_replies(role, message)

    def _on_following(self, peer: str, role: LinkRole, message: Following, now: float) -> None:
        if role is LinkRole.ASKED:
            if self.master is not None:
                self._links[peer] = LinkRole.SPARE
                self._say(peer, Unfollow())
                self._outcomes.append(SecondMaster(peer=peer))
                return
            self.master = peer
            self._outcomes.append(MasterFound(peer=peer))
            self._links[peer] = LinkRole.SYNCING
            self._begin(message)
            self._send_again(message)
        elif not self._may_begin_again(message):
            raise DecodeError("bad_state", "Following where nothing was asked")
        else:
            self._links[peer] = LinkRole.SYNCING
            self._begin(message)
        if self.stale_since is None:
            self.stale_since = now
        if not message.is_snapshot:
            self._see_whether_synced(peer)

    def _may_begin_again(self, message: Following) -> bool:
        """A master whose log no longer reaches us begins again with a snapshot, though not in the middle of one."""
        is_in_snapshot = self._following is not None and self._following.is_snapshot
        return message.is_snapshot and message.run == self.run and not is_in_snapshot

    def _begin(self, message: Following) -> None:
        self._following = message
        self._sync_changes = 0
        if message.is_snapshot:
            self.table.stage(message.version, message.count)
            return
        if not self.run or not message.is_continued or message.version < self.version:
            raise DecodeError("bad_version", f"deltas from {self.version} on cannot lead to {message.version}")
        self.run = message.run

    def _send_again(self, message: Following) -> None:
        """Send what has no reply yet, with the numbers it had; the master knows which of it is done."""
        if message.is_continued and not message.is_known_writer:
            # It goes on with the data of then and has forgotten us: to send again could do it twice.
            for number in [number for number, pending in self._pending.items() if pending.was_sent]:
                del self._pending[number]
                self._done(number, "in_doubt")
        if not message.is_continued:
            self._release(lambda reply: True, is_visible=False)  # they were done to data that are gone
        self._to_send = deque(self._pending)

    def _on_chunk(self, peer: str, message: Chunk) -> None:
        following = self._following
        if following is None or not following.is_snapshot:
            raise DecodeError("bad_state", "a Chunk outside a snapshot")
        self.table.add_staged(message)
        if message.is_last:
            self._sync_changes = self.table.replace(wants_changes=self.wants_changes)
            self.run = following.run
            self._synced(peer, following)

    def _on_deltas(self, peer: str, role: LinkRole, message: Deltas) -> None:
        following = self._following
        if role not in _FOLLOWED or (following is not None and following.is_snapshot):
            raise DecodeError("bad_state", "Deltas before the table is there")
        changes = decode_changes_untrusted(message)
        self.table.apply(message.first_version, changes, wants_changes=self.wants_changes)
        self._sync_changes += len(changes)
        if following is not None:
            self._see_whether_synced(peer)
        if self._held:
            self._release(lambda reply: reply.version <= self.version, is_visible=True)

    def _see_whether_synced(self, peer: str) -> None:
        following = self._following
        if following is not None and self.version >= following.version:
            self._synced(peer, following)

    def _synced(self, peer: str, following: Following) -> None:
        self._following = None
        self._links[peer] = LinkRole.LIVE
        self.stale_since = None
        synced = Synced(peer=peer, version=self.version, was_snapshot=following.is_snapshot, changes=self._sync_changes)
        self._outcomes.append(synced)
        self._release(lambda reply: reply.version <= self.version, is_visible=True)

    def _on_replies(self, role: LinkRole, message: Replies) -> None:
        if role not in _FOLLOWED:
            raise DecodeError("bad_state", "Replies before Following")
        for reply in message.replies:
            check_blob_untrusted(reply.blob)
            pending = self._pending.get(reply.number)
            if pending is None:
                if reply.number >= self._next_number:
                    raise DecodeError("bad_reply", f"a reply to write {reply.number}, which there was not")
                continue  # too late
            if not pending.is_sent:
                raise DecodeError("bad_reply", f"a reply to write {reply.number}, which was not sent")
            del self._pending[reply.number]
            is_visible = self._following is None and reply.version <= self.version
            if is_visible or reply.code != "ok":
                self._report(reply, is_visible=True)
            else:
                self._held[reply.number] = reply

    def _release(self, is_due: Callable[[Reply], bool], *, is_visible: bool) -> None:
        for number in [number for number, reply in self._held.items() if is_due(reply)]:
            self._report(self._held.pop(number), is_visible=is_visible)

    def _report(self, reply: Reply, *, is_visible: bool) -> None:
        result = WriteResult(reply.code, reply.version, decode_value(reply.blob))
        self._outcomes.append(WriteDone(reply.number, result, is_visible))
