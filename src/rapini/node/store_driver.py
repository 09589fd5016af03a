"""Joins one replica of a store to a node: what goes out, what came in, who waits for what.

The driver does the four things of every driver here: deliver, flush, handle outcomes, re-arm. The node calls it under
its lock (each method says when), and gives it a `StoreHost`: that is all a node has to provide. User threads come
through `rapini.node.store.Store`, under the same lock.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Protocol, assert_never

from rapini.errors import StoreError
from rapini.stores import CloneStore, EntryChanged, MasterStore, Operation, WriteDone, WriteResult
from rapini.stores.outcomes import (
    BackendFailed,
    CloneOutcome,
    MasterFound,
    MasterLost,
    MasterOutcome,
    ProtocolViolation,
    SecondMaster,
    Synced,
    SyncFailed,
)

__all__ = ["ChangeCallback", "StoreDriver", "StoreHost"]

_log = logging.getLogger("rapini.node")

ChangeCallback = Callable[[EntryChanged], object]


class StoreHost(Protocol):
    """What a store needs of its node."""

    @property
    def lock(self) -> threading.RLock:
        """Guards every call of a driver, and every call below."""

    @property
    def changed(self) -> threading.Condition:
        """Over `lock`; the driver notifies it, and user threads wait on it."""

    def clock(self) -> float:
        """Monotonic seconds."""

    def send_store(self, store: str, peer: str, data: bytes) -> bool:
        """Send a message in a `STORE` frame on the peer's present link, also before its `Ready`.

        Returns:
            Whether there is room for more; after a False the host calls `StoreDriver.drained` when there is.
            Must not call the driver from within.
        """

    def wake_store(self, store: str, when: float) -> None:
        """Call `StoreDriver.service` on the I/O thread at this time or soon after; an earlier call replaces a later."""

    def call_back(self, function: Callable[[], object]) -> None:
        """Run this on the callback thread, in the order of the calls; its exceptions are logged there."""

    def store_violated(self, store: str, peer: str, code: str, detail: str) -> None:
        """The peer broke the stores' protocol: end its link (`Reject`), after the present call."""


class StoreDriver:
    """One replica in one node. Thread: any, under the host's lock.

    Args:
        name: The store's name.
        machine: The replica.
        host: The node.
    """

    def __init__(self, name: str, machine: MasterStore | CloneStore, host: StoreHost) -> None:
        self.name = name
        self.machine = machine
        self.host = host
        self.is_closed = False
        self._has_room: dict[str, bool] = {}
        self._callbacks: list[ChangeCallback] = []
        self._waiting: dict[int, WriteDone | None] = {}
        self._woken_for = float("inf")

    # -- the node's calls ----------------------------------------------------------------------------------------

    def link_up(self, peer: str, now: float) -> None:
        """The state exchange with an admitted peer begins; for a store made later: for each peer that is up."""
        self._has_room[peer] = True
        self.machine.link_up(peer, now)
        self.service(now)

    def link_lost(self, peer: str, now: float) -> None:
        """The peer's link is over, however."""
        self._has_room.pop(peer, None)
        self.machine.link_lost(peer, now)
        self.service(now)

    def receive(self, peer: str, data: bytes | memoryview, now: float) -> None:
        """The body of a `STORE` frame for this store, at most `limits.MAX_STORE_MESSAGE_BYTES` long; may be hostile.

        Call `service` after the last one of a turn: what a turn brought is committed and answered together.
        """
        self.machine.receive(peer, data, now)
        self.wake(now)

    def drained(self, peer: str, now: float) -> None:
        """The peer's link has room again."""
        if peer in self._has_room:
            self._has_room[peer] = True
            self.service(now)

    def is_settled_with(self, peer: str) -> bool:
        """Whether our `Ready` to this peer may be sent, as far as this store goes; changes within `service` alone."""
        return isinstance(self.machine, MasterStore) or self.machine.is_settled_with(peer)

    def service(self, now: float) -> None:
        """A turn's end, or a timer: commit, send what there is room for, report, re-arm."""
        machine = self.machine
        due = machine.next_timer()
        if due is not None and due <= now:
            machine.handle_timer(now)
        if isinstance(machine, MasterStore):
            machine.flush()
        for peer, has_room in self._has_room.items():
            if has_room:
                self._pump(peer)
        self._report(machine.outcomes())
        self._woken_for = float("inf")
        due = machine.next_timer()
        if due is not None:
            self.wake(due)

    def close(self) -> None:
        """The node closes: whoever waits gets `closed`. May be called twice."""
        if self.is_closed:
            return
        self.is_closed = True
        if isinstance(self.machine, MasterStore):
            self.machine.flush()
            self._report(self.machine.outcomes())
            self.machine.backend.close()
        self.host.changed.notify_all()

    def wake(self, when: float) -> None:
        """See that `service` is called at `when` at the latest."""
        if when < self._woken_for:
            self._woken_for = when
            self.host.wake_store(self.name, when)

    def _pump(self, peer: str) -> None:
        while (data := self.machine.next_chunk(peer)) is not None:
            if not self.host.send_store(self.name, peer, data):
                self._has_room[peer] = False
                return

    # -- outcomes ------------------------------------------------------------------------------------------------

    def _report(self, outcomes: list[MasterOutcome] | list[CloneOutcome]) -> None:
        changes: list[EntryChanged] = []
        is_news = False
        for outcome in outcomes:
            if isinstance(outcome, EntryChanged):
                changes.append(outcome)
            elif isinstance(outcome, WriteDone):
                if outcome.number in self._waiting:
                    self._waiting[outcome.number] = outcome
                    is_news = True
            else:
                self._report_rare(outcome)
                is_news = True
        if changes:
            self._hand_out(changes, self._callbacks)
        if is_news:
            self.host.changed.notify_all()

    def _report_rare(
        self,
        outcome: MasterFound | MasterLost | Synced | SecondMaster | SyncFailed | ProtocolViolation | BackendFailed,
    ) -> None:
        match outcome:
            case ProtocolViolation(peer=peer, code=code, detail=detail):
                self.host.store_violated(self.name, peer, code, detail)
            case SecondMaster(peer=peer):
                _log.warning("store %s: second_master: %s has one too, which is not followed", self.name, peer)
            case SyncFailed(peer=peer, code=code, detail=detail):
                _log.error("store %s: %s: not following %s any more: %s", self.name, code, peer, detail)
            case BackendFailed(code=code, detail=detail, lost_changes=lost):
                _log.error("store %s: %s: %d changes undone: %s", self.name, code, lost, detail)
            case MasterLost(peer=peer):
                _log.info("store %s: master_away: %s", self.name, peer)
            case Synced(peer=peer, version=version):
                _log.info("store %s: synced: version %d of %s", self.name, version, peer)
            case MasterFound():
                pass
            case _:
                assert_never(outcome)

    def _hand_out(self, changes: list[EntryChanged], callbacks: list[ChangeCallback]) -> None:
        for callback in callbacks:
            self.host.call_back(lambda callback=callback: _deliver(self.name, callback, changes))  # type: ignore[misc]

    # -- what `Store` calls ----------------------------------------------------------------------------------------

    def add_callback(self, callback: ChangeCallback, entries: list[EntryChanged]) -> None:
        """Tell this one of changes from now on, and of `entries` first."""
        self.service(self.host.clock())  # what happened before is not news to it
        self.machine.wants_changes = True
        self._callbacks = [*self._callbacks, callback]
        if entries:
            self._hand_out(entries, [callback])

    def remove_callback(self, callback: ChangeCallback) -> None:
        """Tell this one no more."""
        self._callbacks = [other for other in self._callbacks if other is not callback]
        self.machine.wants_changes = bool(self._callbacks)

    def write_and_wait(self, machine: CloneStore, operation: Operation, timeout_s: float) -> WriteResult:
        """A clone's write from a user's thread, which waits for its outcome.

        Raises:
            StoreError: `closed`.
        """
        now = self.host.clock()
        deadline = now + timeout_s
        number = machine.write(operation, now, timeout_s)
        self._waiting[number] = None
        try:
            self.service(now)
            while (done := self._waiting[number]) is None:
                if self.is_closed:
                    raise StoreError("closed", f"store {self.name}: the node is closed")
                now = self.host.clock()
                if now >= deadline:
                    self.service(now)  # its timer may be late; the machine now ends the write
                else:
                    self.host.changed.wait(deadline - now)
            return done.result
        finally:
            del self._waiting[number]


def _deliver(store: str, callback: ChangeCallback, changes: list[EntryChanged]) -> None:
    for change in changes:
        try:
            callback(change)
        except BaseException:  # noqa: BLE001 - the application's fault, SystemExit included, must not end the thread
            _log.exception("a callback failed for a change in store %s", store)
