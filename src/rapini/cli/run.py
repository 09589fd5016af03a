"""`rapini run`: captures into logs, with a progress bar on a terminal and a summary at the end."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import click

from rapini.apps.pipeline import RunPlan, RunProgress, RunReport, run_pipeline
from rapini.apps.programs.stopping import Stop
from rapini.cli.failures import fail, printable
from rapini.logs import LogFormat

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["run"]

_LINE_EVERY_S: Final = 5.0


_RUN_HELP: Final = """Turn pcap or pcapng files into conn.log and dns.log, on this machine, with nothing to configure.

Several captures are read in order, as parts of one. A sensor and a logger run as processes of their own, joined by
mutual TLS with throwaway keys.

\b
Statuses:
  0 every event is in a log        1 a damaged capture (what could be read is logged), or a loss
  2 nothing was started            130 Ctrl-C

\b
Example:
  rapini run monday.pcap tuesday.pcapng --log-dir logs
"""


@click.command(help=_RUN_HELP)
@click.argument("captures", metavar="CAPTURE...", nargs=-1, required=True, type=click.Path())
@click.option("--log-dir", metavar="DIR", required=True, type=click.Path(), help="Where the logs go; made if need be.")
@click.option(
    "--log-format",
    type=click.Choice(("tsv", "json")),
    default="tsv",
    show_default=True,
    help="Zeek's TSV or JSON lines.",
)
@click.option("--force", is_flag=True, help="Write into a folder that is not empty, replacing its logs.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object on standard output.")
def run(captures: tuple[str, ...], log_dir: str, log_format: str, force: bool, as_json: bool) -> int:
    """Turn pcap or pcapng files into conn.log and dns.log, on this machine, with nothing to configure."""
    plan = RunPlan(captures=captures, directory=Path(log_dir), format=LogFormat(log_format), is_forced=force)
    with Stop() as stop, _Bar() as bar:
        report = run_pipeline(plan, stop, bar.update)
    for text in (*report.damages, *report.failures):
        fail(text)
    if as_json:
        print(json.dumps(_as_object(report), indent=1))
    else:
        _summarise(report, log_dir)
    return report.exit_status


class _Bar:
    """The progress: a bar on a terminal, a line every few seconds otherwise; on standard error."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._line_due = time.monotonic() + _LINE_EVERY_S

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, progress: RunProgress) -> None:
        """Show how far it is."""
        if sys.stderr.isatty():
            self._draw(progress)
        elif time.monotonic() >= self._line_due:
            self._line_due = time.monotonic() + _LINE_EVERY_S
            share = f"{progress.bytes_read / progress.bytes_total:.0%} read, " if progress.bytes_total else ""
            print(f"{share}{progress.packets} packets, {progress.events} events", file=sys.stderr, flush=True)

    def _draw(self, progress: RunProgress) -> None:
        if self._bar is None:
            self._begin(progress.bytes_total)
        if self._bar is not None and self._task is not None:
            self._bar.update(
                self._task,
                completed=progress.bytes_read,
                total=progress.bytes_total or None,
                packets=f"{progress.packets:,} packets",
                events=f"{progress.events:,} events",
            )

    def _begin(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (BarColumn(bar_width=None), TaskProgressColumn(), TextColumn("{task.fields[packets]}"))
        more = (TextColumn("{task.fields[events]}"), TimeRemainingColumn(compact=True))
        self._bar = Progress(*columns, *more, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("", total=total or None, packets="", events="")
        self._bar.start()


def _summarise(report: RunReport, log_dir: str) -> None:
    account = report.account
    rate = report.packets / report.seconds if report.seconds else 0.0
    print(f"{report.packets:,} packets in {report.seconds:.1f} s ({rate:,.0f} packets/s)")
    print(f"{account.published:,} events, {account.logged:,} logged, {account.total_lost:,} lost")
    for path, rows in sorted(account.rows.items()):
        if rows:
            print(f"  {printable(str(Path(log_dir) / path))}.log  {rows:,} rows")
    if report.undecoded:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in report.undecoded.items())
        print(f"  packets in no connection: {reasons}")
    for node, causes in account.lost.items():
        for cause, count in causes.items():
            print(f"  lost at the {node}: {count:,} ({cause})")


def _as_object(report: RunReport) -> dict[str, object]:
    account = report.account
    return {
        "packets": report.packets,
        "published": account.published,
        "received": account.received,
        "logged": account.logged,
        "rows": dict(account.rows),
        "lost": {node: dict(causes) for node, causes in account.lost.items()},
        "undecoded": dict(report.undecoded),
        "damages": list(report.damages),
        "failures": list(report.failures),
        "seconds": round(report.seconds, 3),
    }
