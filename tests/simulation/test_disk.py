"""The simulated disk keeps what was synced and promises nothing else."""

from __future__ import annotations

from random import Random

import pytest

from rapini.testing.simulation.disk import PowerCut, SimDisk

PATH = "/spool/1"


def _write(disk: SimDisk, *pieces: bytes, sync_after: int) -> None:
    with disk.open(PATH, create=True) as file:
        disk.sync_folder("/spool")
        for number, piece in enumerate(pieces, 1):
            file.write(piece)
            if number == sync_after:
                file.fsync()


def test_a_killed_process_leaves_everything_in_the_page_cache() -> None:
    disk = SimDisk(Random(1))
    file = disk.open(PATH, create=True)
    file.write(b"never synced")
    disk.kill()
    with pytest.raises(OSError, match="closed"):
        file.write(b"from the grave")
    assert disk.open(PATH).read_at(0, 100) == b"never synced"


def test_a_power_cut_keeps_what_was_synced_and_perhaps_a_part_of_the_rest() -> None:
    found = set()
    for seed in range(300):
        disk = SimDisk(Random(seed))
        _write(disk, b"safe", b"LOST", b"GONE", sync_after=1)
        disk.power_cut()
        file = disk.open(PATH)
        found.add(file.read_at(0, 100))
    assert all(data.startswith(b"safe") for data in found)
    assert {b"safe", b"safeLOST", b"safeLOSTGONE", b"safeLO", b"safe\0\0\0\0GONE"} <= found


def test_names_are_certain_only_when_their_folder_was_synced() -> None:
    outcomes = set()
    for seed in range(100):
        disk = SimDisk(Random(seed))
        _write(disk, b"old", sync_after=1)
        with disk.open("/spool/new", create=True) as file:
            file.write(b"new")
            file.fsync()
        disk.rename("/spool/new", PATH)
        disk.power_cut()
        outcomes.add((tuple(disk.listdir("/spool")), disk.open(PATH).read_at(0, 9)))
    assert (("1",), b"old") in outcomes
    assert (("1",), b"new") in outcomes
    disk = SimDisk(Random(0))
    _write(disk, b"old", sync_after=1)
    disk.unlink(PATH)
    disk.sync_folder("/spool")
    disk.power_cut()
    assert disk.listdir("/spool") == []


def test_a_rename_never_leaves_both_names_or_neither() -> None:
    for seed in range(200):
        disk = SimDisk(Random(seed))
        _write(disk, b"data", sync_after=1)
        disk.rename(PATH, "/spool/2")
        disk.power_cut()
        assert disk.listdir("/spool") in (["1"], ["2"]), seed


def test_the_power_is_cut_in_the_very_change_that_was_asked_for() -> None:
    for at in range(1, 6):
        disk = SimDisk(Random(at))
        disk.cut_at = at
        with pytest.raises(PowerCut):
            _write(disk, b"one", b"two", b"three", sync_after=1)
        assert disk.changes == at


def test_a_full_disk_takes_what_fits_and_says_so() -> None:
    disk = SimDisk(Random(1), capacity=6)
    with disk.open(PATH, create=True) as file:
        file.write(b"1234")
        with pytest.raises(OSError, match="no space"):
            file.write(b"5678")
        assert file.size() == 6
        file.truncate(2)
        file.write(b"ok")
        assert file.read_at(0, 10) == b"12ok"


def test_a_flipped_bit_is_one_bit() -> None:
    disk = SimDisk(Random(1))
    _write(disk, b"\0\0", sync_after=1)
    disk.flip_bit(PATH, 9)
    assert disk.open(PATH).read_at(0, 2) == b"\0\2"
