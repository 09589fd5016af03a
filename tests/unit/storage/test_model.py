"""A spool against a model, through any sequence of calls, failures, power cuts and kills."""

from __future__ import annotations

from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from rapini.errors import StoreError
from rapini.storage import Hole, Record, Spool
from rapini.testing import CrashableDisk
from tests.unit.storage.support import covered, open_spool

TOPICS = ("a/x", "a/y", "b/z")
NAMES = ("manager", "logger")
MAX_BYTES = 40_000


class SpoolMachine(RuleBasedStateMachine):
    """The model: what was appended, how far it is durable, how far it was removed, and who acknowledged what."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Record] = []
        self.synced = 0
        self.removed = 0
        self.saved: dict[str, int] = {}  # positions that are on the disk at least
        self.positions: dict[str, int] = {}
        self.spool: Spool

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.random = Random(seed)
        self.disk = CrashableDisk()
        self.open()

    def open(self) -> None:
        self.spool = open_spool(self.disk, max_bytes=MAX_BYTES, segment_bytes=1200)

    def teardown(self) -> None:
        if hasattr(self, "spool"):
            self.disk.fail_sync = lambda _: False
            self.disk.free_bytes = None
            self.spool.close()

    # --- Rules ---------------------------------------------------------------------------------------------------

    @rule(count=st.integers(1, 5), topic=st.sampled_from(TOPICS), size=st.sampled_from((0, 10, 300, 2000)))
    def append(self, count: int, topic: str, size: int) -> None:
        data = self.random.randbytes(size)
        before = self.spool.next_sequence
        try:
            first = self.spool.append(count, topic, data)
        except StoreError as failure:
            assert failure.code == "spool_full"  # noqa: PT017 - the model goes on after it
            assert self.spool.size_bytes + size > MAX_BYTES - 200
            assert self.spool.next_sequence == before
            return
        assert first == before
        self.records.append(Record(first, count, topic, data))

    @rule()
    def sync(self) -> None:
        try:
            self.synced = self.spool.sync()
        except StoreError as failure:
            assert failure.code in {"sync_failed", "disk_full"}  # noqa: PT017 - the model goes on after it
            assert self.spool.synced_sequence == self.synced
            return
        assert self.synced == self.spool.next_sequence

    @rule(
        prefixes=st.sampled_from((("",), ("a/",), ("b/", "a/y"), ("none",))),
        max_bytes=st.sampled_from((1, 700, 100_000)),
        choice=st.integers(0, 10**6),
    )
    def read(self, prefixes: tuple[str, ...], max_bytes: int, choice: int) -> None:
        starts = [0, self.removed, *(record.first_sequence for record in self.records), self.spool.next_sequence]
        position = start = starts[choice % len(starts)]
        items: list[Record | Hole] = []
        while position < self.synced:
            found, reached = self.spool.read(position, prefixes=prefixes, max_bytes=max_bytes)
            data = [item.data for item in found if isinstance(item, Record)]
            assert sum(map(len, data)) <= max(max_bytes, len(data[0]) if data else 0)
            assert position < reached <= self.synced
            items, position = items + found, reached
        kept = [r for r in self.records if max(start, self.removed) <= r.first_sequence < self.synced]
        assert [item for item in items if isinstance(item, Record)] == [
            record for record in kept if record.topic.startswith(prefixes)
        ]
        hole = [Hole(start, self.removed - start, "trimmed")] if start < min(self.removed, self.synced) else []
        assert [item for item in items if isinstance(item, Hole)] == hole
        if prefixes == ("",) and start < self.synced:
            assert covered(items, start, self.synced)

    @rule(name=st.sampled_from(NAMES), wall_now=st.floats(-1e12, 1e12))
    def set_consumer(self, name: str, wall_now: float) -> None:
        position = self.positions.get(name, self.removed)
        try:
            self.spool.set_consumer(name, prefixes=["a/"], position=position, wall_now=wall_now)
        except StoreError:
            self.saved.setdefault(name, 0)
        else:
            self.saved[name] = position
            assert self.spool.consumers()[name].last_seen == wall_now
        self.positions[name] = position

    @rule(name=st.sampled_from(NAMES), back=st.integers(0, 8))
    def acknowledge(self, name: str, back: int) -> None:
        if name in self.positions:
            position = max(self.synced - back, 0)
            self.spool.acknowledge(name, position)
            self.positions[name] = max(self.positions[name], position)

    @rule()
    def trim(self) -> None:
        before = self.spool.size_bytes
        owed = min(self.positions.values(), default=self.synced)
        try:
            freed = self.spool.trim()
        except StoreError:
            freed = None
        else:
            self.saved = {name: max(self.saved[name], 0) for name in self.positions}
            assert before - self.spool.size_bytes == freed
        oldest = self.spool.oldest_sequence
        assert self.removed <= oldest <= max(owed, self.removed)
        self.removed = oldest

    @rule(size=st.sampled_from((1, 3000)))
    def drop_oldest(self, size: int) -> None:
        before, size_before = self.removed, self.spool.size_bytes
        try:
            holes = self.spool.drop_oldest(size)
        except StoreError:
            self.removed = self.spool.oldest_sequence
            return
        self.removed = self.spool.oldest_sequence
        assert sum(hole.count for hole in holes) == self.removed - before
        assert not holes or covered(list(holes), before, self.removed)
        assert size_before - self.spool.size_bytes >= size or self.removed == self.synced

    @rule()
    def restart(self) -> None:
        self.heal()
        self.spool.close()
        self.synced = self.spool.synced_sequence
        self.disk = self.disk.crash(self.random)  # everything is durable after close
        self.open()
        assert (self.spool.torn_bytes, self.spool.damages()) == (0, [])
        assert {name: state.position for name, state in self.spool.consumers().items()} == self.positions
        self.saved = dict(self.positions)
        assert self.spool.next_sequence == self.synced

    @rule(by=st.sampled_from(("power cut", "kill")))
    def crash(self, by: str) -> None:
        self.disk = self.disk.kill() if by == "kill" else self.disk.crash(self.random)
        self.heal()
        self.open()
        # Writes happen in sync alone, and none is under way, so nothing that was not acknowledged is found; but for
        # runs whose sync failed.
        assert self.synced <= self.spool.synced_sequence
        self.records = [r for r in self.records if r.first_sequence < self.spool.synced_sequence]
        self.synced = self.spool.synced_sequence
        assert self.spool.damages() == []
        found = {name: state.position for name, state in self.spool.consumers().items()}
        for name, position in found.items():
            assert self.saved[name] <= position <= self.positions[name]
        assert self.removed >= self.spool.oldest_sequence or not self.records
        self.removed = self.spool.oldest_sequence
        self.positions = found
        self.saved = dict(found)

    @rule()
    def break_syncs(self) -> None:
        self.disk.fail_sync = lambda name: name.endswith(".segment")

    @rule(free=st.integers(0, 3000))
    def fill_disk(self, free: int) -> None:
        self.disk.free_bytes = free

    @rule()
    def heal(self) -> None:
        self.disk.fail_sync = lambda _: False
        self.disk.free_bytes = None

    # --- Invariants ----------------------------------------------------------------------------------------------

    @invariant()
    def bounds_hold(self) -> None:
        if not hasattr(self, "spool"):
            return
        assert self.spool.size_bytes <= MAX_BYTES
        assert self.spool.synced_sequence == self.synced
        assert self.spool.next_sequence >= self.synced
        assert self.spool.damages() == []
        assert {name: state.position for name, state in self.spool.consumers().items()} == self.positions


TestSpoolModel = SpoolMachine.TestCase
TestSpoolModel.settings = settings(stateful_step_count=40, max_examples=max(settings().max_examples, 120))
