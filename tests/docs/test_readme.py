"""The README does what it says: its blocks are run in their order, as a reader would."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import require_component
from tests.docs.blocks import Block, blocks
from tests.docs.programs import SHOWN_PORT, Program, free_port, run, running

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def test_every_block_says_how_it_is_tested() -> None:
    unmarked = [block.line for block in blocks(README) if block.kind not in ("run", "file", "output", "skip")]
    assert unmarked == []
    assert all(block.argument for block in blocks(README) if block.kind in ("file", "skip"))
    assert sum(block.kind == "run" for block in blocks(README)) >= 2


def test_the_program_is_under_20_lines() -> None:
    (program,) = [block for block in blocks(README) if block.kind == "file"]
    assert program.text.count("\n") < 20


def test_the_blocks_do_what_the_page_says(tmp_path: Path) -> None:
    require_component("bash")
    port = free_port()
    last_output = ""
    with ExitStack() as stack:
        beside: list[Program] = []
        for block in blocks(README):
            text = block.text.replace(SHOWN_PORT, port)
            match block:
                case Block(kind="file"):
                    (tmp_path / block.argument).write_text(text)
                case Block(kind="output"):
                    assert last_output == text
                case Block(kind="run"):
                    last_output = _run_lines(text, tmp_path, stack, beside)
                case _:
                    assert block.kind == "skip"
        (tail,) = beside
        shown = tail.await_output(lambda output: "test/hello" in output)
        assert 'publish test/hello rapini.RawEvent data={"x":1}' in shown
        assert "Traceback" not in shown
        assert tail.interrupt() == 130


def _run_lines(text: str, cwd: Path, stack: ExitStack, beside: list[Program]) -> str:
    """Run a block; returns what its last line printed."""
    printed = ""
    for line in text.splitlines():
        if line.endswith("&"):
            beside.append(stack.enter_context(running(line.removesuffix("&").strip(), cwd)))
        else:
            printed = run(line, cwd)
    return printed


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


def test_every_command_it_names_exists() -> None:
    from rapini.cli.commands import COMMANDS

    named = set(re.findall(r"(?:^|`)rapini ([a-z]+)\b", README, re.MULTILINE))
    assert {"ca", "publish", "tail"} <= named
    assert named <= set(COMMANDS)
