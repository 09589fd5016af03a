"""The table of commands: their names, where each lives, and one line about it.

A command's module is imported when the command is invoked and not before, so that `rapini --help` and the shell's
completion are quick whatever the others need. To add a command, add its line here. What `where` names is a
`click.Command`; it returns an exit status or `None`, and raises what `rapini.cli.failures` knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["COMMANDS", "CommandEntry"]


@dataclass(frozen=True, slots=True)
class CommandEntry:
    """One command."""

    where: str
    """``module:attribute``."""
    summary: str
    """One line for `rapini --help`."""


COMMANDS: Final[dict[str, CommandEntry]] = {
    "demo": CommandEntry("rapini.cli.demo:demo", "Watch sensors, a manager and a logger survive two kills"),
    "run": CommandEntry("rapini.cli.run:run", "Turn captures into logs, on this machine"),
    "sensor": CommandEntry("rapini.cli.programs:sensor", "Read packets, publish what happened"),
    "manager": CommandEntry("rapini.cli.programs:manager", "Watch everybody: who is there, and what happens"),
    "logger": CommandEntry("rapini.cli.programs:logger", "Write what arrives to log files"),
    "ca": CommandEntry("rapini.cli.ca:ca", "Make an authority, and certificates for nodes"),
    "publish": CommandEntry("rapini.cli.publish:publish", "Send events from JSON lines"),
    "tail": CommandEntry("rapini.cli.tail:tail", "Print events as they arrive"),
    "status": CommandEntry("rapini.cli.status:status", "Show running nodes: their peers, queues and losses"),
    "bench": CommandEntry("rapini.cli.bench:bench", "Measure Rapini beside plain 0MQ and CURVE"),
    "completion": CommandEntry("rapini.cli.completion:completion", "Print a completion script for your shell"),
}
