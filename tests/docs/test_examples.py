"""Each example runs as its docstring says."""

from __future__ import annotations

import ast
import re
import sqlite3
import time
from pathlib import Path

import pytest

from tests.conftest import require_component
from tests.docs.programs import DEADLINE_S, SHOWN_PORT, free_port, run, running

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.py"))
_SECOND = re.compile(r"^publisher sensor/reading Reading\(.*number=2", re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the examples, their port replaced by a free one, and nothing else."""
    require_component("bash")
    (tmp_path / "examples").mkdir()
    port = free_port()
    for path in EXAMPLES:
        (tmp_path / "examples" / path.name).write_text(path.read_text("utf-8").replace(SHOWN_PORT, port))
    return tmp_path


def commands(name: str) -> list[str]:
    """The commands in an example's docstring."""
    (path,) = [path for path in EXAMPLES if path.stem == name]
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8")), clean=False) or ""
    return [line.strip() for line in docstring.splitlines() if line.startswith("    ")]


def test_there_are_the_promised_ones() -> None:
    assert {path.stem for path in EXAMPLES} == {
        *("async_subscriber", "both_ways", "publisher", "subscriber"),
        *("durable_publisher", "durable_receiver", "shared_table"),
    }


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_says_how_to_run_it(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) < 40
    assert f"python examples/{path.name}" in [line.removesuffix(" &") for line in commands(path.stem)]


def test_both_ways(folder: Path) -> None:
    keys, program = commands("both_ways")
    run(keys, folder)
    shown = run(program, folder)
    assert "north heard from south" in shown
    assert "south heard from north" in shown


@pytest.mark.parametrize("name", ["subscriber", "async_subscriber"])
def test_publisher_and_subscriber(name: str, folder: Path) -> None:
    """The subscriber's docstring, and then a restart of each side."""
    keys, listening, dialling = commands(name)
    run(keys, folder)
    with running(listening.removesuffix("&"), folder) as subscriber:
        subscriber.await_output(lambda output: "listening on" in output)
        with running(dialling, folder) as publisher:
            subscriber.await_output(lambda output: bool(_SECOND.search(output)))
            assert publisher.interrupt() == 0
            assert publisher.output == "connected to subscriber\n"
        subscriber.await_output(lambda output: "-- publisher: left (goodbye)" in output)
        with running(dialling, folder):
            subscriber.await_output(lambda output: "-- publisher: restarted" in output)
            assert subscriber.interrupt() == 0
            assert "Traceback" not in subscriber.output
            with running(listening.removesuffix("&"), folder) as again:
                again.await_output(lambda output: "publisher sensor/reading" in output)


def test_the_publishers_docstring_shows_the_same_commands() -> None:
    assert commands("publisher") == commands("subscriber")
    assert commands("durable_publisher") == commands("durable_receiver")


def readings(folder: Path) -> list[tuple[int, int]]:
    """Sequence and number of what the receiver has stored, in its order."""
    try:
        with sqlite3.connect(f"file:{folder / 'readings.db'}?mode=ro", uri=True) as database:
            return list(database.execute("SELECT sequence, number FROM readings ORDER BY rowid"))
    except sqlite3.OperationalError:
        return []  # not made yet


def await_readings(folder: Path, lives: int) -> None:
    """Wait until the receiver has stored some readings of the publisher's newest life."""
    deadline = time.monotonic() + DEADLINE_S
    while [number for _, number in readings(folder)].count(3) < lives:
        assert time.monotonic() < deadline, readings(folder)
        time.sleep(0.05)


def test_a_durable_pair_that_is_killed_again_and_again(folder: Path) -> None:
    """Each turn kills one of them with SIGKILL; `running` does that to what still runs."""
    keys, receiving, publishing = commands("durable_publisher")
    run(keys, folder)
    receiving = receiving.removesuffix("&")
    with running(publishing, folder) as first:  # before there is a receiver
        first.await_output(lambda output: "\n5 on_disk" in output)
        with running(receiving, folder):
            await_readings(folder, 1)
        seen = len(first.output.splitlines())
        first.await_output(lambda output: len(output.splitlines()) > seen + 3)  # while the receiver is dead
    with running(receiving, folder) as receiver, running(publishing, folder) as second:
        await_readings(folder, 2)
        assert second.interrupt() == 0
        assert receiver.interrupt() == 0
        assert "gap of" not in receiver.output
        assert "Traceback" not in receiver.output + second.output
    stored = readings(folder)
    assert [sequence for sequence, _ in stored] == list(range(len(stored)))
    assert len(stored) > 10


def test_shared_table(folder: Path) -> None:
    keys, program = commands("shared_table")
    run(keys, folder)
    shown = run(program, folder)
    assert "the sensor knows {'name': 'printer', 'ports': [80, 631]}" in shown
    assert "sensor reports the scan\nrun number 1 and the manager has 1" in shown
    shown = run(program, folder)
    assert "reports the scan" not in shown
    assert "run number 2 and the manager has 2" in shown
