"""A replicated key-value table as a program uses it: `node.store("hosts", master=True)`, and elsewhere a clone.

See `docs/reference/stores.md`. A master answers at once. A clone reads its own copy, and its writes travel to the
master and wait for the outcome there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rapini import defaults, limits
from rapini.errors import LocalError, PeerTimeoutError, StoreError
from rapini.node.store_driver import ChangeCallback, StoreDriver
from rapini.stores import Cause, CloneStore, EntryChanged, Key, MasterStore, WriteResult, make_operation
from rapini.stores.backend import Snapshot, TableSnapshot
from rapini.stores.values import decode_value

__all__ = ["Store"]

_TIMEOUT_S = defaults.STORE_WRITE_TIMEOUT_S
_REASONS = {
    "absent": "there is no such entry",
    "busy": "too many writes wait for the master",
    "closed": "the node is closed",
    "deadline": "the master did not get it in time; it was not done",
    "exists": "there is such an entry",
    "in_doubt": "no answer came; it may or may not have been done",
    "master_away": "the master is away; it was not done",
    "not_authorised": "the master does not let this node write",
    "out_of_range": "the sum is out of range",
    "store_failed": "the master could not write it to its file; it was not done",
    "store_full": "the store has as many entries or bytes as it may have",
    "too_large": "the value would be too large",
    "wrong_type": "the entry's value is of another type",
}


class Store:
    """One replica of a store; get it from `Node.store`. Any thread.

    Every write raises `StoreError` when it was not done, with a `code` (`docs/reference/stores.md`); at a clone it
    waits for the master's outcome, for `timeout_s` at most, and a read after it sees it. Keys are str, bytes, int or a
    tuple of these; values are None, bool, int, float, str, bytes, list, dict and set.
    """

    def __init__(self, driver: StoreDriver) -> None:
        self._driver = driver
        self._host = driver.host
        self._lock = driver.host.lock
        self._machine = driver.machine
        self._is_batching = False

    @property
    def name(self) -> str:
        """The store's name."""
        return self._driver.name

    @property
    def is_master(self) -> bool:
        """Whether the master is here."""
        return isinstance(self._machine, MasterStore)

    @property
    def version(self) -> int:
        """Changes so far, as far as this replica knows."""
        return self._machine.version

    @property
    def is_stale(self) -> bool:
        """Whether this replica may lack what the master has: that is away, or a synchronisation runs."""
        return isinstance(self._machine, CloneStore) and self._machine.is_stale

    @property
    def stale_for_s(self) -> float:
        """For how many seconds it has been stale; 0 when it is not."""
        since = self._machine.stale_since if isinstance(self._machine, CloneStore) else None
        return 0.0 if since is None else max(0.0, self._host.clock() - since)

    def wait_synced(self, timeout_s: float = 30.0) -> None:
        """Wait until this replica has what the master has; a master always has.

        Raises:
            PeerTimeoutError: `not_synced`: not within `timeout_s` seconds.
            StoreError: `closed`.
        """
        deadline = self._host.clock() + timeout_s
        with self._lock:
            while self.is_stale:
                self._check_open()
                left = deadline - self._host.clock()
                if left <= 0:
                    raise PeerTimeoutError(
                        "not_synced",
                        f"store {self.name} is not in sync after {timeout_s:g} s",
                        remedy="see that a connected node has its master",
                    )
                self._host.changed.wait(left)

    # -- reading -------------------------------------------------------------------------------------------------

    def get(self, key: Key, default: object = None) -> object:
        """An entry's value, a copy of one's own; at a clone of the last version known, however stale.

        Raises:
            StoreError: `damaged` or `store_failed`, at a master with a file.
        """
        machine = self._machine
        if isinstance(machine, CloneStore):
            return machine.get(key, default)  # takes no lock: one look into a dict
        with self._lock:
            return machine.get(key, self._host.clock(), default)

    def __contains__(self, key: Key) -> bool:
        machine = self._machine
        if isinstance(machine, CloneStore):
            return machine.contains(key)
        with self._lock:
            return machine.contains(key, self._host.clock())

    def __len__(self) -> int:
        machine = self._machine
        if isinstance(machine, MasterStore):
            with self._lock:
                machine.handle_timer(self._host.clock())
        return len(machine)

    def items(self, prefix: Key | None = None) -> Iterator[tuple[Key, object]]:
        """All entries as they are at this moment, in no promised order, or those whose key begins with `prefix`.

        `prefix` is text, bytes, or a tuple of a key's first parts. Writing meanwhile is allowed, and not seen.
        """
        with self._lock:
            self._check_open()
            snapshot = self._snapshot(prefix)
        return self._read(snapshot)

    def keys(self, prefix: Key | None = None) -> Iterator[Key]:
        """The keys of `items`."""
        return (key for key, _ in self.items(prefix))

    def _snapshot(self, prefix: Key | None) -> Snapshot:
        machine = self._machine
        if isinstance(machine, MasterStore):
            return machine.scan(self._host.clock(), prefix)
        return TableSnapshot(machine.table.blobs, prefix)

    def _read(self, snapshot: Snapshot) -> Iterator[tuple[Key, object]]:
        try:
            while True:
                with self._lock:
                    part = snapshot.read(limits.MAX_STORE_MESSAGE_BYTES, 0)
                if not part:
                    return
                for key, blob in part:
                    yield key, decode_value(blob)
        finally:
            with self._lock:
                snapshot.close()

    def subscribe(self, callback: ChangeCallback, *, with_entries: bool = False) -> Callable[[], None]:
        """Call `callback(change)` for every change from now on, on the node's callback thread, in order.

        Args:
            callback: Gets an `EntryChanged`; its exceptions are logged.
            with_entries: First tell it of the entries that are there, as if they had just come (`Cause.SYNC`).

        Returns:
            A function that ends it.
        """
        with self._lock:
            self._check_open()
            entries: list[EntryChanged] = []
            if with_entries:
                snapshot, version = self._snapshot(None), self._machine.version
                while part := snapshot.read(limits.MAX_STORE_MESSAGE_BYTES, 0):
                    entries += [EntryChanged(key, False, True, version, Cause.SYNC, "", blob) for key, blob in part]
                snapshot.close()
            self._driver.add_callback(callback, entries)

        def end() -> None:
            with self._lock:
                self._driver.remove_callback(callback)

        return end

    # -- writing -------------------------------------------------------------------------------------------------

    def put(self, key: Key, value: object, *, expires_in_s: float | None = None, timeout_s: float = _TIMEOUT_S) -> None:
        """Put an entry, whatever was there; it expires after `expires_in_s` seconds, or not at all."""
        self._write(Cause.PUT, key, value, expires_in_s, timeout_s)

    def put_unique(
        self, key: Key, value: object, *, expires_in_s: float | None = None, timeout_s: float = _TIMEOUT_S
    ) -> bool:
        """Put an entry if there is none. True: this call won; of several at several nodes, exactly one does."""
        machine = self._machine
        if isinstance(machine, MasterStore) and not machine.backend.is_durable:
            with self._lock:  # as `_write`, without its detours
                self._check_open()
                now = self._host.clock()
                result = machine.put_unique(key, value, now, expires_in_s)
                if not self._is_batching:
                    self._driver.wake(now)
        else:
            result = self._write(Cause.PUT_UNIQUE, key, value, expires_in_s, timeout_s, ("exists",))
        if result.code not in ("ok", "exists"):
            raise self._error(result.code)
        return result.code == "ok"

    def delete(self, key: Key, *, timeout_s: float = _TIMEOUT_S) -> bool:
        """Take an entry out. False: there was none."""
        return self._write(Cause.DELETE, key, None, None, timeout_s, ("absent",)).code == "ok"

    def increment(
        self, key: Key, by: float = 1, *, expires_in_s: float | None = None, timeout_s: float = _TIMEOUT_S
    ) -> int | float:
        """Add to a number; one that is absent counts as 0. The expiry stays unless one is given. Returns the sum."""
        total = self._write(Cause.INCREMENT, key, by, expires_in_s, timeout_s).value
        if not isinstance(total, int | float):
            raise StoreError("store_failed", f"store {self.name}: the master answered with no number")
        return total

    def append(
        self,
        key: Key,
        more: list[object] | str | bytes,
        *,
        expires_in_s: float | None = None,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        """Lengthen a list, text or bytes by another; one that is absent counts as empty."""
        self._write(Cause.APPEND, key, more, expires_in_s, timeout_s)

    def add(
        self, key: Key, element: object, *, expires_in_s: float | None = None, timeout_s: float = _TIMEOUT_S
    ) -> bool:
        """Add an element to a set; one that is absent counts as empty. False: it was in it."""
        return self._write(Cause.ADD, key, element, expires_in_s, timeout_s).value is True

    def remove(
        self, key: Key, element: object, *, expires_in_s: float | None = None, timeout_s: float = _TIMEOUT_S
    ) -> bool:
        """Take an element out of a set. False: it was not in it."""
        return self._write(Cause.REMOVE, key, element, expires_in_s, timeout_s).value is True

    def touch(self, key: Key, expires_in_s: float | None, *, timeout_s: float = _TIMEOUT_S) -> bool:
        """Set an entry's expiry anew, or take it away with `None`. False: there is no such entry."""
        return self._write(Cause.TOUCH, key, None, expires_in_s, timeout_s, ("absent",)).code == "ok"

    def clear(self, *, timeout_s: float = _TIMEOUT_S) -> None:
        """Take all entries out."""
        self._write(Cause.CLEAR, None, None, None, timeout_s)

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Commit what this block writes together, at its end: for a master with a file, which else commits each write.

        Not a transaction: an exception in the block leaves done what was done, and readers see the writes at once.
        Other threads' writes fall into the same commit.

        Raises:
            LocalError: `not_master`.
            StoreError: `store_failed`: some or all of it was not kept.
        """
        machine = self._machine
        if not isinstance(machine, MasterStore):
            raise LocalError("not_master", f"store {self.name} has its master elsewhere")
        with self._lock:
            self._check_open()
            was_batching, failures = self._is_batching, machine.failures
            self._is_batching = True
        try:
            yield
        finally:
            with self._lock:
                self._is_batching = was_batching
                if not was_batching and not self._driver.is_closed:
                    machine.flush()
                    self._driver.wake(self._host.clock())
                if machine.failures != failures:
                    raise self._error("store_failed")

    def _write(
        self,
        kind: Cause,
        key: Key | None,
        value: object,
        expires_in_s: float | None,
        timeout_s: float,
        fine: tuple[str, ...] = (),
    ) -> WriteResult:
        operation = make_operation(kind, key, value, expires_in_s)
        machine = self._machine
        with self._lock:
            self._check_open()
            if isinstance(machine, CloneStore):
                result = self._driver.write_and_wait(machine, operation, timeout_s)
            else:
                now = self._host.clock()
                result = machine.apply(operation, now)
                if not self._is_batching:
                    self._driver.wake(now)
                    if machine.backend.is_durable and not machine.flush():
                        result = WriteResult("store_failed", machine.version)
        if result.code != "ok" and result.code not in fine:
            raise self._error(result.code)
        return result

    def _error(self, code: str) -> StoreError:
        return StoreError(code, f"store {self.name}: {_REASONS.get(code, 'it was refused')}")

    def _check_open(self) -> None:
        if self._driver.is_closed:
            raise self._error("closed")
