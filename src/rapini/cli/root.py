"""The root of the command line: finds a command in the table, imports it, runs it, and turns its end into a status.

Needs click, so it is imported by `rapini.cli.main` and not before.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any, Final

import click

from rapini import __version__
from rapini.cli import diagnostics
from rapini.cli.commands import COMMANDS
from rapini.cli.failures import OutputClosedError, report

__all__ = ["root", "run"]

_HELP: Final = """Secure events and logs between network monitors.

\b
Examples:
  rapini demo                                     the whole story in under a minute
  rapini run traffic.pcap --log-dir logs          logs from a capture
  rapini ca init keys                             an authority of your own
  rapini ca issue keys manager --host mgr.example
  rapini tail conn/ --keys keys --connect zmq+tls://mgr.example:9750

\b
Exit statuses:
  0 done   1 something was lost   2 usage or configuration   3 refused
  4 nobody there in time          130 Ctrl-C                 143 SIGTERM
"""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are invoked."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the table's order, the most wanted first."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module_name, _, attribute = entry.where.partition(":")
        try:
            command = getattr(importlib.import_module(module_name), attribute)
        except ModuleNotFoundError as error:
            if error.name != module_name:
                raise
            raise click.UsageError(f"{cmd_name} is not part of this version", ctx) from None
        if not isinstance(command, click.Command):
            raise TypeError(f"{entry.where} is not a command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, with our own table for "did you mean"."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            raise click.UsageError(f"no such command {name!r}{_did_you_mean(name)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """From the table alone: nothing is imported for `--help`."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Complete commands without importing them; then options, as click does."""
        from click.shell_completion import CompletionItem

        found = [
            CompletionItem(name, help=entry.summary) for name, entry in COMMANDS.items() if name.startswith(incomplete)
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        """As click does it, but a closed stdout is ours to handle (click would end with status 1)."""
        try:
            status = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            raise OutputClosedError from None
        return status


def _did_you_mean(name: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, COMMANDS, n=2, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else ""


@click.group(
    cls=LazyGroup, help=_HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="rapini", message="%(prog)s %(version)s")
@click.option("-v", "--verbose", count=True, help="More diagnostics on stderr; -vv for everything.")
def root(verbose: int) -> None:
    """Secure events and logs between network monitors."""
    diagnostics.set_up(verbose)


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status and never raises, nor shows a traceback unless asked to."""
    arguments = None if argv is None else list(argv)
    try:
        status = root.main(args=arguments, prog_name="rapini", standalone_mode=False)
        sys.stdout.flush()
    except Exception as error:  # noqa: BLE001 - the one place where all errors end, each with its line and status
        return int(report(error))
    except KeyboardInterrupt as error:
        return int(report(error))
    return status if isinstance(status, int) else 0
