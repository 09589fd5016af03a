"""The manual does what it says: its commands and programs are run, its tables are compared with the code.

Marks of blocks are those of `tests.docs.blocks`, with two more: `run NAME` runs the block in the shell of that name
(each page has as many as it needs; all begin in the page's empty folder), and `shows NAME` waits until that shell has
printed these lines, in this order, where `…` stands for anything.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import tomllib
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Final, get_args

import click
import msgspec
import pytest

from rapini.cli import programs
from rapini.cli.commands import COMMANDS
from rapini.cli.root import root
from rapini.events.delivery import DeliveryName
from rapini.node import NodeSettings, load_table
from rapini.node.dials import NETWORK_CODES
from rapini.secure.reasons import SENTENCES
from rapini.session.flow import Overflow
from rapini.storage import HoleReason
from tests.conftest import require_component
from tests.docs.blocks import Block, blocks
from tests.docs.codes import SOURCE, codes, constants
from tests.docs.programs import free_port
from tests.docs.shells import Shell

ROOT: Final = Path(__file__).resolve().parents[2]
DOCS: Final = ROOT / "docs"

OTHERS: Final = {"wire.md", "design/decisions.md", "design/session-states.md", "reference/events.md"}
"""Pages with tests of their own, `test_wire`."""

PAGES: Final = {
    path.relative_to(DOCS).as_posix(): path.read_text("utf-8")
    for path in sorted(DOCS.rglob("*.md"))
    if path.relative_to(DOCS).as_posix() not in OTHERS
}
RUN: Final = [name for name, page in PAGES.items() if any(block.kind == "run" for block in blocks(page))]
KINDS: Final = {"run", "shows", "file", "skip"}

HERE: Final = {"monitor.example": "localhost", "0.0.0.0": "127.0.0.1"}
"""What stands for another host on a page, and what does in a test."""


def test_the_promised_pages_are_there() -> None:
    howto = {"two-hosts", "own-events", "admission", "asyncio", "when-it-does-not-connect", "see-what-a-node-does"}
    howto |= {"deliver-surely", "ask-and-answer", "relay"}
    assert {f"howto/{name}.md" for name in howto} <= set(PAGES)
    explained = {"connections", "security", "accounting", "delivery"}
    assert {f"explanation/{name}.md" for name in explained} <= set(PAGES)
    looked_up = {"settings", "status", "codes", "stores"}
    assert {"index.md", "tutorial.md"} | {f"reference/{name}.md" for name in looked_up} <= set(PAGES)
    assert {
        "tutorial.md",
        "howto/two-hosts.md",
        "howto/own-events.md",
        "howto/deliver-surely.md",
        "howto/asyncio.md",
        "howto/see-what-a-node-does.md",
    } <= set(RUN)


@pytest.mark.parametrize("name", PAGES)
def test_every_block_says_how_it_is_tested(name: str) -> None:
    assert [block.line for block in blocks(PAGES[name]) if block.kind not in KINDS] == []
    assert all(block.argument for block in blocks(PAGES[name]) if block.kind in ("file", "skip"))


@pytest.mark.parametrize("name", RUN)
def test_the_blocks_do_what_the_page_says(name: str, tmp_path: Path) -> None:
    require_component("bash")
    folder = tmp_path / "page"
    folder.mkdir()
    ports: dict[str, str] = {}
    shells: dict[str, Shell] = {}
    with ExitStack() as stack:
        for block in blocks(PAGES[name]):
            text = as_tested(block.text, ports)
            match block:
                case Block(kind="file"):
                    (folder / block.argument).parent.mkdir(parents=True, exist_ok=True)
                    (folder / block.argument).write_text(text)
                case Block(kind="run" | "shows"):
                    if block.argument not in shells:
                        shells[block.argument] = stack.enter_context(Shell(block.argument, folder))
                    shell = shells[block.argument]
                    shell.run(text) if block.kind == "run" else shell.shows(text)
                case _:
                    pass
        for shell in shells.values():
            assert "Traceback" not in shell.text


def as_tested(text: str, ports: dict[str, str]) -> str:
    """A block with free ports and this machine in the place of those on the page."""
    for shown, here in HERE.items():
        text = text.replace(shown, here)
    return re.sub(r"(?<=:)97\d\d\b", lambda port: ports.setdefault(port[0], free_port()), text)


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    folder = (DOCS / name).parent
    targets = [target for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", PAGES[name]) if "://" not in target]
    assert [target for target in targets if not (folder / target).resolve().exists()] == []


def test_the_index_leads_to_every_page() -> None:
    listed = set(re.findall(r"\]\(([^)#]+\.md)\)", PAGES["index.md"]))
    assert listed >= (set(PAGES) | OTHERS) - {"index.md"}


def test_the_readme_leads_to_the_manual() -> None:
    assert "](docs/index.md)" in (ROOT / "README.md").read_text("utf-8")


def commands() -> list[tuple[str, str]]:
    """Every `rapini …` on a page, in blocks and in the text."""
    found = []
    for name, page in PAGES.items():
        lines = [line for block in blocks(page) for line in block.text.replace("\\\n", " ").splitlines()]
        lines += re.findall(r"`(rapini [^`]+)`", page)
        found += [(name, line.strip()) for line in lines if re.match(r"\s*(ExecStart=\S*)?rapini\s", line)]
    return found


@pytest.mark.parametrize(("page", "line"), commands())
def test_every_command_and_option_it_names_exists(page: str, line: str) -> None:
    words = re.sub(r"^(ExecStart=\S*)?rapini\s+", "", line).split()
    command: click.Command = root
    while words and isinstance(command, click.Group) and not words[0].startswith("-"):
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, f"{page}: {line}"
        command = found
        words.pop(0)
    known = {text for option in command.params for text in (*option.opts, *option.secondary_opts)} | {"--help", "-h"}
    assert [word for word in words if re.match(r"--?[a-zA-Z]", word) and word.split("=")[0] not in known] == []


def test_every_command_is_mentioned() -> None:
    mentioned = {line.split()[1] for _, line in commands() if len(line.split()) > 1}
    assert mentioned >= set(COMMANDS)


TABLES: Final[dict[str, type[msgspec.Struct]]] = {
    "node": NodeSettings,
    "sensor": programs.SensorTable,
    "logger": programs.LoggerTable,
    "manager": programs.ManagerTable,
}


def configurations() -> list[tuple[str, Block]]:
    """Every TOML file on a page."""
    found = [(name, block) for name, page in PAGES.items() for block in blocks(page)]
    return [(name, block) for name, block in found if block.kind == "file" and block.argument.endswith(".toml")]


@pytest.mark.parametrize(("page", "block"), configurations(), ids=lambda each: getattr(each, "argument", each))
def test_every_configuration_is_one(page: str, block: Block, tmp_path: Path) -> None:
    path = tmp_path / "page.toml"
    path.write_text(block.text)
    names = tomllib.loads(block.text)
    assert set(names) <= set(TABLES), page
    for table in names:
        load_table(path, table, TABLES[table])


# -- codes ------------------------------------------------------------------------------------------------------------

CODES: Final = ("howto/when-it-does-not-connect.md", "reference/codes.md", "reference/stores.md")
"""The pages whose tables list codes: of connections, of calls, of stores."""

INTERNAL: Final = {
    # said to our own code, if it calls a machine in the wrong order or with the wrong thing; nobody else can meet them
    *("already_started", "bad_entropy", "no_channel", "not_established", "not_started", "too_large", "wrong_state"),
    *("unknown_transport", "send_failed", "bad_packet_size", "packet_too_large"),
    *("not_storable", "position_ahead", "unknown_consumer"),
    # outcomes of a store's write that are values to its caller
    *("ok", "absent"),
    # counted inside a transport, which reports no connection for them
    *("no_descriptor", "half_open_limit"),
    # our own doing, which is not reported
    *("forgotten", "unlistened"),
}


def rows(page: str) -> dict[str, list[str]]:
    """The rows of all tables headed `code`, by code; a row may have several."""
    found: dict[str, list[str]] = {}
    head = ""
    for line, before in zip(page.splitlines(), ["", *page.splitlines()], strict=False):
        if not line.startswith("|"):
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not before.startswith("|"):
            head = cells[0]
        if head == "code":
            for code in re.findall(r"`([a-z_]+)`", cells[0]):
                found[code] = cells[1:]
    return found


def listed() -> set[str]:
    """All codes that the pages list."""
    return set().union(*(rows(PAGES[page]) for page in CODES))


def test_the_tables_have_every_code_and_no_other() -> None:
    known = codes()
    assert known >= INTERNAL
    assert known - INTERNAL - listed() == set(), "codes that the manual does not know"
    assert listed() - known == set(), "codes that do not exist"
    assert listed() & INTERNAL == {"too_large"}, "which is a store's code, too"


def test_each_page_has_the_codes_of_its_subject() -> None:
    """Else a reader of one page would have to look at another to be sure."""
    connections, calls, stores = (set(rows(PAGES[page])) for page in CODES)
    assert set(SENTENCES) | NETWORK_CODES <= connections
    assert {"no_spool", "no_topic", "spool_full", "deadline", "not_running", "bad_topic"} <= calls
    assert {"store_full", "master_away", "in_doubt", "too_large"} <= stores


def test_the_collector_finds_what_is_listed_elsewhere() -> None:
    """Else an empty collection would make the test above content."""
    assert codes() >= set(SENTENCES) | NETWORK_CODES
    assert codes() >= {"duplicate_name", "superseded", "silent", "denied", "bad_routing_id", "not_zmq", "bad_toml"}
    assert codes() >= {
        "stalled",
        "slow",
        "no_spool",
        "spool_full",
        "disk_full",
        "in_doubt",
        "store_in_use",
        "bad_topic",
    }


def test_every_code_has_its_meaning_and_its_remedy() -> None:
    for page in CODES[:2]:
        thin = [code for code, cells in rows(PAGES[page]).items() if len(cells) < 2 or not all(cells[:2])]
        assert thin == [], page


# -- the reference ----------------------------------------------------------------------------------------------------


def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "tools" / "make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_current() -> None:
    for name, text in reference().PAGES.items():
        assert (DOCS / "reference" / name).read_text("utf-8") == text(), f"{name}: run tools/make_reference.py"


def given_causes() -> set[str]:
    """What is given as a cause, or passed on to be one, where sessions and nodes drop events."""
    takers = {"_append_hole", "_to_hole", "lose", "give_up", "departed", "count_drop"}
    found: set[str] = set()
    for place in ("session", "node"):
        for path in (SOURCE / place).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                    continue
                owner = getattr(node.func.value, "attr", "")
                if node.func.attr in takers and owner != "link":  # a link's end has a code, not a cause
                    found |= set().union(*map(constants, node.args))
    return found


def test_the_references_causes_are_the_codes() -> None:
    assert given_causes() == set(reference().DROP_CAUSES)


def test_the_references_reasons_of_gaps_are_the_codes() -> None:
    """A relay's are `upstream_` with a number; the first stands for all."""
    assert 'f"upstream_{hops}"' in (SOURCE / "node" / "relay.py").read_text("utf-8")
    assert {*get_args(HoleReason), "upstream_1"} == set(reference().GAP_REASONS)


def test_the_delivery_page_tells_of_every_reason() -> None:
    told = {code for line in PAGES["explanation/delivery.md"].splitlines() for code in re.findall(r"^\| `(\w+)`", line)}
    wanted = set(reference().DROP_CAUSES) | set(reference().GAP_REASONS)
    assert told >= wanted
    policies = {*get_args(Overflow), *get_args(DeliveryName)}
    assert policies <= set(re.findall(r"`(\w+)`", PAGES["explanation/delivery.md"]))


def test_the_security_page_names_tests_that_exist() -> None:
    page = PAGES["explanation/security.md"]
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page)
    assert len(named) >= 20
    for path, function in named:
        assert f"def {function}" in (ROOT / path).read_text("utf-8") if function else (ROOT / path).exists(), path
