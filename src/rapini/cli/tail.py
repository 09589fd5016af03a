"""`rapini tail`: events on stdout as they arrive, a line each; what happens to the peers on stderr, marked."""

from __future__ import annotations

import functools
import sys
import threading
from datetime import UTC, datetime
from typing import Any, Final

import click
import msgspec

from rapini import Event, EventRun, Gap, Node, UnknownEvent
from rapini.cli import diagnostics
from rapini.cli.eventjson import event_to_fields
from rapini.cli.failures import Status, printable
from rapini.cli.nodes import NodeOptions, node_arguments, node_options, node_settings
from rapini.cli.stopping import Stopping
from rapini.errors import RapiniError
from rapini.events import event_types

__all__ = ["tail"]

_HELP: Final = """Print events as they arrive, one line each: those whose topic begins with a PREFIX, or all.

A line has the time it came (UTC), the node it came from, topic, type and fields; with --json it is one JSON object.
What happens to peers goes to stderr as lines that begin with two hyphens. Ends with Ctrl-C (status 130), or after
--count events (status 0).

\b
Examples:
  rapini tail --keys keys --connect zmq+tls://mgr.example:9750
  rapini tail conn/ dns/ --json --connect zmq+plain://127.0.0.1:9750 | jq .fields.uid
  rapini tail --listen tcp+tls://0.0.0.0:9750 --keys keys --count 10
"""


@click.command(help=_HELP)
@click.argument("prefixes", nargs=-1, metavar="[PREFIX]...")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N events.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--status/--no-status", default=True, help="What happens to the peers, on stderr.  [default: status]")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True, max=86_400),
    metavar="S",
    help="Give up when no peer is up after S seconds.  [default: 10; with --listen alone: never]",
)
@node_options("tail")
def tail(
    node: NodeOptions,
    prefixes: tuple[str, ...],
    count: int | None,
    as_json: bool,
    status: bool,
    timeout_s: float | None,
) -> int:
    """Print events as they arrive."""
    import rapini.apps.schema  # noqa: F401 - so that our own types have field names

    settings = node_settings(node)
    if not settings.connect and not settings.listen:
        raise click.UsageError("nobody to listen to: give --connect URL or --listen URL")
    diagnostics.hide_rejections()
    with Stopping() as stopping, Node(**node_arguments(node, listen=[], connect=[])) as running:
        running.subscribe(*(prefixes or ("",)))
        for url in settings.listen:
            _mark(f"listening on {running.listen(url)}", is_shown=status)
        meeting = _Meeting(running, settings.connect, timeout_s)
        stopping.call(running.stop)
        meeting.start()
        is_complete = _print(running, count, as_json=as_json, with_status=status)
        if meeting.error is not None and not stopping.requested:
            raise meeting.error
        return Status.OK if is_complete else stopping.status(is_daemon=False)


class _Meeting(threading.Thread):
    """Dials, or waits for who dials us, while the main thread prints; ends its loop if nobody is up in time."""

    def __init__(self, running: Node, urls: list[str], timeout_s: float | None) -> None:
        super().__init__(name="rapini-tail-dial", daemon=True)
        self.error: RapiniError | None = None
        self._running = running
        self._urls = urls
        self._timeout_s = timeout_s

    def run(self) -> None:
        """Meet everybody, or say why not."""
        try:
            for url in self._urls:
                self._running.connect(url, wait_s=self._timeout_s or 10.0)
            if not self._urls and self._timeout_s is not None:
                self._running.wait_for(timeout_s=self._timeout_s)
        except RapiniError as error:
            self.error = error
            self._running.stop()


def _print(running: Node, count: int | None, *, as_json: bool, with_status: bool) -> bool:
    """Print what comes; true once `count` events were printed."""
    left = sys.maxsize if count is None else count
    for item in running.items():
        if not isinstance(item, EventRun):
            # A gap is shown always: whoever reads the events has to know that some are missing.
            is_shown = with_status or isinstance(item, Gap)
            _mark(f"{datetime.fromtimestamp(item.time, UTC):%H:%M:%S}Z {item}", is_shown=is_shown)
            continue
        lines = _lines(item, left, as_json=as_json)
        sys.stdout.write("".join(lines))
        sys.stdout.flush()
        left -= len(lines)
        if left <= 0:
            return True
    return False


def _mark(text: str, *, is_shown: bool) -> None:
    if is_shown:
        print(printable(f"-- {text}"), file=sys.stderr, flush=True)


def _lines(run: EventRun, most: int, *, as_json: bool) -> list[str]:
    now = datetime.now(UTC)
    origin = run.origin
    found = []
    for event in run.events[:most]:
        name, fields = _type_name(event), event_to_fields(event)
        if as_json:
            line = _json(
                {"time": now.timestamp(), "origin": origin.peer, "topic": origin.topic, "type": name, "fields": fields}
            )
        else:
            pairs = fields.items() if isinstance(fields, dict) else enumerate(fields)
            shown = " ".join(f"{key}={_json(value)}" for key, value in pairs)
            line = printable(f"{now:%H:%M:%S.%f}Z {origin.peer} {origin.topic} {name} {shown}")
        found.append(line + "\n")
    return found


def _type_name(event: Event) -> str:
    if isinstance(event, UnknownEvent):
        return event.type_name
    return _names()[type(event)]


@functools.cache
def _names() -> dict[type[Event], str]:
    return {kind: name for name, kind in event_types().items()}


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode("utf-8")
