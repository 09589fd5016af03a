"""`rapini logger`: subscribes to connections and DNS, and writes them into log files.

Where it sits: a `Node` in front, a `LogManager` behind. A log's full queue holds the program up, which holds its
credit back, which slows the sensors: so nothing is lost here unless a log fails.

At the end it takes what its node has received, closes the logs, and only then says goodbye.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rapini import EventRun, Node, PeerStatus, UnknownEvent
from rapini.apps.ledger import Ledger
from rapini.apps.programs.book import Book
from rapini.apps.programs.report import Reporter
from rapini.apps.programs.starting import NodePlan, consume, open_node
from rapini.apps.programs.stopping import Stop
from rapini.apps.schema import Connection, DnsExchange
from rapini.logs import LogFailure, LogFormat, LogManager, LogReport, zeek_schema

__all__ = ["PREFIXES", "LoggerOptions", "run_logger"]

PREFIXES: Final = ("conn/", "dns/")
"""What the logger subscribes to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggerOptions:
    """What `rapini logger` was told."""

    directory: Path
    format: LogFormat = LogFormat.TSV
    is_forced: bool = False
    """Whether existing logs may be replaced."""
    close_timeout_s: float = 30.0
    """How long writing the last events may take."""


def run_logger(
    plan: NodePlan,
    options: LoggerOptions,
    *,
    reporter: Reporter,
    ledger: Ledger,
    stop: Stop,
) -> int:
    """Run a logger until it is told to stop.

    Returns:
        The exit status: 0; 1 if anything it received is not in a log; 130 after Ctrl-C.

    Raises:
        ConfigError, TransportError: As `Node`.
        LogError: The folder or a file cannot be used.
    """
    logger = _Logger(options, reporter, ledger)
    with contextlib.closing(open_node(plan, reporter, *PREFIXES)) as node:
        reporter.say("ready", "")
        logger.consume(node, stop)
        report = logger.close(node)
    logger.summary(report)
    if stop.is_set and stop.exit_status:
        return stop.exit_status
    return 0 if report.is_complete else 1


class _Logger:
    def __init__(self, options: LoggerOptions, reporter: Reporter, ledger: Ledger) -> None:
        self._options = options
        self._reporter = reporter
        self._ledger = ledger
        self._book = Book(ledger, reporter, self._record_logs)
        self._logs = LogManager(
            options.directory, format=options.format, force=options.is_forced, on_failure=self._log_failed
        )
        self._logs.add_stream(Connection, zeek_schema(Connection, path="conn"))
        self._logs.add_stream(DnsExchange, zeek_schema(DnsExchange, path="dns"))
        self._unknown: set[str] = set()

    def consume(self, node: Node, stop: Stop) -> None:
        """Take events until told to stop, and then those that had come by then."""
        for item in consume(node, stop):
            if isinstance(item, PeerStatus):
                self._book.status(item)
            elif isinstance(item, EventRun):
                self._take(item)
            self._book.tick(node)

    def _take(self, run: EventRun) -> None:
        origin, events = run.origin, run.events
        if not events:
            return
        self._ledger.add(f"taken/{origin.peer}/{origin.epoch}", len(events))
        if not isinstance(events[0], Connection | DnsExchange):
            self._not_ours(run)
            return
        self._logs.log(events)

    def _not_ours(self, run: EventRun) -> None:
        """Events of a type that has no log: count them, and say so once a type."""
        first = run.events[0]
        name = first.type_name if isinstance(first, UnknownEvent) else type(first).__name__
        self._ledger.add("logloss/unknown/type", len(run.events))
        if name not in self._unknown and len(self._unknown) < 64:
            self._unknown.add(name)
            text = f"{run.origin.peer} sends events of type {name}, which has no log: they are counted"
            self._reporter.say("unknown_type", text, type=name, peer=run.origin.peer)

    def _log_failed(self, failure: LogFailure) -> None:
        text = f"{failure.path}.log is no longer written: {failure.detail}"
        self._reporter.say("log_failed", text, log=failure.path, code=failure.code)

    def _record_logs(self) -> None:
        for path, log in self._logs.statistics().items():
            self._ledger.set(f"logged/{path}", log.written)
            for cause, count in log.dropped.items():
                self._ledger.set(f"logloss/{path}/{cause.value}", count)

    def close(self, node: Node) -> LogReport:
        """Close the logs, then the node."""
        report = self._logs.close(self._options.close_timeout_s)
        node.close()
        for item in node.items(timeout_s=0):
            if isinstance(item, PeerStatus):
                self._book.status(item)
        self._book.enter(node)
        return report

    def summary(self, report: LogReport) -> None:
        """Say what was done."""
        rows = {log.path: log.written for log in report.logs}
        text = ", ".join(f"{path}.log {count} rows" for path, count in rows.items())
        self._reporter.say("summary", text + (f", {report.lost} lost" if report.lost else ""), rows=rows)
