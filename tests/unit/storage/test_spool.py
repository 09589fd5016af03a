"""What a spool does for its callers, call by call."""

from __future__ import annotations

import threading
import time
import tracemalloc
from pathlib import Path
from random import Random

import pytest

from rapini.errors import ConfigError, LocalError, StoreError
from rapini.limits import MAX_FRAME_BYTES, MAX_TOPIC_BYTES
from rapini.storage import REAL, ConsumerState, Hole, Record, Spool
from rapini.storage.files import RealFiles
from rapini.storage.log import MAX_UNSYNCED_BYTES
from rapini.storage.reading import Missing, walk
from rapini.storage.records import Stored, encode_header
from rapini.storage.segments import SEGMENT_HEADER_BYTES, Segment, SegmentHeader, segment_path
from rapini.testing import CrashableDisk
from tests.unit.storage.support import FOLDER, MARKER, open_spool, read_all


def segments_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.segment"))


def owed(spool: Spool, name: str, position: int) -> None:
    spool.set_consumer(name, prefixes=["t"], position=position, wall_now=100.0)


def fill(spool: Spool) -> None:
    for _ in range(1000):
        spool.append(1, "t", bytes(500))
        spool.sync()


# --- The stream --------------------------------------------------------------------------------------------------


def test_what_is_synced_is_read_again_by_the_next_opener(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "spool"
    with Spool.open(folder, max_bytes=1 << 20) as spool:
        stream_id = spool.stream_id
        assert spool.append(3, "log/conn", b"three") == 0
        assert spool.append(1, "log/dns", b"") == 3
        assert (spool.next_sequence, spool.synced_sequence) == (4, 0)
        assert spool.read(0, max_bytes=100) == ([], 0)  # what is not durable is told to nobody
        assert spool.sync() == 4
        assert spool.sync() == 4
        assert spool.syncs == 1
    with Spool.open(folder, max_bytes=1 << 20) as spool:
        assert (spool.stream_id, len(stream_id)) == (stream_id, 16)
        assert spool.read(0, max_bytes=100) == ([Record(0, 3, "log/conn", b"three"), Record(3, 1, "log/dns", b"")], 4)
        assert spool.append(1, "log/dns", b"more") == 4
    assert Spool.open(tmp_path / "b", max_bytes=1 << 20).stream_id != stream_id
    assert folder.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())


def test_reading_takes_a_prefix_at_a_time_and_skips_the_rest() -> None:
    with open_spool(CrashableDisk()) as spool:
        for number in range(10):
            spool.append(2, "a/x" if number % 2 else "b/x", bytes(100))
        spool.sync()
        items, position = spool.read(0, prefixes=("b/",), max_bytes=250)
        assert [item.first_sequence for item in items] == [0, 4]
        items, position = spool.read(position, prefixes=("b/",), max_bytes=1)
        assert [item.first_sequence for item in items] == [8]  # one at least
        assert spool.read(position, prefixes=("c", "none"), max_bytes=1) == ([], 20)
        assert spool.read(20, max_bytes=1) == ([], 20)
        assert spool.read(99, max_bytes=1) == ([], 99)
        assert [item.first_sequence for item in spool.read(5, max_bytes=1)[0]] == [4]  # the run that has it


def test_a_reader_whom_nothing_concerns_looks_at_a_bounded_stretch_in_a_call() -> None:
    with open_spool(CrashableDisk(), max_bytes=1 << 25, segment_bytes=1 << 24) as spool:
        for _ in range(100):
            spool.append(1, "a", bytes(100_000))
        spool.append(1, "b", b"found")
        spool.sync()
        calls, position, items = 0, 0, []
        while position < spool.synced_sequence:
            found, position = spool.read(position, prefixes=("b",), max_bytes=10)
            items += found
            calls += 1
        assert items == [Record(100, 1, "b", b"found")]
        assert calls == 3


def test_a_run_that_was_written_twice_is_read_once_and_its_damage_is_whole() -> None:
    """After a failed fsync a run may lie in two places; and stale bytes between good ones belong to the bad place."""
    first, second, third = (encode_header(MARKER, n, 1, b"t", b"x") + b"tx" for n in range(3))
    data = SegmentHeader(stream_id=bytes(16), marker=MARKER, first=0, serial=0).encode()
    data += first + b"?" + second[1:] + first + third + third
    segment = Segment(path=Path("s"), first=0, serial=0, size=len(data))

    def walked(end: int | None) -> list[object]:
        read = walk(
            lambda at, size: data[at : at + size], MARKER, segment, offset=SEGMENT_HEADER_BYTES, expected=0, end=end
        )
        return [item.sequence if isinstance(item, Stored) else item for item in read]

    bad_at = SEGMENT_HEADER_BYTES + len(first)
    assert walked(None) == walked(3) == [0, Missing(1, 1, bad_at, len(second) + len(first)), 2]
    assert walked(2) == [0, Missing(1, 1, bad_at, len(data) - bad_at)]  # 2 is the next segment's
    assert walked(1) == [0]


def test_a_segment_that_was_in_the_making_when_the_power_went_is_no_damage() -> None:
    """Its length may be on the disk before anything in it (seed 224)."""
    disk = CrashableDisk()
    spool = open_spool(disk, segment_bytes=1500)
    spool.append(1, "t", bytes(2000))
    spool.sync()
    spool.close()
    killed = disk.kill()
    path = segment_path(FOLDER, 1, 0)
    killed.close(killed.create(path))
    killed.replace(path, bytes(700))
    with open_spool(killed, segment_bytes=1500) as again:
        assert again.damages() == []
        assert [item for item in read_all(again) if not isinstance(item, Record)] == []
        assert again.append(1, "t", b"next") == 1


def test_a_torn_tail_is_cut_off_and_counted_once() -> None:
    disk = CrashableDisk()
    spool = open_spool(disk)
    spool.append(1, "t", b"whole")
    spool.sync()
    killed = disk.kill()
    (path,) = (path for path in killed.paths() if path.suffix == ".segment")
    whole = killed.contents(path)
    killed.replace(path, whole + encode_header(MARKER, 1, 1, b"t", b"torn") + b"tto")
    for torn in (32 + 3, 0):
        with open_spool(killed) as again:
            assert (again.torn_bytes, again.damages()) == (torn, [])
            assert read_all(again) == [Record(0, 1, "t", b"whole")]
            assert killed.contents(path) == whole
    spool.close()


def test_records_that_cannot_be_kept_are_refused() -> None:
    with open_spool(CrashableDisk(), max_bytes=1 << 26) as spool:
        for count, topic, data in (
            (0, "t", b""),
            (2**32, "t", b""),
            (1, "t" * (MAX_TOPIC_BYTES + 1), b""),
            (1, "t", bytes(MAX_FRAME_BYTES + 1)),
        ):
            with pytest.raises(LocalError) as failure:
                spool.append(count, topic, data)
            assert failure.value.code == "not_storable"
        largest = spool.append(1, "t" * MAX_TOPIC_BYTES, bytes(MAX_FRAME_BYTES))
        spool.sync()
        assert [item.first_sequence for item in read_all(spool)] == [largest]


def test_what_waits_in_memory_is_bounded() -> None:
    with open_spool(CrashableDisk(), max_bytes=1 << 26) as spool:
        for _ in range(20):
            spool.append(1, "t", bytes(1 << 20))
        assert spool.synced_sequence >= 20 - MAX_UNSYNCED_BYTES // (1 << 20)
        assert spool.syncs == 2


def test_memory_grows_with_the_segments_and_not_with_the_records(tmp_path: Path) -> None:
    with Spool.open(tmp_path / "s", max_bytes=1 << 26, segment_bytes=1 << 20) as spool:
        spool.append(1, "t", b"first")
        spool.sync()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(30_000):
            spool.append(1, "t", bytes(100))
            if number % 1000 == 0:
                spool.sync()
        spool.sync()
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert len(segments_of(tmp_path / "s")) == 4
        assert grown < 30_000  # less than a byte a record


@pytest.mark.parametrize("first", [0, 1])
def test_numbers_that_a_consumer_knows_and_we_do_not_are_a_hole(first: int) -> None:
    disk = CrashableDisk()
    expected: list[Record | Hole] = [Record(0, 1, "t", b"kept")] * first
    with open_spool(disk) as spool:
        for _ in expected:
            spool.append(1, "t", b"kept")
        spool.skip_to(5)
        spool.skip_to(3)
        with pytest.raises(LocalError):
            spool.skip_to(2**41)
        assert (spool.next_sequence, spool.synced_sequence) == (5, 5)
    reason = "damaged" if first else "trimmed"  # without a record there is no file that could be damaged
    with open_spool(disk) as spool:
        assert read_all(spool) == [*expected, Hole(first, 5 - first, reason)]  # type: ignore[arg-type]
        assert spool.append(1, "t", b"after") == 5
    for _ in range(2):
        with open_spool(disk) as spool:
            after = Record(5, 1, "t", b"after")
            assert read_all(spool) == [*expected, Hole(first, 5 - first, reason), after]  # type: ignore[arg-type]


# --- Group commit ------------------------------------------------------------------------------------------------


class SlowDisk(RealFiles):
    """An fsync that takes 20 ms, as a turning disk's."""

    def __init__(self) -> None:
        self.syncs = 0

    def sync(self, handle: int) -> None:
        self.syncs += 1
        time.sleep(0.02)
        super().sync(handle)


def test_threads_share_an_fsync_and_each_hears_when_its_own_is_durable(tmp_path: Path) -> None:
    files = SlowDisk()
    spool = Spool.open(tmp_path / "s", max_bytes=1 << 22, files=files)
    failures: list[str] = []
    files.syncs = 0

    def publish(name: int) -> None:
        for number in range(10):
            first = spool.append(1, f"t/{name}", b"%d" % number)
            if not spool.sync() > first or not spool.synced_sequence > first:
                failures.append(f"{name}: {number}")

    threads = [threading.Thread(target=publish, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert spool.synced_sequence == 80
    assert files.syncs == spool.syncs <= 30  # 80 without sharing
    records = [item for item in read_all(spool) if isinstance(item, Record)]
    assert len(records) == 80
    for name in range(8):
        assert [int(r.data) for r in records if r.topic == f"t/{name}"] == list(range(10))
    spool.close()


def test_all_who_wait_for_a_failing_sync_hear_of_it(tmp_path: Path) -> None:
    class Failing(SlowDisk):
        broken = False

        def sync(self, handle: int) -> None:
            super().sync(handle)
            if self.broken:
                time.sleep(0.1)
                raise OSError(5, "the disk does not answer")

    files = Failing()
    spool = Spool.open(tmp_path / "s", max_bytes=1 << 20, files=files)
    files.broken, files.syncs = True, 0
    codes: list[str] = []

    def publish() -> None:
        spool.append(1, "t", b"x")
        try:
            spool.sync()
        except StoreError as failure:
            codes.append(failure.code)

    threads = [threading.Thread(target=publish) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == ["sync_failed"] * 5
    assert files.syncs < 5  # a dying disk is not asked once for each
    assert spool.synced_sequence == 0
    files.broken = False
    assert spool.sync() == 5
    assert len(read_all(spool)) == 5
    spool.close()


def test_always_makes_every_append_durable_and_takes_a_failed_one_back() -> None:
    disk = CrashableDisk()
    spool = open_spool(disk, fsync="always")
    for number in range(3):
        assert spool.append(1, "t", b"x") == number
        assert spool.synced_sequence == number + 1
    disk.fail_sync = lambda _: True
    with pytest.raises(StoreError):
        spool.append(1, "t", b"refused")
    assert (spool.next_sequence, spool.size_bytes) == (3, 3 * 34 + SEGMENT_HEADER_BYTES)
    disk.fail_sync = lambda _: False
    assert spool.append(1, "t", b"taken") == 3
    with open_spool(disk.crash(Random(1), odds=0.0)) as again:
        assert [item.data for item in read_all(again) if isinstance(item, Record)] == [b"x", b"x", b"x", b"taken"]
    spool.close()


def test_always_keeps_exactly_what_it_took_though_threads_and_failures_meet(tmp_path: Path) -> None:
    class Flaky(RealFiles):
        calls = 0

        def sync(self, handle: int) -> None:
            self.calls += 1
            time.sleep(0.001)
            if self.calls % 3 == 0:
                raise OSError(5, "the disk does not answer")
            super().sync(handle)

    spool = Spool.open(tmp_path / "s", max_bytes=1 << 22, fsync="always", files=(files := Flaky()))
    taken: dict[int, bytes] = {}
    refused: list[bytes] = []
    done = threading.Event()

    def publish(name: int) -> None:
        for number in range(12):
            data = b"%d/%d" % (name, number)
            try:
                taken[spool.append(1, "t", data)] = data
            except StoreError:
                refused.append(data)

    def sync_again_and_again() -> None:
        while not done.is_set():
            try:
                spool.sync()
            except StoreError:
                pass

    threads = [threading.Thread(target=publish, args=(name,)) for name in range(4)]
    syncing = threading.Thread(target=sync_again_and_again)
    for thread in (*threads, syncing):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    syncing.join()
    files.calls = 0
    spool.close()
    assert len(taken) + len(refused) == 48
    assert refused
    with Spool.open(tmp_path / "s", max_bytes=1 << 22) as again:
        found = [item for item in read_all(again) if isinstance(item, Record)]
        assert {item.first_sequence: item.data for item in found} == taken
        assert again.check() == []


def test_never_survives_a_kill_and_asks_for_no_fsync() -> None:
    disk = CrashableDisk()
    spool = open_spool(disk, fsync="never")
    operations: list[str] = []
    disk.on_operation = operations.append
    spool.append(1, "t", b"x")
    assert spool.sync() == 1
    assert [operation.split()[0] for operation in operations] == ["create", "write"]
    with open_spool(disk.kill()) as again:
        assert len(read_all(again)) == 1
    spool.close()


@pytest.mark.parametrize("operation", ["write", "sync"])
def test_an_interrupt_in_the_middle_loses_nothing(tmp_path: Path, operation: str) -> None:
    """Ctrl-C strikes the thread that writes; what was appended is still there, and the next sync has it."""

    class Interrupted(RealFiles):
        armed = False

        def write(self, handle: int, offset: int, data: bytes) -> int:
            if self.armed and operation == "write":
                super().write(handle, offset, data[: len(data) // 2])
                raise KeyboardInterrupt
            return super().write(handle, offset, data)

        def sync(self, handle: int) -> None:
            if self.armed and operation == "sync":
                raise KeyboardInterrupt
            super().sync(handle)

    files = Interrupted()
    with Spool.open(tmp_path / "s", max_bytes=1 << 20, files=files) as spool:
        for number in range(2):  # the first begins a segment, the second goes on in it
            spool.append(1, "t", b"%d" % number * 100)
            files.armed = True
            with pytest.raises(KeyboardInterrupt):
                spool.sync()
            files.armed = False
            assert spool.synced_sequence == number
            if number:
                spool.append(1, "t", b"more")
            spool.sync()
        expected = [b"0" * 100, b"1" * 100, b"more"]
        assert [item.data for item in read_all(spool) if isinstance(item, Record)] == expected
    with Spool.open(tmp_path / "s", max_bytes=1 << 20) as again:
        assert [item.data for item in read_all(again) if isinstance(item, Record)] == expected
        assert (again.check(), again.torn_bytes) == ([], 0)


def test_a_write_that_fails_ends_its_segment() -> None:
    class FailingWrite(CrashableDisk):
        broken = False

        def write(self, handle: int, offset: int, data: bytes) -> int:
            if self.broken:
                super().write(handle, offset, data[:40])
                raise OSError(5, "the disk does not answer")
            return super().write(handle, offset, data)

    disk = FailingWrite()
    with open_spool(disk) as spool:
        spool.append(1, "t", b"zero")
        spool.sync()
        disk.broken = True
        spool.append(1, "t", b"one")
        with pytest.raises(StoreError) as failure:
            spool.sync()
        assert failure.value.code == "write_failed"
        disk.broken = False
        assert spool.sync() == 2
        assert len([path for path in disk.paths() if path.suffix == ".segment"]) == 2
    with open_spool(disk) as again:
        assert [item.data for item in read_all(again) if isinstance(item, Record)] == [b"zero", b"one"]
        assert again.check() == []


# --- Space -------------------------------------------------------------------------------------------------------


def test_a_full_spool_takes_nothing_more_until_something_was_acknowledged() -> None:
    with open_spool(CrashableDisk(), max_bytes=8192) as spool:
        owed(spool, "a", 0)
        with pytest.raises(StoreError) as failure:
            fill(spool)
        taken = spool.next_sequence
        assert failure.value.code == "spool_full"
        assert 8192 - 600 < spool.size_bytes <= 8192
        assert (spool.synced_sequence, len(read_all(spool))) == (taken, taken)
        spool.acknowledge("a", taken)
        assert spool.trim() > 4000
        assert spool.append(1, "t", bytes(500)) == taken


def test_a_full_disk_is_told_and_what_waits_goes_on_when_there_is_room() -> None:
    disk = CrashableDisk()
    spool = open_spool(disk)
    spool.append(1, "t", b"zero")
    spool.sync()
    (path,) = (path for path in disk.paths() if path.suffix == ".segment")
    length = len(disk.contents(path))
    disk.free_bytes = 100
    spool.append(1, "t", bytes(500))
    with pytest.raises(StoreError) as failure:
        spool.sync()
    assert (failure.value.code, spool.synced_sequence) == ("disk_full", 1)
    assert len(disk.contents(path)) == length  # nothing half-written stays, nor takes the last space
    killed = disk.kill()
    killed.free_bytes = None
    with open_spool(killed) as again:
        assert (len(read_all(again)), again.torn_bytes, again.damages()) == (1, 0, [])
    disk.free_bytes = 10_000
    assert spool.sync() == 2
    assert [len(item.data) for item in read_all(spool) if isinstance(item, Record)] == [4, 500]
    assert [path.name for path in disk.paths() if path.suffix == ".segment"] == [path.name]
    spool.close()


def test_a_spool_on_a_full_disk_can_be_opened_read_and_dropped_from() -> None:
    disk = CrashableDisk()
    spool = open_spool(disk, segment_bytes=1000)
    owed(spool, "a", 0)
    for _ in range(10):
        spool.append(1, "t", bytes(900))
        spool.sync()
    full = disk.kill()
    full.free_bytes = 0
    with open_spool(full, segment_bytes=1000) as again:
        assert len(read_all(again)) == 10
        holes = again.drop_oldest(2500)
        assert holes == [Hole(0, 2, "trimmed"), Hole(2, 2, "trimmed")]
        assert read_all(again)[0] == Hole(0, 4, "trimmed")
        again.append(1, "t", bytes(900))
        assert again.sync() == 11
    with open_spool(full, segment_bytes=1000) as again:
        assert [item.first_sequence for item in read_all(again)] == [0, *range(4, 11)]
        assert again.check() == []
    spool.close()


def test_trim_keeps_what_somebody_is_owed_to_the_last_event() -> None:
    disk = CrashableDisk()
    with open_spool(disk, segment_bytes=500) as spool:
        for name in ("a", "b"):
            owed(spool, name, 0)
        for _ in range(6):
            spool.append(1, "t", bytes(500))
            spool.sync()
        spool.acknowledge("a", 6)
        assert (spool.trim(), spool.oldest_sequence) == (0, 0)
        spool.acknowledge("b", 2)
        size = spool.size_bytes
        assert (spool.trim(), spool.oldest_sequence) == (size - spool.size_bytes, 2)
        assert spool.size_bytes == size * 4 // 6
        assert read_all(spool)[0] == Hole(0, 2, "trimmed")
        spool.forget_consumer("b")
        spool.forget_consumer("nobody")
        assert spool.trim() > 0
        assert (spool.size_bytes, spool.oldest_sequence, spool.next_sequence) == (0, 6, 6)
        assert read_all(spool, 3) == [Hole(3, 3, "trimmed")]
        spool.append(1, "t", b"next")
    with open_spool(disk) as spool:
        assert read_all(spool, 5) == [Hole(5, 1, "trimmed"), Record(6, 1, "t", b"next")]
        assert spool.damages() == []


def test_dropping_the_oldest_takes_whole_segments_and_tells_what_is_gone() -> None:
    with open_spool(CrashableDisk(), segment_bytes=1000) as spool:
        owed(spool, "a", 0)
        for _ in range(6):
            spool.append(2, "t", bytes(600))
            spool.sync()
        assert spool.drop_oldest(0) == []
        assert spool.drop_oldest(1) == [Hole(0, 4, "trimmed")]
        spool.append(1, "t", b"waits")
        assert spool.drop_oldest(10**9) == [Hole(4, 4, "trimmed"), Hole(8, 4, "trimmed")]
        assert spool.drop_oldest(10**9) == []
        spool.sync()
        assert read_all(spool) == [Hole(0, 12, "trimmed"), Record(12, 1, "t", b"waits")]
        assert spool.consumers()["a"].position == 0


# --- Consumers ---------------------------------------------------------------------------------------------------


def test_consumers_are_remembered_with_what_they_acknowledged() -> None:
    disk = CrashableDisk()
    spool = open_spool(disk)
    spool.append(9, "t", b"x")
    spool.sync()
    spool.set_consumer("a", prefixes=["t", "u/"], position=2, wall_now=1e9)
    spool.acknowledge("a", 5)
    spool.acknowledge("a", 3)  # late: it does not go back
    assert spool.consumers() == {"a": ConsumerState(position=5, prefixes=("t", "u/"), last_seen=1e9)}
    with open_spool(disk.crash(Random(1), odds=0.0)) as again:
        assert again.consumers()["a"].position == 2  # to be delivered again, which is allowed
    spool.trim()
    with open_spool(disk.crash(Random(1), odds=0.0)) as again:
        assert again.consumers()["a"].position == 5
    spool.set_consumer("a", prefixes=["t"], position=5, wall_now=-3.0)  # the wall clock may go anywhere
    spool.acknowledge("a", 10**6)
    assert spool.consumers() == {"a": ConsumerState(position=9, prefixes=("t",), last_seen=-3.0)}
    spool.close()
    with open_spool(disk) as again:
        assert again.consumers() == {"a": ConsumerState(position=9, prefixes=("t",), last_seen=-3.0)}
        again.forget_consumer("a")
    with open_spool(disk) as again:
        assert again.consumers() == {}


def test_what_consumers_cannot_be_is_refused() -> None:
    with open_spool(CrashableDisk()) as spool:
        for position in (-1, 1):
            with pytest.raises(LocalError) as failure:
                owed(spool, "a", position)
            assert failure.value.code == "position_ahead"
        with pytest.raises(LocalError) as failure:
            spool.acknowledge("a", 0)
        assert failure.value.code == "unknown_consumer"


# --- Opening and closing -----------------------------------------------------------------------------------------


def test_a_second_opener_is_refused_until_the_first_closes(tmp_path: Path) -> None:
    for files, folder in ((REAL, tmp_path / "s"), (CrashableDisk(), FOLDER)):
        first = open_spool(files, folder=folder)
        with pytest.raises(StoreError) as failure:
            open_spool(files, folder=folder)
        assert failure.value.code == "spool_in_use"
        first.close()
        open_spool(files, folder=folder).close()


def test_a_folder_with_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(ConfigError) as failure:
        Spool.open(tmp_path, max_bytes=1 << 20)
    assert failure.value.code == "not_a_spool"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(StoreError) as not_a_folder:
        Spool.open(tmp_path / "thesis.txt", max_bytes=1 << 20)
    assert not_a_folder.value.code == "unreadable"


@pytest.mark.parametrize("options", [{"max_bytes": 4095}, {"segment_bytes": 0}, {"fsync": "sometimes"}])
def test_wrong_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as failure:
        open_spool(CrashableDisk(), **options)  # type: ignore[arg-type]
    assert failure.value.code == "bad_option"


def test_a_later_format_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = CrashableDisk()
    with monkeypatch.context() as later:
        later.setattr("rapini.storage.state.FORMAT", 2)
        spool = open_spool(disk)
        spool._state.format = 2
        spool.close()
    before = {path: disk.contents(path) for path in disk.paths()}
    with pytest.raises(StoreError) as failure:
        open_spool(disk)
    assert failure.value.code == "format_unknown"
    assert {path: disk.contents(path) for path in disk.paths()} == before


def test_a_closed_spool_says_so() -> None:
    disk = CrashableDisk()
    spool = open_spool(disk)
    spool.append(1, "t", b"synced by close")
    spool.close()
    spool.close()
    for call in (spool.sync, spool.trim, lambda: spool.append(1, "t", b""), lambda: spool.read(0, max_bytes=1)):
        with pytest.raises(LocalError) as failure:
            call()
        assert failure.value.code == "closed"
    assert disk._open == {}  # no handle is left
    with open_spool(disk) as again:
        assert len(read_all(again)) == 1


def test_a_spool_that_cannot_be_closed_well_is_let_go_of() -> None:
    disk = CrashableDisk()
    spool = open_spool(disk)
    spool.append(1, "t", b"lost")
    disk.fail_sync = lambda _: True
    with pytest.raises(StoreError):
        spool.close()
    disk.fail_sync = lambda _: False
    assert disk._open == {}
    open_spool(disk).close()
