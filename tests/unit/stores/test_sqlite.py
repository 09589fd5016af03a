"""The table in SQLite: what was committed survives, what failed is undone, and clones are told the truth about it."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapini import limits
from rapini.errors import StoreError
from rapini.storage.ordered_keys import decode_key, encode_key, prefix_range
from rapini.storage.sqlite_store import SqliteBackend
from rapini.stores import Cause, CloneStore, Key, MasterStore, make_operation
from rapini.stores.backend import key_starts_with
from rapini.stores.outcomes import BackendFailed, WriteDone
from tests.unit.stores.pair import join, make_clone, make_master, part, talk, to_clone, to_master
from tests.unit.stores.world import table_of

PART = st.one_of(st.text(max_size=6), st.binary(max_size=6), st.integers(-(2**63), 2**64 - 1))
KEY = st.one_of(PART, st.lists(PART, max_size=4).map(tuple))


def start(path: Path, run: int = 1, *, now: float = 0.0, wall_now: float = 1e9) -> MasterStore:
    backend = SqliteBackend(path, sync="normal")
    return make_master(backend=backend, run=bytes([run]) * 16, now=now, wall_now=wall_now)


def codes(clone: CloneStore) -> list[str]:
    return [outcome.result.code for outcome in clone.outcomes() if isinstance(outcome, WriteDone)]


# -- keys ------------------------------------------------------------------------------------------------------------


@given(key=KEY)
def test_a_key_comes_back_as_it_was(key: Key) -> None:
    assert decode_key(encode_key(key)) == key


@given(key=KEY, prefix=KEY)
def test_a_range_of_bytes_is_a_prefix(key: Key, prefix: Key) -> None:
    first, end = prefix_range(prefix)
    assert (first <= encode_key(key) < end) == key_starts_with(key, prefix)
    if isinstance(key, tuple):
        first, end = prefix_range(key[:1])
        assert first <= encode_key(key) < end


@pytest.mark.parametrize(
    "data", [b"", b"\x09", b"\x01\x00", b"\x03\xff", b"\x04\x03a", b"\x04\x03a\x00", b"\x04\x01\x00"]
)
def test_damaged_keys(data: bytes) -> None:
    with pytest.raises(StoreError) as caught:
        decode_key(data)
    assert caught.value.code == "damaged"


# -- what survives ---------------------------------------------------------------------------------------------------

CHILD = """
import sys, time
from rapini.storage.sqlite_store import SqliteBackend
from rapini.stores import MasterStore
store = MasterStore("s", run=bytes([int(sys.argv[2])]) * 16, may_write=lambda peer: True, now=0.0, wall_now=1e9,
                    backend=SqliteBackend(sys.argv[1], sync="normal"))
number = store.version
while True:
    for _ in range(7):
        store.put(f"k{number}", number, 0.0)
        number += 1
    store.flush()
    print(number, flush=True)
"""


def test_what_was_committed_survives_sigkill(tmp_path: Path) -> None:
    path = tmp_path / "store"
    for attempt in range(1, 4):
        command = [sys.executable, "-c", CHILD, str(path), str(attempt)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            lines = [child.stdout.readline() for _ in range(20 * attempt)]
            os.kill(child.pid, signal.SIGKILL)
            told = int((lines + child.stdout.read().splitlines())[-1])
        master = start(path, 100 + attempt)
        assert master.version >= told
        assert master.version % 7 == 0, "a turn is kept whole or not at all"
        assert len(master) == master.version
        assert table_of(master) == {f"k{number}": number for number in range(master.version)}
        assert master.backend.size_bytes == sum(len(f"k{n}") + len(_packed(n)) for n in range(master.version))
        master.backend.close()


def _packed(number: int) -> bytes:
    return b"x" * (1 if number < 128 else 2 if number < 256 else 3)


def test_a_turn_is_one_transaction(tmp_path: Path) -> None:
    master = start(tmp_path / "store")
    backend = master.backend
    assert isinstance(backend, SqliteBackend)
    before = backend.commits
    for number in range(1000):
        master.put(f"k{number}", number, 0.0)
    assert backend.commits == before
    master.flush()
    assert backend.commits == before + 1
    master.flush()
    assert backend.commits == before + 1
    backend.close()


def test_a_clone_that_lacks_nothing_needs_no_snapshot_after_a_restart(tmp_path: Path) -> None:
    path, clone = tmp_path / "store", make_clone()
    for run in range(1, 4):
        master = start(path, run)
        join(master, clone)
        names = talk(master, clone)
        assert ("Chunk" in names) == (run == 1)
        master.put("k", run, 0.0)
        talk(master, clone)
        assert clone.get("k") == run
        assert clone.version == master.version == run
        part(master, clone)
        master.backend.close()


def test_a_restored_backup_forces_a_snapshot_even_at_the_same_version(tmp_path: Path) -> None:
    path, backup, clone = tmp_path / "store", tmp_path / "backup", make_clone()
    master = start(path, 1)
    master.put("a", 1, 0.0)
    master.flush()
    master.backend.close()
    shutil.copy(path, backup)
    master = start(path, 2)
    master.put("b", 2, 0.0)
    join(master, clone)
    talk(master, clone)
    part(master, clone)
    master.backend.close()
    path.unlink()
    shutil.copy(backup, path)
    master = start(path, 3)
    master.put("c", 3, 0.0)
    assert master.version == clone.version
    join(master, clone)
    assert "Chunk" in talk(master, clone)
    assert table_of(clone) == {"a": 1, "c": 3}
    master.backend.close()


def test_a_version_that_went_back_forces_a_snapshot(tmp_path: Path) -> None:
    """As after the end of a machine whose disk had not kept the last commits."""
    path, clone = tmp_path / "store", make_clone()
    master = start(path, 1)
    for number in range(3):
        master.put(f"k{number}", number, 0.0)
    join(master, clone)
    talk(master, clone)
    part(master, clone)
    master.backend.close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE state SET version = 2, entries = 2")
        db.execute("DELETE FROM entries WHERE key = ?", (encode_key("k2"),))
    db.close()
    master = start(path, 2)
    master.put("other", 1, 0.0)
    join(master, clone)
    assert "Chunk" in talk(master, clone)
    assert table_of(clone) == {"k0": 0, "k1": 1, "other": 1}
    master.backend.close()


def test_a_write_is_done_once_across_a_restart_of_the_master(tmp_path: Path) -> None:
    path, clone = tmp_path / "store", make_clone()
    master = start(path, 1)
    join(master, clone)
    talk(master, clone)
    clone.write(make_operation(Cause.INCREMENT, "n", 1), 0.0)
    to_master(clone, master)
    assert master.next_chunk("c") is not None  # committed, and its reply lost
    part(master, clone)
    master.backend.close()
    master = start(path, 2)
    join(master, clone)
    talk(master, clone)
    assert codes(clone) == ["ok"]
    assert master.get("n", 0.0) == 1
    master.backend.close()


def test_what_was_not_committed_is_done_again(tmp_path: Path) -> None:
    path, clone = tmp_path / "store", make_clone()
    master = start(path, 1)
    join(master, clone)
    talk(master, clone)
    clone.write(make_operation(Cause.INCREMENT, "n", 1), 0.0)
    to_master(clone, master)
    part(master, clone)
    master.backend.close()  # no flush: as if killed
    master = start(path, 2)
    join(master, clone)
    talk(master, clone)
    assert codes(clone) == ["ok"]
    assert master.get("n", 0.0) == 1
    master.backend.close()


def test_an_expiry_goes_on_by_the_wall_clock_across_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "store"
    master = start(path, 1, now=50.0, wall_now=1000.0)
    master.put("short", 1, 50.0, expires_in_s=10.0)
    master.put("touched", 1, 50.0, expires_in_s=10.0)
    master.apply(make_operation(Cause.TOUCH, "touched"), 51.0)
    master.flush()
    master.backend.close()
    master = start(path, 2, now=7.0, wall_now=1004.0)
    assert master.next_timer() == 13.0
    assert master.get("short", 12.9) == 1
    assert master.get("short", 13.0) is None
    assert master.get("touched", 1e6) == 1
    master.backend.close()


def test_writers_and_runs_are_bounded_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "store"
    for run in range(limits.MAX_STORE_RUNS + 3):
        master = start(path, run)
        clone = make_clone(run)
        join(master, clone)
        clone.write(make_operation(Cause.PUT, "k", 1), 0.0)
        talk(master, clone)
        master.backend.close()
    db = sqlite3.connect(path)
    counted = "SELECT (SELECT count(*) FROM runs), (SELECT count(*) FROM writers), (SELECT count(*) FROM replies)"
    counts = db.execute(counted).fetchone()
    db.close()
    assert counts == (limits.MAX_STORE_RUNS, limits.MAX_WRITERS_PER_PEER, limits.MAX_WRITERS_PER_PEER)


# -- what fails ------------------------------------------------------------------------------------------------------


def _limit_pages(master: MasterStore, pages: int) -> None:
    backend = master.backend
    assert isinstance(backend, SqliteBackend)
    backend._db.execute(f"PRAGMA max_page_count = {pages}")


def test_a_full_disk_undoes_the_turn_and_says_so(tmp_path: Path) -> None:
    master, clone = start(tmp_path / "store"), make_clone()
    master.put("kept", 1, 0.0)
    join(master, clone)
    talk(master, clone)
    clone.outcomes()
    _limit_pages(master, 1)  # as many as there are now
    clone.write(make_operation(Cause.PUT, "small", 1), 0.0)
    clone.write(make_operation(Cause.PUT, "large", b"x" * 50_000), 0.0)
    talk(master, clone)
    assert codes(clone) == ["store_failed", "store_failed"]
    failures = [outcome for outcome in master.outcomes() if isinstance(outcome, BackendFailed)]
    assert [(failure.code, failure.lost_changes) for failure in failures] == [("store_failed", 1)]
    assert table_of(master) == table_of(clone) == {"kept": 1}
    assert master.version == clone.version == 1
    assert master.put("large", b"x" * 50_000, 0.0).code == "store_failed"
    _limit_pages(master, 1000)
    clone.write(make_operation(Cause.PUT, "large", b"x" * 50_000), 0.0)
    talk(master, clone)
    assert codes(clone) == ["ok"]
    assert table_of(clone) == table_of(master)
    assert master.backend.size_bytes == sum(len(key) for key in ("kept", "large")) + 1 + 50_003
    master.backend.close()


def test_a_clone_that_comes_while_the_disk_is_full_is_served_later(tmp_path: Path) -> None:
    master, clone = start(tmp_path / "store"), make_clone()
    backend = master.backend
    assert isinstance(backend, SqliteBackend)
    backend._db.execute("PRAGMA query_only = 1")
    join(master, clone)
    assert talk(master, clone) == ["Follow", "Offer", "NoStore"]
    assert clone.is_settled_with("m")
    assert clone.is_stale
    backend._db.execute("PRAGMA query_only = 0")
    master.put("k", 1, 0.0)
    assert to_clone(master, clone) != []
    talk(master, clone)
    assert table_of(clone) == {"k": 1}
    master.backend.close()


def test_an_expiry_that_cannot_be_written_is_tried_again_and_not_without_pause(tmp_path: Path) -> None:
    master = start(tmp_path / "store")
    backend = master.backend
    assert isinstance(backend, SqliteBackend)
    master.put("k", 1, 0.0, expires_in_s=5.0)
    master.flush()
    backend._db.execute("PRAGMA query_only = 1")
    master.handle_timer(5.0)
    assert master.next_timer() == 6.0
    master.handle_timer(5.5)
    assert [type(outcome) for outcome in master.outcomes()] == [BackendFailed]
    backend._db.execute("PRAGMA query_only = 0")
    master.handle_timer(6.0)
    assert not master.contains("k", 6.0)
    assert master.flush()
    backend.close()


def test_a_file_has_one_owner(tmp_path: Path) -> None:
    first = SqliteBackend(tmp_path / "store")
    with pytest.raises(StoreError) as caught:
        SqliteBackend(tmp_path / "store")
    assert caught.value.code == "store_in_use"
    first.close()
    SqliteBackend(tmp_path / "store").close()


def test_only_its_owner_may_read_the_file(tmp_path: Path) -> None:
    SqliteBackend(tmp_path / "store").close()
    assert [path.stat().st_mode & 0o077 for path in tmp_path.iterdir()] == [0, 0]


def test_what_is_no_store_is_left_alone(tmp_path: Path) -> None:
    text, other = tmp_path / "text", tmp_path / "other"
    text.write_text("some text that somebody wants to keep\n" * 100)
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE mine (x)")
    db.close()
    for path in (text, other):
        before = path.read_bytes()
        with pytest.raises(StoreError) as caught:
            SqliteBackend(path)
        assert caught.value.code == "not_a_store"
        assert path.read_bytes() == before
    with pytest.raises(StoreError) as caught:
        SqliteBackend(tmp_path / "no" / "folder")
    assert caught.value.code == "store_failed"


def test_a_damaged_value_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "store"
    master = start(path)
    master.put("k", "text", 0.0)
    master.put("good", 1, 0.0)
    master.flush()
    master.backend.close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE entries SET value = x'c1' WHERE key = ?", (encode_key("k"),))
    db.close()
    master = start(path, 2)
    with pytest.raises(StoreError) as caught:
        master.get("k", 0.0)
    assert caught.value.code == "damaged"
    assert master.apply(make_operation(Cause.APPEND, "k", "more"), 0.0).code == "damaged"
    assert master.get("good", 0.0) == 1
    assert master.put("k", "new", 0.0).code == "ok"
    master.backend.close()


# -- size ------------------------------------------------------------------------------------------------------------


def test_iterating_does_not_load_the_table(tmp_path: Path) -> None:
    master = start(tmp_path / "store")
    for number in range(2000):
        master.put(f"k{number}", b"x" * 10_000, 0.0)
    master.flush()
    tracemalloc.start()
    try:
        snapshot = master.scan(0.0)
        count = 0
        while part_ := snapshot.read(100_000, 0):
            count += len(part_)
        snapshot.close()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 2000
    assert peak < 1_000_000  # of 20 MB
    master.backend.close()
