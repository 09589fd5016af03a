"""A master and clones joined by links that can be cut at any message, and what must be true of them at all times.

The log of the master's committed changes is the model: replayed, it gives the table at every version of every run. A
clone's table must be one of these at all times, whatever was cut; a master's table is also predicted from the calls
made, without the machine.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

from rapini.stores import Backend, Cause, CloneStore, EntryChanged, Key, MasterStore, WriteDone, make_operation
from rapini.stores import followers as followers_module
from rapini.stores.outcomes import ProtocolViolation, WriteResult
from rapini.stores.values import decode_value

ROOM = 3
"""Messages that a link takes before it has to be served."""
Table = dict[Key, object]


@contextmanager
def small_chunks(size: int = 40) -> Iterator[None]:
    """Snapshots of a few entries come in many parts."""
    with mock.patch.object(followers_module, "_CHUNK_BYTES", size):
        yield


def table_of(machine: MasterStore | CloneStore) -> Table:
    """The whole table, decoded."""
    if isinstance(machine, CloneStore):
        return {key: decode_value(blob) for key, blob in machine.table.blobs.items()}
    snapshot = machine.backend.snapshot()
    table: Table = {}
    while part := snapshot.read(100, 10):
        table.update({key: decode_value(blob) for key, blob in part})
    snapshot.close()
    return table


class CloneEnd:
    """A clone, its link, and what it reported."""

    def __init__(self, index: int, now: float) -> None:
        self.name = f"clone-{index}"
        self.machine = CloneStore("s", writer=bytes([index]) * 16, now=now, wants_changes=True)
        self.is_linked = False
        self.to_master: deque[bytes] = deque()
        self.to_clone: deque[bytes] = deque()
        self.replayed: Table = {}
        self.issued: dict[int, tuple[Cause, Key, object]] = {}
        self.done: dict[int, WriteDone] = {}
        self.syncs = 0


class World:
    """One master, three clones, one clock.

    Args:
        make_backend: A backend for each start of the master; the same file each time, where it is one.
        keeps_data: Whether the data outlive the master.
    """

    def __init__(self, make_backend: Callable[[], Backend], *, keeps_data: bool, clones: int = 3) -> None:
        self.now = 100.0
        self.wall_offset = 1e9
        self.keeps_data = keeps_data
        self._make_backend = make_backend
        self._runs = itertools.count(1)
        self.model: Table = {}
        """The committed table, by replaying what the master reported."""
        self.expected: Table = {}
        """The table by our own reckoning from the calls made."""
        self.deadlines: dict[Key, float] = {}
        """When the entries of `expected` expire."""
        self._committed_deadlines: dict[Key, float] = {}
        self.history: dict[tuple[bytes, int], Table] = {(b"", 0): {}}
        self.tokens: Counter[object] = Counter()
        """How often each appended token was applied, in the life of the data."""
        self.all_tokens: Counter[object] = Counter()
        self.violations: list[ProtocolViolation] = []
        self.clones = [CloneEnd(index, self.now) for index in range(clones)]
        self.master = self._start()

    def _start(self) -> MasterStore:
        run = next(self._runs).to_bytes(16, "big")
        master = MasterStore(
            "s",
            run=run,
            may_write=lambda peer: True,
            now=self.now,
            wall_now=self.now + self.wall_offset,
            backend=self._make_backend(),
            log_changes=12,
            wants_changes=True,
        )
        self.history[run, master.version] = dict(self.model)
        return master

    # -- faults --------------------------------------------------------------------------------------------------

    def restart_master(self) -> None:
        """The master's process ends, whatever it was doing; another begins."""
        for clone in self.clones:
            self.cut(clone)
        self._take_master()
        self.master.backend.close()
        if not self.keeps_data:
            self.model = {}
            self.tokens.clear()
            self._committed_deadlines = {}
        self.expected = dict(self.model)
        self.deadlines = dict(self._committed_deadlines)
        self.master = self._start()
        self.check()

    def cut(self, clone: CloneEnd) -> None:
        """The link ends; what is under way is lost."""
        if clone.is_linked:
            clone.is_linked = False
            clone.to_clone.clear()
            clone.to_master.clear()
            self.master.link_lost(clone.name, self.now)
            clone.machine.link_lost("master", self.now)
            self._take_clone(clone)

    def link(self, clone: CloneEnd) -> None:
        """The link begins, anew if it was there."""
        self.cut(clone)
        clone.is_linked = True
        self.master.link_up(clone.name, self.now)
        clone.machine.link_up("master", self.now)

    # -- progress ------------------------------------------------------------------------------------------------

    def serve(self, clone: CloneEnd, messages: int) -> int:
        """Move so many messages over a link, from both ends; says how many there were."""
        moved = 0
        while clone.is_linked and moved < messages:
            self._fill(clone)
            if clone.to_master:
                self.master.receive(clone.name, clone.to_master.popleft(), self.now)
                self.flush()
            elif clone.to_clone:
                clone.machine.receive("master", clone.to_clone.popleft(), self.now)
            else:
                break
            moved += 1
            self._take_clone(clone)
        self.check()
        return moved

    def _fill(self, clone: CloneEnd) -> None:
        for machine, peer, queue in (
            (self.master, clone.name, clone.to_clone),
            (clone.machine, "master", clone.to_master),
        ):
            while len(queue) < ROOM and (message := machine.next_chunk(peer)) is not None:
                queue.append(message)
        self._committed()  # `next_chunk` flushes

    def advance(self, seconds: float) -> None:
        """Time passes; timers run."""
        self.now += seconds
        self.master.handle_timer(self.now)
        self.flush()
        self._expire()
        for clone in self.clones:
            clone.machine.handle_timer(self.now)
            self._take_clone(clone)
        self.check()

    def settle(self) -> None:
        """Faults stop: every link is there, and everything that is to be said is said."""
        for clone in self.clones:
            if not clone.is_linked:
                self.link(clone)
        for _ in range(1000):
            if not sum(self.serve(clone, 50) for clone in self.clones):
                return
        raise AssertionError("the replicas never fall silent")

    # -- intents -------------------------------------------------------------------------------------------------

    def local(self, kind: Cause, key: Key, value: object, expires_in_s: float | None = None) -> WriteResult:
        """A call at the master, whose effect is predicted."""
        self._expire()
        if kind is Cause.PUT:
            result = self.master.put(key, value, self.now, expires_in_s)
        elif kind is Cause.PUT_UNIQUE:
            result = self.master.put_unique(key, value, self.now, expires_in_s)
        else:
            result = self.master.apply(make_operation(kind, key, value, expires_in_s), self.now)
        predict(self.expected, kind, key, value)
        if result.code == "ok":
            self._predict_deadline(kind, key, expires_in_s)
        assert self.master.get(key, self.now) == self.expected.get(key)
        return result

    def _expire(self) -> None:
        for key in [key for key, deadline in self.deadlines.items() if deadline <= self.now]:
            del self.deadlines[key]
            self.expected.pop(key, None)

    def _predict_deadline(self, kind: Cause, key: Key, expires_in_s: float | None) -> None:
        if kind is Cause.CLEAR:
            self.deadlines.clear()
        elif expires_in_s is not None:
            self.deadlines[key] = self.now + expires_in_s
        elif kind in (Cause.PUT, Cause.PUT_UNIQUE, Cause.DELETE):
            self.deadlines.pop(key, None)

    def flush(self) -> None:
        """The master's turn ends."""
        assert self.master.flush()
        self._committed()

    def _committed(self) -> None:
        self._take_master()
        self._committed_deadlines = dict(self.deadlines)

    def write(self, clone: CloneEnd, kind: Cause, key: Key, value: object, timeout_s: float) -> int:
        """A clone's write."""
        number = clone.machine.write(make_operation(kind, key, value), self.now, timeout_s)
        clone.issued[number] = (kind, key, value)
        self._take_clone(clone)
        return number

    # -- what is reported ----------------------------------------------------------------------------------------

    def _take_master(self) -> None:
        for outcome in self.master.outcomes():
            if isinstance(outcome, ProtocolViolation):
                self.violations.append(outcome)
            elif isinstance(outcome, EntryChanged):
                replay(self.model, outcome)
                self.history[self.master.run, outcome.version] = dict(self.model)
                if outcome.by:
                    replay(self.expected, outcome, strict=False)
                    self._predict_deadline(outcome.cause, outcome.key, None)
                if outcome.cause is Cause.APPEND and isinstance(outcome.value, list):
                    self.tokens[outcome.value[-1]] += 1
                    self.all_tokens[outcome.value[-1]] += 1
            else:
                raise AssertionError(outcome)

    def _take_clone(self, clone: CloneEnd) -> None:
        for outcome in clone.machine.outcomes():
            if isinstance(outcome, EntryChanged):
                replay(clone.replayed, outcome)
            elif isinstance(outcome, ProtocolViolation):
                self.violations.append(outcome)
            elif isinstance(outcome, WriteDone):
                assert outcome.number not in clone.done, "an outcome twice"
                clone.done[outcome.number] = outcome
                if outcome.result.code == "ok" and outcome.is_visible:
                    assert clone.machine.version >= outcome.result.version, "cannot read its own write"
            else:
                clone.syncs += type(outcome).__name__ == "Synced"

    def check(self) -> None:
        """What holds at all times."""
        assert self.violations == [], self.violations
        for clone in self.clones:
            table = table_of(clone.machine)
            known = self.history.get((clone.machine.run, clone.machine.version), "no such version")
            assert table == known, "a table that never was"
            assert table == clone.replayed, "the change events tell something else"
            size = sum(map(len, clone.machine.table.blobs.values())) + sum(map(len, map(str, table)))
            assert clone.machine.table.size_bytes == size

    def check_settled(self) -> None:
        """What holds once faults have stopped."""
        table = table_of(self.master)
        assert table == self.model
        assert table == self.expected
        for clone in self.clones:
            assert table_of(clone.machine) == table
            assert clone.machine.version == self.master.version
            assert not clone.machine.is_stale
            assert clone.machine.is_settled_with("master")
            assert clone.done.keys() == clone.issued.keys(), "a write without an outcome"
            for number, done in clone.done.items():
                self._check_write(clone, number, done)
        assert max(self.tokens.values(), default=1) == 1, "a write was done twice"

    def _check_write(self, clone: CloneEnd, number: int, done: WriteDone) -> None:
        kind, _, value = clone.issued[number]
        if kind is not Cause.APPEND:
            return
        token = value[0] if isinstance(value, list) else value
        times = self.all_tokens[token]
        if done.result.code == "ok":
            assert times == 1 if self.keeps_data else times >= 1, "a write that was reported is not there"
        elif done.result.code != "in_doubt":
            assert times == 0, f"a write that ended with {done.result.code} was done"


def replay(table: Table, change: EntryChanged, *, strict: bool = True) -> None:
    """Apply a change event to a table."""
    if strict:
        assert change.was_present == (change.key in table), "a change event that does not fit"
    if change.is_present:
        table[change.key] = change.value
    else:
        table.pop(change.key, None)


def predict(table: Table, kind: Cause, key: Key, value: object) -> None:
    """What an operation should do, said once more and as simply as may be."""
    old = table.get(key)
    if kind is Cause.PUT or (kind is Cause.PUT_UNIQUE and key not in table):
        table[key] = value
    elif kind is Cause.DELETE:
        table.pop(key, None)
    elif kind is Cause.CLEAR:
        table.clear()
    elif kind is Cause.INCREMENT and isinstance(value, int) and isinstance(old, int | None):
        table[key] = (old or 0) + value
    elif kind is Cause.APPEND and isinstance(value, list) and isinstance(old, list | None):
        table[key] = (old or []) + value
    elif kind is Cause.ADD and isinstance(old, set | None):
        table[key] = (old or set()) | {value}
    elif kind is Cause.REMOVE and isinstance(old, set):
        table[key] = old - {value}
