"""The small disk is small, full when filled, and seen by nobody else; damage to files is seeded and exact."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.kit.disk import SmallDisk, cut_short, flip_bit
from tests.faults.kit.namespaces import Namespace, require_namespaces

SIZE = 1 << 20
WRITE = """
import os, sys
file = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
try:
    print(os.write(file, bytes(int(sys.argv[2]))))
    os.fsync(file)
except OSError as exc:
    print(exc.errno and os.strerror(exc.errno))
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    with SmallDisk(folder, SIZE) as disk:
        yield disk


def _write(disk: SmallDisk, name: str, size: int) -> str:
    command = disk.command(sys.executable, "-c", WRITE, str(disk.folder / name), str(size))
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()


def test_a_full_disk_is_full_for_the_child_and_free_again_when_relieved(disk: SmallDisk) -> None:
    assert _write(disk, "a", 1000) == "1000"
    assert disk.fill() > SIZE // 2
    assert disk.free_bytes() == 0
    assert _write(disk, "b", 10_000) == "No space left on device"
    assert _write(disk, "a", 2000) == "2000", "the rest of a page that the file has already"
    assert _write(disk, "a", 5000) in {"1096", "No space left on device"}
    disk.relieve()
    assert _write(disk, "b", 10_000) == "10000"


def test_a_disk_can_be_filled_almost(disk: SmallDisk) -> None:
    disk.fill(keep_bytes=100_000)
    assert 90_000 < disk.free_bytes() <= 100_000 + 4096
    assert _write(disk, "a", 50_000) == "50000"
    assert _write(disk, "b", 100_000) != "100000"


def test_the_disk_outlives_its_processes_and_nobody_else_sees_it(disk: SmallDisk) -> None:
    assert _write(disk, "a", 10) == "10"
    assert _write(disk, "a", 10) == "10"
    assert (disk.outside / "a").stat().st_size == 20
    assert list(disk.folder.iterdir()) == [], "the test's own namespace has the bare folder"
    assert str(disk.folder) not in Path("/proc/self/mountinfo").read_text(encoding="utf-8")


def test_a_process_on_the_disk_keeps_its_id_and_working_directory(disk: SmallDisk) -> None:
    command = disk.command(sys.executable, "-c", "import os; print(os.getpid(), os.getcwd())")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        said, _ = process.communicate(timeout=10)
    assert said.split() == [str(process.pid), str(Path.cwd())]


def test_disk_and_network_namespace_together(disk: SmallDisk) -> None:
    require_namespaces()
    namespace = Namespace("disk")
    try:
        code = """
import sys
print(open("/proc/net/dev").read().count(":"), sys.argv[1] in open("/proc/self/mountinfo").read())
"""
        command = namespace.command(*disk.command(sys.executable, "-c", code, str(disk.folder)))
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    finally:
        namespace.remove()
    assert said.split() == ["1", "True"]


@pytest.mark.parametrize("seed", range(20))
def test_one_bit_is_flipped_where_it_may_be(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "file"
    before = bytes(range(200))
    path.write_bytes(before)
    offset, bit = flip_bit(path, seed, first=50, after=100)
    after = path.read_bytes()
    assert len(after) == len(before)
    assert [i for i in range(200) if before[i] != after[i]] == [offset]
    assert 50 <= offset < 100
    assert before[offset] ^ after[offset] == 1 << bit
    assert flip_bit(path, seed, first=50, after=100) == (offset, bit), "the same seed hits the same bit"
    assert path.read_bytes() == before


def test_bits_are_chosen_all_over(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(200))
    hits = [flip_bit(path, seed) for seed in range(50)]
    assert len({offset for offset, _ in hits}) > 25
    assert {bit for _, bit in hits} == set(range(8))


@pytest.mark.parametrize("seed", range(20))
def test_a_file_is_cut_short(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "file"
    before = bytes(range(200))
    path.write_bytes(before)
    kept = cut_short(path, seed, first=16)
    assert 16 <= kept < 200
    assert path.read_bytes() == before[:kept]


def test_there_must_be_something_to_damage(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="no byte"):
        flip_bit(path, 1)
    with pytest.raises(ValueError, match="nothing to cut"):
        cut_short(path, 1)
