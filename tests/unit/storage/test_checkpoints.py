"""Receivers' positions: with the output, or not at all."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from rapini.errors import ConfigError, LocalError, StoreError
from rapini.storage import FileCheckpoint, SqliteCheckpoint
from rapini.testing import CrashableDisk

A, B = b"a" * 16, b"b" * 16
OUTPUT = Path("out/log")


def output_of(connection: sqlite3.Connection) -> list[tuple[str]]:
    return list(connection.execute("SELECT text FROM output"))


@pytest.mark.parametrize("isolation", ["", "IMMEDIATE", None])
def test_positions_are_part_of_the_callers_transaction(tmp_path: Path, isolation: str | None) -> None:
    connection = sqlite3.connect(tmp_path / "db", isolation_level=isolation)  # type: ignore[arg-type]
    connection.execute("CREATE TABLE output(text)")
    checkpoint = SqliteCheckpoint(connection)
    assert checkpoint.positions() == {}
    for text, position, keep in (("one", 1, True), ("two", 2, False), ("three", 3, True)):
        if isolation is None:
            connection.execute("BEGIN")
        connection.execute("INSERT INTO output VALUES(?)", (text,))
        checkpoint.commit({A: position})
        assert connection.in_transaction
        if keep:
            connection.commit()
        else:
            connection.rollback()
    checkpoint.close()  # the connection is the caller's
    assert output_of(connection) == [("one",), ("three",)]
    connection.close()
    other = sqlite3.connect(tmp_path / "db")
    assert SqliteCheckpoint(other).positions() == {A: 3}
    other.close()


def test_positions_alone_are_no_transaction_in_autocommit_mode() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    checkpoint = SqliteCheckpoint(connection)
    with pytest.raises(LocalError) as failure:
        checkpoint.commit({A: 1})
    assert (failure.value.code, checkpoint.positions()) == ("no_transaction", {})
    connection.close()


def test_a_checkpoint_with_its_own_database_commits_both(tmp_path: Path) -> None:
    checkpoint = SqliteCheckpoint(tmp_path / "db")
    assert checkpoint.connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    checkpoint.connection.execute("CREATE TABLE output(text)")
    checkpoint.connection.execute("INSERT INTO output VALUES('one')")
    checkpoint.commit({A: 5, B: 2**63 - 1})
    checkpoint.commit({A: 3})  # none goes back
    checkpoint.connection.execute("INSERT INTO output VALUES('lost')")
    checkpoint.close()
    again = SqliteCheckpoint(str(tmp_path / "db"))
    assert again.positions() == {A: 5, B: 2**63 - 1}
    assert output_of(again.connection) == [("one",)]
    again.close()


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is not a database, and long enough to show it" * 50)
    with pytest.raises(StoreError) as failure:
        SqliteCheckpoint(tmp_path / "text")
    assert failure.value.code == "unreadable"


def test_output_that_was_not_committed_is_cut_off(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "log"
    with FileCheckpoint(output) as checkpoint:
        assert (checkpoint.positions(), checkpoint.length) == ({}, 0)
        checkpoint.write(b"one\n")
        checkpoint.commit({A: 1})
        checkpoint.write(b"two\n")
        checkpoint.commit({B: 7, A: 0})
        checkpoint.write(b"three\n")
        checkpoint.write(bytes(1 << 20))  # does not wait for a commit
        assert checkpoint.length == 14 + (1 << 20)
    assert output.stat().st_size == 14 + (1 << 20)
    with FileCheckpoint(output) as checkpoint:
        assert (checkpoint.positions(), checkpoint.length) == ({A: 1, B: 7}, 8)
        assert checkpoint.discarded_bytes == 6 + (1 << 20)
        checkpoint.write(b"three again\n")
        checkpoint.commit({})
    assert output.read_bytes() == b"one\ntwo\nthree again\n"


@pytest.mark.parametrize("what", ["output", "positions", "space"])
def test_a_failed_checkpoint_is_at_its_end_and_the_next_one_is_whole(what: str) -> None:
    disk = CrashableDisk()
    checkpoint = FileCheckpoint(OUTPUT, files=disk)
    checkpoint.write(b"x")
    checkpoint.commit({A: 1})
    checkpoint.write(b"y" * 100)
    disk.fail_sync = lambda name: name == {"output": "log", "positions": "log.positions.new"}.get(what)
    disk.free_bytes = 10 if what == "space" else None
    with pytest.raises(StoreError) as failure:
        checkpoint.commit({A: 2})
    assert failure.value.code in {"sync_failed", "write_failed", "disk_full"}
    disk.fail_sync = lambda _: False
    disk.free_bytes = None
    for code in ("failed", "closed"):
        with pytest.raises(LocalError) as ended:
            checkpoint.write(b"z")
        assert ended.value.code == code
        with pytest.raises(LocalError) as ended:
            checkpoint.commit({})
        assert ended.value.code == code
        checkpoint.close()
    with FileCheckpoint(OUTPUT, files=disk) as again:
        assert (again.positions(), again.length) == ({A: 1}, 1)


def test_a_file_of_somebody_elses_is_not_cut(tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("all of it")
    with pytest.raises(ConfigError) as failure:
        FileCheckpoint(tmp_path / "thesis")
    assert failure.value.code == "not_a_checkpoint"
    assert (tmp_path / "thesis").read_text() == "all of it"


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with FileCheckpoint(tmp_path / "log"):
        with pytest.raises(StoreError) as failure:
            FileCheckpoint(tmp_path / "log")
        assert failure.value.code == "checkpoint_in_use"
    FileCheckpoint(tmp_path / "log").close()


@pytest.mark.parametrize("name", ["log", "log.positions"])
def test_damage_is_told_and_nothing_is_made_up(tmp_path: Path, name: str) -> None:
    with FileCheckpoint(tmp_path / "log") as checkpoint:
        checkpoint.write(b"output")
        checkpoint.commit({A: 1})
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-1])
    for _ in range(2):  # the lock was let go
        with pytest.raises(StoreError) as failure:
            FileCheckpoint(tmp_path / "log")
        assert failure.value.code == "damaged"
        assert failure.value.path == str(tmp_path / name)
