"""`rapini status`: a running node's peers, queues and losses, by its control socket; live, once, or as JSON."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from rapini.cli.failures import Status, fail, printable, status_of
from rapini.errors import LocalError, RapiniError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem
    from rich.live import Live

    from rapini import NodeStatus
    from rapini.cli.statusview import Line

__all__ = ["status"]

_HELP: Final = """Show the nodes that run on this machine, or one of them with its peers, sessions and queues.

Without NAME it finds the running nodes by itself: with one it shows that, with several a line each. Nodes of other
users are shown to root alone. A PATH (with a slash in it) is a node's control socket, where it is not in the usual
place. On a terminal the table is live until Ctrl-C; in a pipe it is printed once.

\b
Examples:
  rapini status
  rapini status manager --once
  rapini status manager --json | jq .sessions

\b
Statuses:
  0 shown        1 none is running, not the one that was named, or it does not answer
  2 usage, or not permitted        130 Ctrl-C
"""

_TIMEOUT_S: Final = 2.0
_COMPLETION_TIMEOUT_S: Final = 0.2

_NOT_OURS_TO_MEND: Final = frozenset(
    {"not_running", "no_answer", "bad_answer", "bad_version", "busy", "internal_error"}
)
"""Codes that say that there is no node to show, or none that answers: status 1."""


def _complete(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of running nodes."""
    from click.shell_completion import CompletionItem

    from rapini import read_status, running_nodes

    names = set()
    for path in running_nodes():
        try:
            names.add(read_status(path, timeout_s=_COMPLETION_TIMEOUT_S).name)
        except RapiniError:
            pass
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]


@click.command(help=_HELP)
@click.argument("node", required=False, metavar="[NAME|PATH]", shell_complete=_complete)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, or an array of several, once.")
@click.option("--once", is_flag=True, help="Print one table, on a terminal too.")
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    metavar="S",
    help="Seconds between two looks on a terminal.",
)
def status(node: str | None, as_json: bool, once: bool, interval_s: float) -> int:
    """Show the nodes that run on this machine."""
    look = _look(node)
    for error in look.errors:
        fail(str(error))
    if not look.found:
        if not look.errors:
            fail(_nobody(node))
        return _exit_status(look)
    if as_json:
        told: Any = look.found[0] if len(look.found) == 1 else look.found
        print(msgspec.json.format(msgspec.json.encode(told), indent=1).decode())
    elif once or not sys.stdout.isatty():
        _print(look.found)
    else:
        return _watch(node, look, interval_s)
    return _exit_status(look)


# -- finding nodes ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Look:
    """What one look around found."""

    found: list[NodeStatus] = field(default_factory=list)
    errors: list[RapiniError] = field(default_factory=list)
    """Of nodes that were asked for and could not be shown."""


def _look(node: str | None) -> _Look:
    from rapini import read_status, running_nodes

    look = _Look()
    is_path = node is not None and "/" in node
    for path in [node] if node is not None and is_path else running_nodes():
        try:
            found = read_status(path, timeout_s=_TIMEOUT_S)
        except RapiniError as error:
            is_wanted = node is None or is_path or _is_named(path, node)
            if is_wanted and (is_path or error.code != "not_running"):  # else it ended since it was found
                look.errors.append(error)
            continue
        if node is None or is_path or found.name == node:
            look.found.append(found)
    look.found.sort(key=lambda found: (found.name, found.pid))
    return look


def _is_named(path: str, node: str) -> bool:
    """Whether a socket's name is that of a node; for nodes that do not answer."""
    return re.search(rf"-{re.escape(node)}-\d+(\.\d+)?\.sock$", Path(path).name) is not None


def _nobody(node: str | None) -> str:
    if node is None:
        return "no node is running that this user may ask; a program that uses the library needs control='auto'"
    others = sorted({found.name for found in _look(None).found})
    return f"no node {node!r} is running" + (f"; running: {', '.join(others)}" if others else " here")


def _exit_status(look: _Look) -> Status:
    if not look.errors:
        return Status.OK if look.found else Status.LOST
    return max(_status_of(error) for error in look.errors)


def _status_of(error: RapiniError) -> Status:
    return Status.LOST if error.code in _NOT_OURS_TO_MEND else status_of(error)


# -- showing them -----------------------------------------------------------------------------------------------------


def _lines(found: list[NodeStatus], before: list[NodeStatus], width: int) -> list[Line]:
    from rapini.cli.statusview import node_lines, overview_lines

    if len(found) > 1:
        return overview_lines(found, width)
    return node_lines(found[0], width, before[0] if len(before) == 1 else None)


def _print(found: list[NodeStatus]) -> None:
    from rapini.cli.statusview import plain

    if not sys.stdout.isatty():
        print("\n".join(map(plain, _lines(found, [], 80))))
        return
    from rich.console import Console

    console = Console(highlight=False)
    for line in _lines(found, [], console.width):
        console.print(_styled(line), soft_wrap=True)


def _styled(line: Line) -> Any:
    from rich.text import Text

    return Text.assemble(*line, no_wrap=True, overflow="ellipsis")


def _watch(node: str | None, look: _Look, interval_s: float) -> int:
    """Show a table and renew it until told to stop, or until nobody is left."""
    from rich.console import Console
    from rich.live import Live

    from rapini.apps.programs.stopping import Stop

    console = Console(highlight=False)
    with Stop() as stop:
        with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
            ended = _renew(live, node, look, interval_s, stop.wait)
        if ended is not None and not stop.is_set:
            fail(str(ended))
            return _status_of(ended)
        return stop.exit_status or Status.TERMINATED


def _renew(
    live: Live, node: str | None, look: _Look, interval_s: float, wait: Callable[[float], bool]
) -> RapiniError | None:
    """Renew the table; returns why there is nothing more to show, or `None` when told to stop."""
    shown, before = look.found, list[Any]()
    name, heard_at = shown[0].name, time.monotonic()
    wanted = shown[0].control if len(shown) == 1 else node
    note = ""
    while True:
        live.update(_page(_lines(shown, before, live.console.width), note, live.console.width), refresh=True)
        if wait(interval_s):
            return None
        look = _look(wanted)
        if look.found:
            before, shown, note, heard_at = shown, look.found, "", time.monotonic()
            continue
        silent = next((error for error in look.errors if error.code in ("no_answer", "busy")), None)
        if silent is None:
            text = f"node {name} has ended" if len(shown) == 1 else "all nodes have ended"
            return LocalError("not_running", text)
        note = f"no answer for {time.monotonic() - heard_at:.0f} s; this is how it was"


def _page(lines: list[Line], note: str, width: int) -> Any:
    """Lines as one thing to draw, no taller than the terminal."""
    from rich.console import Group

    height = shutil.get_terminal_size((width, 24)).lines - 1
    foot: list[Line] = [[(printable(note), "bold red")]] if note else []
    if len(lines) + len(foot) > height:
        cut = max(1, height - 1 - len(foot))
        foot = [[(f"… {len(lines) - cut} more lines; rapini status --once shows all", "dim")], *foot]
        lines = lines[:cut]
    return Group(*map(_styled, [*lines, *foot]))
