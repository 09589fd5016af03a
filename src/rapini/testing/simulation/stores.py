"""The one store of a simulation: its master at one node, clones at all others, and what applications do with it.

A master's table is kept by `SimBackend`, in memory or, as a file would, beyond its process; it notes what the table was
at each commit, so that a clone's can be compared with the version that it claims to be.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from rapini.node.store_driver import StoreDriver
from rapini.stores import Cause, CloneStore, Key, MasterStore, MemoryBackend, make_operation
from rapini.stores.backend import WriterId
from rapini.stores.messages import Reply
from rapini.stores.values import decode_value
from rapini.testing.simulation.plan import StorePlan

if TYPE_CHECKING:
    from rapini.testing.simulation.process import Process

__all__ = ["STORE", "SimBackend", "StoreUser"]

STORE: Final = "hosts"
_KEYS: Final = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta")
_TIMEOUT_S: Final = 2.0
_SOON_S: Final = 0.05

_Writer = tuple[int, dict[int, Reply]]


class SimBackend(MemoryBackend):
    """A table that remembers its versions, and, if it survives, itself.

    Args:
        survives: Whether what was committed outlives the process.
    """

    def __init__(self, *, survives: bool) -> None:
        super().__init__()
        self.is_durable = survives
        self.history: dict[tuple[bytes, int], dict[Key, bytes]] = {}
        """The table at each version, by the run that made it."""
        self._run = b""
        self._deadlines: dict[Key, float] = {}
        self._writers: dict[WriterId, _Writer] = {}
        self._kept: tuple[int, dict[Key, bytes], dict[Key, float], dict[WriterId, _Writer], list[tuple[bytes, int]]]
        self._kept = (0, {}, {}, {}, [])

    def restarts(self) -> None:
        """The process is gone; what was not committed with it, or everything."""
        if not self.is_durable:
            self._kept = (0, {}, {}, {}, [])
        _, table, deadlines, writers, runs = self._kept
        self.clear()
        for key, blob in table.items():
            self.set(key, blob)
        self._deadlines = dict(deadlines)
        self._writers = {writer: (last, dict(replies)) for writer, (last, replies) in writers.items()}
        self._runs = list(runs)

    def version_of(self, run: bytes, version: int) -> dict[Key, bytes] | None:
        """The table as it was at a version."""
        return self.history.get((b"" if self.is_durable else run, version))

    def load(self) -> tuple[int, list[tuple[bytes, int]]]:
        """See `Backend.load`."""
        return self._kept[0], list(self._runs)

    def add_run(self, run: bytes, version: int) -> None:
        """See `Backend.add_run`."""
        self._run = run
        self._runs.append((run, version))

    def delete(self, key: Key) -> None:
        """See `Backend.delete`."""
        super().delete(key)
        self._deadlines.pop(key, None)

    def clear(self) -> None:
        """See `Backend.clear`."""
        super().clear()
        self._deadlines.clear()

    def set_deadline(self, key: Key, wall: float | None) -> None:
        """See `Backend.set_deadline`."""
        if wall is None:
            self._deadlines.pop(key, None)
        else:
            self._deadlines[key] = wall

    def deadlines(self) -> list[tuple[Key, float]]:
        """See `Backend.deadlines`."""
        return list(self._deadlines.items())

    def writers(self) -> list[tuple[WriterId, int, list[Reply]]]:
        """See `Backend.writers`."""
        return [(writer, last, list(replies.values())) for writer, (last, replies) in self._writers.items()]

    def remember(self, writer: WriterId, last: int, reply: Reply | None) -> None:
        """See `Backend.remember`."""
        _, replies = self._writers.pop(writer, (0, {}))
        if reply is not None:
            replies[reply.number] = reply
        self._writers[writer] = (last, replies)

    def confirm(self, writer: WriterId, below: int) -> None:
        """See `Backend.confirm`."""
        last, replies = self._writers.get(writer, (0, {}))
        self._writers[writer] = (last, {number: reply for number, reply in replies.items() if number >= below})

    def forget(self, writer: WriterId) -> None:
        """See `Backend.forget`."""
        self._writers.pop(writer, None)

    def commit(self, version: int) -> None:
        """See `Backend.commit`."""
        self.history[b"" if self.is_durable else self._run, version] = dict(self._table)
        if self.is_durable:
            writers = {writer: (last, dict(replies)) for writer, (last, replies) in self._writers.items()}
            self._kept = (version, dict(self._table), dict(self._deadlines), writers, list(self._runs))


class StoreUser:
    """A node's replica, and an application that writes to it. Part of a `Process`."""

    def __init__(self, process: Process, plan: StorePlan) -> None:
        self.outcomes: Counter[str] = Counter()
        """What became of this clone's increments of its own counter, by code; `pending` while it is not known."""
        self._process = process
        self._plan = plan
        self._random = process.world.random("store", process.name, process.run)
        self._increments: set[int] = set()
        self._number = 0

    @property
    def driver(self) -> StoreDriver:
        """The node's own."""
        return self._process.core.peers.stores.drivers[STORE]

    @property
    def counter_key(self) -> str:
        """The entry that this process alone increments."""
        return f"count/{self._process.name}/{self._process.run}"

    def open(self) -> None:
        """Make the replica. Under the node's lock."""
        backend = None
        if self._plan.is_master:
            backend = self._process.node.backend
            backend.restarts()
        self._process.core.peers.stores.open(
            STORE, backend=backend, may_write=(lambda peer: True) if self._plan.is_master else None
        )
        self._later()

    def _later(self) -> None:
        delay_s = self._plan.write_every_s * (0.5 + self._random.random())
        self._process.world.after(delay_s, lambda: self._process.do(self._write))

    def _write(self) -> None:
        process = self._process
        self.look()
        if process.is_leaving or not process.node.publishes:
            return
        self._later()
        random, now = self._random, process.clock()
        self._number += 1
        value = f"{process.name}/{process.run}/{self._number}"
        expires_in_s = random.choice((None, None, 0.3, 1.5))
        draw = random.random()
        is_increment = draw < 0.4
        if is_increment:
            operation = make_operation(Cause.INCREMENT, self.counter_key, 1)
        elif draw < 0.7:
            operation = make_operation(Cause.PUT, random.choice(_KEYS), value, expires_in_s)
        elif draw < 0.8:
            operation = make_operation(Cause.PUT_UNIQUE, random.choice(_KEYS), value, expires_in_s)
        else:
            operation = make_operation(Cause.DELETE, random.choice(_KEYS))
        with process.core.lock:
            driver = self.driver
            machine = driver.machine
            if isinstance(machine, MasterStore):
                machine.apply(operation, now)
                driver.wake(now)
                return
            number = machine.write(operation, now, _TIMEOUT_S)
            if is_increment:
                self._increments.add(number)
                driver._waiting[number] = None  # noqa: SLF001 - what `write_and_wait` does, without the waiting
            driver.service(now)
        process.world.after(_SOON_S, lambda: process.do(self.look))

    def look(self) -> None:
        """See what became of increments."""
        waiting = self.driver._waiting  # noqa: SLF001 - as above
        for number in list(self._increments):
            done = waiting[number]
            if done is not None:
                self._increments.discard(number)
                del waiting[number]
                self.outcomes[done.result.code] += 1
        self.outcomes["pending"] = len(self._increments)

    def counted(self, master: MasterStore) -> int:
        """What the master has counted for this process."""
        blob = master.backend.get(self.counter_key)
        value = 0 if blob is None else decode_value(blob)
        return value if isinstance(value, int) else -1

    @property
    def clone(self) -> CloneStore | None:
        """The replica, if it is a clone."""
        machine = self.driver.machine
        return machine if isinstance(machine, CloneStore) else None
