"""Rot: any bit flipped, any file cut anywhere; all other records survive, and what is lost is told with its place."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapini.errors import StoreError
from rapini.storage import Damage, Hole, Record
from rapini.storage.records import HEADER_BYTES, Junk, Stored, encode_header, scan
from rapini.storage.segments import SEGMENT_HEADER_BYTES
from rapini.testing import CrashableDisk
from tests.unit.storage.support import FOLDER, MARKER, covered, open_spool, read_all

RECORDS = 24


def filled(*, closed: bool = True) -> CrashableDisk:
    """A disk with a spool of several segments, whose records have data of 0 to 800 bytes."""
    random = Random(5)
    disk = CrashableDisk()
    spool = open_spool(disk, segment_bytes=1500)
    spool.set_consumer("manager", prefixes=["t"], position=0, wall_now=1.5)
    for number in range(RECORDS):
        spool.append(number % 3 + 1, f"t/{number % 4}", random.randbytes(random.choice((0, 1, 100, 800))))
        spool.sync()
    if closed:
        spool.close()
    return disk.kill()


CLOSED, CRASHED = filled(), filled(closed=False)
SEGMENTS = [path for path in CLOSED.paths() if path.suffix == ".segment"]
FILES = [path for path in CLOSED.paths() if CLOSED.contents(path)]


def reader_of(data: bytes) -> Callable[[int, int], bytes]:
    return lambda at, size: data[at : at + size]


def places(disk: CrashableDisk, path: Path) -> list[Stored]:
    """The records of an undamaged segment."""
    data = disk.contents(path)
    found = scan(reader_of(data), MARKER, SEGMENT_HEADER_BYTES, len(data))
    return [item for item in found if isinstance(item, Stored)]


def survivors(disk: CrashableDisk) -> tuple[list[Record], list[Hole], list[Damage], int]:
    with open_spool(disk, segment_bytes=1500) as spool:
        spool.check()
        items = read_all(spool)
        assert covered(items, 0, spool.synced_sequence)
        assert spool.stream_id == (1).to_bytes(16, "big")
        records = [item for item in items if isinstance(item, Record)]
        return records, [i for i in items if isinstance(i, Hole)], spool.damages(), spool.torn_bytes


WHOLE = survivors(CLOSED.kill())[0]


def test_there_is_something_to_damage() -> None:
    assert len(WHOLE) == RECORDS
    assert len(SEGMENTS) >= 4
    assert [path.name for path in FILES if path not in SEGMENTS] == ["state.a", "state.b"]
    assert survivors(CRASHED.kill()) == (WHOLE, [], [], 0)


@given(st.data())
def test_a_flipped_bit_costs_the_record_that_has_it_and_no_other(data: st.DataObject) -> None:
    disk = CLOSED.kill()
    path = data.draw(st.sampled_from(FILES))
    contents = bytearray(disk.contents(path))
    at = data.draw(st.integers(0, len(contents) - 1))
    contents[at] ^= 1 << data.draw(st.integers(0, 7))
    disk.replace(path, bytes(contents))
    records, holes, damages, torn = survivors(disk)
    hit = [r for r in (places(CLOSED, path) if path in SEGMENTS else []) if r.offset <= at < r.end]
    assert records == [r for r in WHOLE if not hit or r.first_sequence != hit[0].sequence]
    assert holes == [Hole(r.sequence, r.count, "damaged") for r in hit]
    assert torn == 0
    assert [damage.file for damage in damages] == [path]
    assert damages[0].offset <= at < damages[0].offset + damages[0].size
    assert (damages[0].count, damages[0].offset) == ((hit[0].count, hit[0].offset) if hit else (0, 0))


@given(st.data())
def test_a_cut_file_costs_what_was_cut_off_and_nothing_else(data: st.DataObject) -> None:
    disk = CLOSED.kill()
    path = data.draw(st.sampled_from(SEGMENTS))
    size = data.draw(st.integers(0, len(disk.contents(path)) - 1))
    disk.replace(path, disk.contents(path)[:size])
    records, holes, damages, _ = survivors(disk)
    lost = [r for r in places(CLOSED, path) if r.end > size]
    first, count = lost[0].sequence, sum(r.count for r in lost)
    assert records == [r for r in WHOLE if not first <= r.first_sequence < first + count]
    assert holes == [Hole(first, count, "damaged")]
    told = [damage for damage in damages if damage.count]
    assert [(d.file, d.first_sequence, d.count) for d in told] == [(path, first, count)]
    assert told[0].offset == min(lost[0].offset, size)


@given(st.data())
def test_after_a_crash_too_only_the_record_that_was_hit_is_lost(data: st.DataObject) -> None:
    """Without a last word of the writer, a bad end looks like a torn tail: counted, and not called damage."""
    disk = CRASHED.kill()
    path = data.draw(st.sampled_from(SEGMENTS))
    contents = bytearray(disk.contents(path))
    at = data.draw(st.integers(SEGMENT_HEADER_BYTES, len(contents) - 1))
    contents[at] ^= 1 << data.draw(st.integers(0, 7))
    disk.replace(path, bytes(contents))
    records, holes, damages, torn = survivors(disk)
    hit = next(r for r in places(CRASHED, path) if r.offset <= at < r.end)
    assert records == [r for r in WHOLE if r.first_sequence != hit.sequence]
    if hit.sequence == WHOLE[-1].first_sequence:
        assert (holes, damages) == ([], [])
        assert torn >= hit.end - hit.offset
    else:
        assert holes == [Hole(hit.sequence, hit.count, "damaged")]
        assert [damage.file for damage in damages] == [path]
        assert torn == 0


@given(st.data())
def test_any_rot_anywhere_invents_nothing_and_leaves_no_silence(data: st.DataObject) -> None:
    disk = CLOSED.kill()
    for _ in range(data.draw(st.integers(1, 5))):
        path = data.draw(st.sampled_from(SEGMENTS))
        contents = disk.contents(path)
        start = data.draw(st.integers(0, len(contents)))
        rot = data.draw(st.binary(max_size=40) | st.just(MARKER) | st.just(contents[: len(contents) // 2]))
        skip = data.draw(st.sampled_from((0, len(rot), 7)))
        disk.replace(path, contents[:start] + rot + contents[start + skip :])
    records, holes, damages, _ = survivors(disk)
    assert all(record in WHOLE for record in records)
    assert len(records) == RECORDS or holes
    assert not holes or damages


def test_a_missing_segment_is_a_hole_and_a_damage() -> None:
    disk = CLOSED.kill()
    gone = places(disk, SEGMENTS[1])
    disk.remove(SEGMENTS[1])
    records, holes, damages, _ = survivors(disk)
    assert holes == [Hole(gone[0].sequence, sum(r.count for r in gone), "damaged")]
    assert len(records) == RECORDS - len(gone)
    assert [(damage.file, damage.size) for damage in damages] == [(SEGMENTS[0], 0)]


def test_a_segment_that_vanishes_while_the_spool_is_open_is_a_hole_too() -> None:
    disk = CLOSED.kill()
    gone = places(disk, SEGMENTS[1])
    with open_spool(disk, segment_bytes=1500) as spool:
        disk.remove(SEGMENTS[1])
        holes = [item for item in read_all(spool) if isinstance(item, Hole)]
        assert holes == [Hole(gone[0].sequence, sum(r.count for r in gone), "damaged")]
        assert [damage.file for damage in spool.damages()] == [SEGMENTS[1]]


def test_both_states_lost_keeps_the_records_and_the_stream_and_trims_nothing() -> None:
    disk = CLOSED.kill()
    for name in ("state.a", "state.b"):
        disk.replace(FOLDER / name, b"rot")
    with open_spool(disk, segment_bytes=1500) as spool:
        assert spool.stream_id == (1).to_bytes(16, "big")
        assert read_all(spool) == WHOLE
        assert [damage.file.name for damage in spool.damages()] == ["state.a", "state.b"]
        assert (spool.consumers(), spool.consumers_lost, spool.trim()) == ({}, True, 0)
    with open_spool(disk, segment_bytes=1500) as spool:
        assert (spool.consumers_lost, spool.trim(), spool.damages()) == (True, 0, [])
        spool.consumers_complete()
        assert spool.trim() > 0
        assert not spool.consumers_lost


def test_with_nothing_left_to_tell_the_stream_there_is_an_error_and_no_new_stream() -> None:
    disk = CLOSED.kill()
    for path in disk.paths():
        disk.replace(path, b"rot")
    with pytest.raises(StoreError) as failure:
        open_spool(disk)
    assert failure.value.code == "damaged"
    with pytest.raises(StoreError):  # the lock was let go, so it is still that
        open_spool(disk)
    assert failure.value.path == str(FOLDER)


def test_an_event_that_looks_like_records_is_not_taken_for_them() -> None:
    """Whoever can send events does not know the marker; with another one, nothing that he builds is found."""
    disk = CrashableDisk()
    forged = encode_header(b"guessed!", 1, 1, b"t", b"forged") + b"t" + b"forged"
    with open_spool(disk) as spool:
        spool.append(1, "t", forged * 3)
        spool.append(1, "t", b"good")
        spool.sync()
    path = next(path for path in disk.paths() if path.suffix == ".segment")
    contents = bytearray(disk.contents(path))
    contents[SEGMENT_HEADER_BYTES + 12] ^= 1  # the length of the first
    disk.replace(path, bytes(contents))
    with open_spool(disk) as spool:
        assert read_all(spool) == [Hole(0, 1, "damaged"), Record(1, 1, "t", b"good")]


def test_a_sector_that_cannot_be_read_costs_its_records_only() -> None:
    class BadSector(CrashableDisk):
        def read(self, handle: int, offset: int, length: int) -> bytes:
            if offset < 9000 <= offset + length and self._open[handle][0].suffix == ".segment":
                raise OSError(errno.EIO, "unreadable sector")
            return super().read(handle, offset, length)

    disk = BadSector()
    with open_spool(disk, segment_bytes=1 << 16) as spool:
        for number in range(20):
            spool.append(1, "t", bytes([number + 1]) * 1000)
        spool.sync()
        items = read_all(spool)
    lost = sum(item.count for item in items if isinstance(item, Hole))
    assert 1 <= lost <= 6  # what lies in one page of 4096 bytes, and at its edges
    assert len([item for item in items if isinstance(item, Record)]) == 20 - lost
    assert covered(items, 0, 20)


@given(st.binary(max_size=400), st.integers(0, 50))
def test_scanning_any_bytes_ends_and_covers_them_all(data: bytes, split: int) -> None:
    record = encode_header(MARKER, 9, 2, b"t", b"data") + b"tdata"
    for text in (data, data[:split] + record + data[split:], record + MARKER + data, data + record[: split % 40]):
        at = 0
        for item in scan(reader_of(text), MARKER, 0, len(text)):
            assert item.offset == at < item.end
            if isinstance(item, Stored):
                assert (item.sequence, item.data, item.end - item.offset) == (9, b"data", HEADER_BYTES + 5)
            else:
                assert isinstance(item, Junk)
            at = item.end
        assert at == len(text)
