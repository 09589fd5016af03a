"""The rules by which Hypothesis plays with a world of replicas."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rapini.storage.sqlite_store import SqliteBackend
from rapini.stores import Backend, Cause, MemoryBackend
from tests.unit.stores.world import World, small_chunks

KEYS = st.sampled_from(["a", "b", "c", "dd"])
CLONE = st.integers(0, 2)
VALUES = st.one_of(st.integers(-5, 300), st.text("xyz", max_size=12), st.none(), st.lists(st.booleans(), max_size=3))
EXPIRY = st.one_of(st.none(), st.none(), st.sampled_from([0.5, 3.0, 20.0]))


class Replicas(RuleBasedStateMachine):
    """Calls, cuts, restarts and time in any order; the table in memory."""

    keeps_data = False

    def __init__(self) -> None:
        super().__init__()
        self._chunks = small_chunks()
        self._chunks.__enter__()
        self._folder = Path(tempfile.mkdtemp()) if self.keeps_data else None
        self._tokens = itertools.count(1000)
        self.world = World(self._backend, keeps_data=self.keeps_data)
        for clone in self.world.clones:
            self.world.link(clone)

    def _backend(self) -> Backend:
        return MemoryBackend() if self._folder is None else SqliteBackend(self._folder / "store", sync="normal")

    def teardown(self) -> None:
        try:
            self.world.settle()
            self.world.advance(100.0)  # what waits for a deadline gets it
            self.world.settle()
            self.world.check_settled()
        finally:
            self.world.master.backend.close()
            self._chunks.__exit__(None, None, None)
            if self._folder is not None:
                shutil.rmtree(self._folder)

    # -- calls ---------------------------------------------------------------------------------------------------

    @rule(key=KEYS, value=VALUES, expiry=EXPIRY, unique=st.booleans())
    def put(self, key: str, value: object, expiry: float | None, unique: bool) -> None:
        self.world.local(Cause.PUT_UNIQUE if unique else Cause.PUT, key, value, expiry)

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        self.world.local(Cause.DELETE, key, None)

    @rule(amount=st.integers(1, 3), expiry=EXPIRY)
    def increment(self, amount: int, expiry: float | None) -> None:
        self.world.local(Cause.INCREMENT, "count", amount, expiry)

    @rule(element=st.integers(0, 3), kind=st.sampled_from([Cause.ADD, Cause.REMOVE]))
    def change_set(self, element: int, kind: Cause) -> None:
        self.world.local(kind, "set", element)

    @rule()
    def clear(self) -> None:
        self.world.local(Cause.CLEAR, "", None)

    @rule(count=st.integers(1, 20))
    def put_many(self, count: int) -> None:
        for number in range(count):
            self.world.local(Cause.PUT, f"many-{number % 7}", number)
            self.world.flush()  # each a batch of its own, so that the log forgets

    @rule()
    def flush(self) -> None:
        self.world.flush()

    @rule(index=CLONE, timeout_s=st.sampled_from([0.4, 50.0, 50.0]), count=st.integers(1, 3))
    def append_at_clone(self, index: int, timeout_s: float, count: int) -> None:
        for _ in range(count):
            self.world.write(self.world.clones[index], Cause.APPEND, "tokens", [next(self._tokens)], timeout_s)

    @rule(index=CLONE, key=KEYS, value=VALUES, kind=st.sampled_from([Cause.PUT, Cause.PUT_UNIQUE, Cause.DELETE]))
    def write_at_clone(self, index: int, key: str, value: object, kind: Cause) -> None:
        self.world.write(self.world.clones[index], kind, key, value, 50.0)

    # -- progress and faults -------------------------------------------------------------------------------------

    @rule(index=CLONE, messages=st.integers(1, 12))
    def serve(self, index: int, messages: int) -> None:
        self.world.serve(self.world.clones[index], messages)

    @rule(messages=st.integers(1, 12))
    def serve_all(self, messages: int) -> None:
        for clone in self.world.clones:
            self.world.serve(clone, messages)

    @rule(index=CLONE)
    def cut(self, index: int) -> None:
        self.world.cut(self.world.clones[index])

    @precondition(lambda self: not all(clone.is_linked for clone in self.world.clones))
    @rule(index=CLONE)
    def link(self, index: int) -> None:
        if not self.world.clones[index].is_linked:
            self.world.link(self.world.clones[index])

    @rule(
        index=CLONE, messages=st.integers(0, 3), timeout_s=st.sampled_from([0.4, 50.0]), pause_s=st.sampled_from([0, 1])
    )
    def write_into_a_cut(self, index: int, messages: int, timeout_s: float, pause_s: float) -> None:
        clone = self.world.clones[index]
        if not clone.is_linked:
            self.world.link(clone)
        self.world.serve(clone, 30)
        self.append_at_clone(index, timeout_s, 1)
        self.world.serve(clone, messages)
        self.world.cut(clone)
        self.world.advance(pause_s)

    @rule(key=KEYS, value=VALUES, pause_s=st.sampled_from([0.1, 1.0]))
    def rewrite_what_expires(self, key: str, value: object, pause_s: float) -> None:
        self.world.local(Cause.PUT, key, value, 0.5)
        self.world.local(Cause.PUT, key, value)
        self.world.advance(pause_s)

    @rule(index=CLONE, messages=st.integers(0, 6))
    def relink(self, index: int, messages: int) -> None:
        clone = self.world.clones[index]
        self.world.serve(clone, messages)
        self.world.link(clone)
        self.world.serve(clone, messages)

    @rule(writes=st.integers(0, 12))
    def restart(self, writes: int) -> None:
        self.world.restart_master()
        for number in range(writes):  # a master that lost its data may be at the same version with other data
            self.world.local(Cause.PUT, f"many-{number % 7}", -number)
            self.world.flush()

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0]))
    def advance(self, seconds: float) -> None:
        self.world.advance(seconds)

    @invariant()
    def holds(self) -> None:
        self.world.check()


class DurableReplicas(Replicas):
    """The same with the table in SQLite: a restart of the master loses nothing that was committed."""

    keeps_data = True
