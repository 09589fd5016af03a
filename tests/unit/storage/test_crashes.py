"""Power cuts: after every operation, in every order that a disk may choose, what was acknowledged is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from rapini.errors import StoreError
from rapini.storage import FileCheckpoint, Hole, Record, Spool
from rapini.testing import CrashableDisk
from tests.unit.storage.support import covered, open_spool, read_all

SAMPLES = 6


class Life:
    """A spool at work, and what it promised; after every disk operation the power fails in several ways."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.disk = CrashableDisk()
        self.written: list[tuple[int, int, str, bytes]] = []
        self.synced = 0
        self.owed: dict[str, tuple[int, int]] = {}  # consumer: position that was saved, and that it acknowledged
        self.crashes = 0
        self.torn = 0

    def attend(self) -> None:
        self.disk.on_operation = lambda _: self.check()

    def check(self) -> None:
        for odds in (0.0, 1.0, *[None] * SAMPLES):
            self.crashes += 1
            disk = self.disk.crash(self.random, odds=odds)
            again: list[CrashableDisk] = []
            # While it recovers the power fails once more, now and then.
            disk.on_operation = self._crash_into(disk, again)
            self.compare(disk)
            for other in self.random.sample(again, min(len(again), 1)):
                self.compare(other)
        self.compare(self.disk.kill())

    def _crash_into(self, disk: CrashableDisk, again: list[CrashableDisk]) -> Callable[[str], None]:
        return lambda _: again.append(disk.crash(self.random))

    def compare(self, disk: CrashableDisk) -> None:
        with open_spool(disk, segment_bytes=2000) as spool:
            disk.on_operation = lambda _: None
            self.torn += spool.torn_bytes
            assert spool.synced_sequence >= self.synced
            items = read_all(spool)
            assert covered(items, 0, spool.synced_sequence)
            end = spool.synced_sequence
            with open_spool(disk.crash(self.random, odds=0.0), segment_bytes=2000) as later:
                assert later.synced_sequence == end  # what it believed to be durable was
                assert read_all(later) == items
                assert later.torn_bytes == 0
            known = {first: (count, topic, data) for first, count, topic, data in self.written}
            for item in items:
                if isinstance(item, Record):  # nothing is invented
                    assert known[item.first_sequence] == (item.count, item.topic, item.data)
                elif item.reason == "damaged":  # a write that the crash left out, before one that it did not
                    assert item.first_sequence >= self.synced
            consumers = spool.consumers()
            for name, (saved, acknowledged) in self.owed.items():
                assert saved <= consumers[name].position <= acknowledged
                owed = [i for i in read_all(spool, consumers[name].position) if isinstance(i, Hole)]
                assert all(hole.first_sequence >= self.synced for hole in owed)
            first = spool.append(3, "after/", b"after the crash")
            assert first == end
            assert spool.sync() == end + 3
            assert read_all(spool, end) == [Record(end, 3, "after/", b"after the crash")]
        with open_spool(disk, segment_bytes=2000) as spool:
            assert [item for item in read_all(spool) if isinstance(item, Record)][-1].first_sequence == end
            assert spool.torn_bytes == 0


@pytest.mark.parametrize("seed", range(3))
def test_what_was_acknowledged_survives_a_power_cut_after_any_operation(seed: int) -> None:
    life = Life(seed)
    random = Random(1000 + seed)
    spool = open_spool(life.disk, segment_bytes=2000)
    life.attend()
    spool.set_consumer("manager", prefixes=["log/"], position=0, wall_now=5.0)
    life.owed["manager"] = (0, 0)
    for step in range(9):
        for _ in range(random.randrange(1, 5)):
            count, data = random.randrange(1, 4), random.randbytes(random.randrange(0, 900))
            first = spool.append(count, f"log/{step}", data)
            life.written.append((first, count, f"log/{step}", data))
        life.synced = spool.sync()
        if step in {3, 7}:
            position = life.written[-3][0]
            life.owed["manager"] = (life.owed["manager"][0], position)
            spool.acknowledge("manager", position)
            spool.trim()
            life.owed["manager"] = (position, position)
    spool.close()
    assert life.crashes > 300
    assert life.torn > 0  # torn tails were among them


def test_a_spool_is_made_whole_or_not_at_all() -> None:
    random = Random(7)
    disk = CrashableDisk()
    left: list[CrashableDisk] = []
    disk.on_operation = lambda _: left.extend(disk.crash(random) for _ in range(5))
    open_spool(disk).close()
    assert len(left) > 40
    for crashed in left:
        with open_spool(crashed) as spool:
            assert (spool.next_sequence, spool.damages(), spool.consumers_lost) == (0, [], False)


def test_an_acknowledged_trim_is_no_damage_and_owes_nothing_again() -> None:
    """Files vanish one by one, in any order: nothing looks lost that was removed on purpose."""
    random = Random(3)
    disk = CrashableDisk()
    spool = open_spool(disk, segment_bytes=500)
    spool.set_consumer("a", prefixes=[""], position=0, wall_now=0.0)
    for number in range(12):
        spool.append(1, "t", bytes(600))
        spool.sync()
        assert spool.next_sequence == number + 1
    spool.acknowledge("a", 9)
    crashed: list[CrashableDisk] = []
    removing: list[bool] = []

    def note(operation: str) -> None:
        removing.append(operation.startswith("remove"))
        crashed.extend(disk.crash(random) for _ in range(12))

    disk.on_operation = note
    assert spool.trim() > 9 * 600
    assert sum(removing) >= 9
    for other in crashed:
        with open_spool(other, segment_bytes=500) as again:
            assert again.check() == []
            position = again.consumers()["a"].position
            assert position in {0, 9}
            assert [item.first_sequence for item in read_all(again, position)] == list(range(position, 12))


def test_a_failed_fsync_promises_nothing_and_loses_nothing() -> None:
    """The kernel drops the pages and calls the next fsync a success; so there must not be one of that file."""
    disk = CrashableDisk()
    spool = open_spool(disk)
    spool.append(1, "t", b"zero")
    assert spool.sync() == 1
    disk.fail_sync = lambda name: name.endswith(".segment")
    spool.append(1, "t", b"one")
    for _ in range(3):
        with pytest.raises(StoreError) as failure:
            spool.sync()
        assert failure.value.code == "sync_failed"
        assert spool.synced_sequence == 1
    assert [item.first_sequence for item in read_all(spool)] == [0]
    disk.fail_sync = lambda _: False
    spool.append(1, "t", b"two")
    assert spool.sync() == 3
    first, *later = [disk.contents(path) for path in disk.paths() if path.suffix == ".segment"]
    assert b"one" not in first
    assert b"one" in b"".join(later)
    for odds in (0.0, 0.5, 1.0):
        with open_spool(disk.crash(Random(1), odds=odds)) as again:
            assert [item.data for item in read_all(again) if isinstance(item, Record)] == [b"zero", b"one", b"two"]
            assert again.check() == []
    spool.close()


def owe(spool: Spool) -> None:
    spool.set_consumer("a", prefixes=[""], position=0, wall_now=0.0)


@pytest.mark.parametrize("failing", ["folder", "state.a.new", "state.b.new"])
def test_other_failed_syncs_are_told_too(failing: str) -> None:
    disk = CrashableDisk()
    spool = open_spool(disk)
    disk.fail_sync = lambda name: name == (failing if failing != "folder" else "spool")
    spool.append(1, "t", b"zero")
    attempt = spool.sync if failing == "folder" else lambda: owe(spool)
    with pytest.raises(StoreError) as failure:
        attempt()
    assert failure.value.code in {"sync_failed", "write_failed"}
    disk.fail_sync = lambda _: False
    assert spool.sync() == 1
    owe(spool)
    with open_spool(disk.crash(Random(1), odds=0.0)) as again:
        assert len(read_all(again)) == 1
        assert list(again.consumers()) == ["a"]
    spool.close()


@pytest.mark.parametrize("before", [0, 1])
def test_after_a_failed_fsync_a_killed_process_leaves_nothing_that_looks_durable(before: int) -> None:
    """Another process would read the pages that the kernel has still, sync the file with success, and trust it."""
    disk = CrashableDisk()
    spool = open_spool(disk)
    for _ in range(before):
        spool.append(1, "t", b"zero")
        spool.sync()
    disk.fail_sync = lambda name: name.endswith(".segment")
    spool.append(1, "t", b"one")
    with pytest.raises(StoreError):
        spool.sync()
    disk.fail_sync = lambda _: False
    killed = disk.kill()
    with open_spool(killed) as again:
        promised = [item for item in read_all(again) if isinstance(item, Record)]
    with open_spool(killed.crash(Random(2), odds=0.0)) as last:
        assert [item for item in read_all(last) if isinstance(item, Record)] == promised
        assert [item.data for item in promised] == [b"zero"] * before
        assert last.check() == []


def test_output_and_positions_move_together_through_any_crash() -> None:
    output, stream = Path("out/log"), b"s" * 16
    for seed in range(4):
        random = Random(seed)
        disk = CrashableDisk()
        crashed: list[tuple[int, CrashableDisk]] = []
        committed = 0
        disk.on_operation = lambda _: crashed.extend((committed, disk.crash(random)) for _ in range(4))  # noqa: B023
        checkpoint = FileCheckpoint(output, files=disk)
        for number in range(6):
            checkpoint.write(b"line %d\n" % number * 100)
            if number == 2:
                checkpoint.write(bytes(1 << 20))  # goes to the file before the commit
            checkpoint.commit({stream: number + 1})
            committed = number + 1
        for promised, other in crashed:
            with FileCheckpoint(output, files=other) as again:
                position = again.positions().get(stream, 0)
                assert position in {promised, promised + 1}
                text = other.contents(output)
                assert text.count(b"line") == 100 * position
                assert not position or text.endswith((b"line %d\n" % (position - 1), bytes(100)))
                assert len(text) == again.length
