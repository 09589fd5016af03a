"""Real processes and a real disk: SIGKILL at any moment, a full tmpfs, rot in the files, two that want one spool."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from rapini.errors import StoreError
from rapini.storage import Hole, Record, Spool
from tests.conftest import missing_component, require_component
from tests.programs.spooler import SEGMENT_BYTES, contents
from tests.unit.storage.support import covered, read_all

ROOT = Path(__file__).resolve().parents[2]
MAX_BYTES = 1 << 30


def spooler(folder: Path, seed: int, *options: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [*prefix, sys.executable, "-m", "tests.programs.spooler", str(folder), str(seed), *options]
    return subprocess.Popen(
        command, cwd=ROOT, env=dict(os.environ), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def line_of(child: subprocess.Popen[str]) -> list[str]:
    assert child.stdout is not None
    return child.stdout.readline().split()


def check_runs(items: list[Record | Hole], seeds: list[tuple[int, int]]) -> None:
    """Every run is what its writer wrote; `seeds` says who wrote from which number on."""
    for item in items:
        assert isinstance(item, Record)
        seed = next(seed for begin, seed in reversed(seeds) if item.first_sequence >= begin)
        assert (item.count, item.topic, item.data) == contents(seed, item.first_sequence)


def test_what_a_killed_process_said_was_durable_is_there(tmp_path: Path) -> None:
    """The same spool, killed again and again at random moments."""
    random = Random(2)
    folder = tmp_path / "spool"
    seeds: list[tuple[int, int]] = []
    synced = 0
    for seed in range(8):
        with spooler(folder, seed) as child:
            word, begin = line_of(child)
            assert word == "ready"
            assert int(begin) >= synced
            seeds.append((int(begin), seed))
            time.sleep(random.uniform(0.0, 0.15))
            child.kill()
            assert child.stdout is not None
            said = [line.split() for line in child.stdout.read().splitlines() if line.startswith("synced ")]
        synced = max([synced, *(int(words[1]) for words in said if len(words) == 2)])
        with Spool.open(folder, max_bytes=MAX_BYTES, segment_bytes=SEGMENT_BYTES) as spool:
            items = read_all(spool)
            assert spool.synced_sequence >= synced
            assert covered(items, 0, spool.synced_sequence)
            check_runs(items, seeds)
            assert spool.check() == []
            synced = spool.synced_sequence
    assert synced > 1000
    assert len(list(folder.glob("*.segment"))) > 8


def test_a_second_process_is_refused_and_does_no_harm(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    with spooler(folder, 1) as child:
        assert line_of(child) == ["ready", "0"]
        for _ in range(3):
            with pytest.raises(StoreError) as failure:
                Spool.open(folder, max_bytes=MAX_BYTES)
            assert failure.value.code == "spool_in_use"
        synced = int(line_of(child)[1])
        child.kill()
    with Spool.open(folder, max_bytes=MAX_BYTES) as spool:
        assert spool.synced_sequence >= synced
        check_runs(read_all(spool), [(0, 1)])
        assert spool.check() == []


def test_a_full_file_system_refuses_and_when_there_is_room_it_goes_on(tmp_path: Path) -> None:
    """A tmpfs of 1 MiB, in a mount namespace of its own, which ends with the child."""
    if os.geteuid() != 0:
        missing_component("root's right to mount a file system")
    unshare = require_component("unshare")
    require_component("mount")
    mount = tmp_path / "small"
    mount.mkdir()
    script = 'mount -t tmpfs -o size=1m tmpfs "$0" && head -c 300000 /dev/zero > "$0/ballast" && exec "$@"'
    prefix = (unshare, "--mount", "sh", "-c", script, str(mount))
    folder = mount / "spool"
    with spooler(folder, 5, prefix=prefix) as child:
        assert child.stdin is not None
        assert line_of(child) == ["ready", "0"]
        synced, words = 0, ["synced", "0"]
        while words[0] == "synced":
            synced, words = int(words[1]), line_of(child)
        assert words == ["failed", "disk_full", str(synced)]
        assert synced > 1000
        seen = Path("/proc") / str(child.pid) / "root" / folder.relative_to("/")  # the child's view of its mounts
        copy = tmp_path / "copy"
        copy.mkdir()
        for path in seen.iterdir():
            (copy / path.name).write_bytes(path.read_bytes())
        with Spool.open(copy, max_bytes=MAX_BYTES, segment_bytes=SEGMENT_BYTES) as spool:
            assert (spool.synced_sequence, spool.torn_bytes, spool.check()) == (synced, 0, [])
            check_runs(read_all(spool), [(0, 5)])
        (seen.parent / "ballast").unlink()
        child.stdin.write("go on\n")
        child.stdin.flush()
        words = line_of(child)
        assert words[0] == "synced"
        assert int(words[1]) > synced
        while words[0] == "synced":
            synced, words = int(words[1]), line_of(child)
        for path in seen.iterdir():
            (copy / path.name).write_bytes(path.read_bytes())
        with Spool.open(copy, max_bytes=MAX_BYTES, segment_bytes=SEGMENT_BYTES) as spool:
            assert (spool.synced_sequence, spool.check()) == (synced, [])
            check_runs(read_all(spool), [(0, 5)])
        child.kill()


@pytest.mark.parametrize("seed", range(4))
def test_rot_in_real_files_costs_what_it_hit(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    folder = tmp_path / "spool"
    with Spool.open(folder, max_bytes=MAX_BYTES, segment_bytes=SEGMENT_BYTES) as spool:
        while spool.next_sequence < 2000:
            spool.append(*contents(seed, spool.next_sequence))
            spool.sync()
        whole = [item for item in read_all(spool) if isinstance(item, Record)]
    segments = sorted(folder.glob("*.segment"))
    assert len(segments) >= 4
    flipped, cut = random.sample(segments, 2)
    contents_of = bytearray(flipped.read_bytes())
    at = random.randrange(len(contents_of))
    contents_of[at] ^= 1 << random.randrange(8)
    flipped.write_bytes(contents_of)
    size = random.randrange(cut.stat().st_size)
    os.truncate(cut, size)
    with Spool.open(folder, max_bytes=MAX_BYTES, segment_bytes=SEGMENT_BYTES) as spool:
        items = read_all(spool)
        assert covered(items, 0, spool.synced_sequence)
        lost = {number for hole in items if isinstance(hole, Hole) for number in span(hole)}
        assert [item for item in items if isinstance(item, Record)] == [
            record for record in whole if record.first_sequence not in lost
        ]
        assert {damage.file for damage in spool.check()} == {flipped, cut}
        told = next(damage for damage in spool.damages() if damage.file == flipped)
        assert told.offset <= at < told.offset + told.size
        assert told.count < 20  # one run


def span(hole: Hole) -> range:
    return range(hole.first_sequence, hole.first_sequence + hole.count)
