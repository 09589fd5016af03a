"""`rapini demo`: the story of a monitor that survives kills, for people or as one JSON object."""

from __future__ import annotations

import json
import sys
from typing import Final

import click

__all__ = ["demo"]


_DEMO_HELP: Final = """Watch a manager, a logger and two sensors survive what happens to processes.

Four processes on this machine, joined by mutual TLS over 0MQ with throwaway keys. A sensor and the manager are
killed with SIGKILL and started again, a sensor is frozen for a while; each loss, each new handshake and each return
is shown with the time it took. Every event published is accounted for at the end.

\b
Statuses:
  0 everything happened as told        1 something did not (the last line says what)
  130 Ctrl-C, with nothing left running
"""


@click.command(help=_DEMO_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output, the story on stderr.")
@click.option(
    "--log-dir", metavar="DIR", type=click.Path(), help="Where the logs go.  [default: a new temporary folder]"
)
@click.option(
    "--seconds",
    type=click.FloatRange(10, 600),
    default=28.0,
    show_default=True,
    help="How long it should take, about.",
)
def demo(as_json: bool, log_dir: str | None, seconds: float) -> int:
    """Watch a manager, a logger and two sensors survive what happens to processes."""
    from rapini.apps.demo.play import play, show
    from rapini.apps.demo.view import make_view
    from rapini.apps.programs.stopping import Stop
    from rapini.cli.failures import fail

    with Stop() as stop:
        view = make_view(sys.stderr if as_json else sys.stdout)
        try:
            view.title("Rapini: secure events and logs between network monitors")
            report = play(view, stop, log_dir=log_dir, seconds=seconds)
        finally:
            view.close()
    if report is None:
        return stop.exit_status or 143
    show(report, view)
    if as_json:
        print(json.dumps(report.as_object(), indent=1))
    if not report.account.is_balanced:
        fail("the account does not balance: this is a fault in Rapini, please report it with the JSON")
        return 1
    return 0
