"""Each example runs as its docstring says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.conftest import require_component
from tests.docs.programs import SHOWN_PORT, free_port, run, running

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
    assert {path.stem for path in EXAMPLES} == {"async_subscriber", "both_ways", "publisher", "subscriber"}


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
