"""`rapini publish`: JSON lines in, events out, and an honest account of what became of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import click
import msgspec

from rapini import CountersSnapshot, Node
from rapini.cli import diagnostics
from rapini.cli.eventjson import event_from_fields
from rapini.cli.failures import Status, fail, warn
from rapini.cli.nodes import NodeOptions, node_arguments, node_options, node_settings
from rapini.cli.stopping import Stopping
from rapini.errors import ConfigError, EventError, PeerError
from rapini.events import Event, RawEvent, check_topic, event_types

__all__ = ["publish"]

_MAX_LINE_BYTES: Final = 1024 * 1024
_MAX_COMPLAINTS: Final = 10
_HELP: Final = """Send events from JSON lines: those of the arguments, else those of stdin.

Each line is one JSON value and becomes an event of raw bytes with the media type application/json; with --type it is an
object whose fields are those of a known event type, checked strictly. A line that does not fit is reported with its
number and the field, and the rest is sent.

Waits until the peers are up, and at the end until they have taken every event: status 0 says that they have. Events
for which nobody subscribed are counted and give status 1.

\b
Examples:
  rapini publish -t test/hello '{"x": 1}' --keys keys --connect zmq+tls://mgr.example:9750
  tail -F app.json | rapini publish -t app/log --connect zmq+plain://127.0.0.1:9750
  rapini publish --type rapini.Connection --listen tcp+tls://0.0.0.0:9750 --keys keys < conn.json
"""


@dataclass(slots=True)
class _Source:
    """Where the lines come from, and what was wrong with some."""

    arguments: tuple[str, ...]
    repeat: int
    kind: type[Event] | None
    stopping: Stopping
    bad: int = 0
    _seen: dict[bytes, Event] = field(default_factory=dict)

    def events(self) -> Iterator[Event]:
        """The events of the lines that fit."""
        for number, line in self._lines():
            if not line.strip():
                continue
            try:
                yield self._event(line)
            except EventError as error:
                self.bad += 1
                if self.bad <= _MAX_COMPLAINTS:
                    fail(f"line {number}: {error}")

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        if self.arguments:
            for _ in range(self.repeat):
                for number, argument in enumerate(self.arguments, 1):
                    yield number, argument.encode("utf-8", "surrogateescape")
            return
        number = 0
        while line := self.stopping.interruptible(lambda: sys.stdin.buffer.readline(_MAX_LINE_BYTES)):
            number += 1
            if len(line) == _MAX_LINE_BYTES and not line.endswith(b"\n"):
                self._skip_rest()
                self.bad += 1
                fail(f"line {number}: longer than {_MAX_LINE_BYTES} bytes")
                continue
            yield number, line

    def _skip_rest(self) -> None:
        while part := self.stopping.interruptible(lambda: sys.stdin.buffer.readline(_MAX_LINE_BYTES)):
            if part.endswith(b"\n"):
                return

    def _event(self, line: bytes) -> Event:
        try:
            value = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise EventError("wrong_type", f"not JSON: {error}") from None
        except RecursionError:
            raise EventError("wrong_type", "nested too deeply") from None
        if self.kind is None:
            return RawEvent(data=line.strip(), media_type="application/json")
        return event_from_fields(self.kind, value)


@click.command(help=_HELP)
@click.argument("lines", nargs=-1, metavar="[JSON]...")
@click.option("-t", "--topic", metavar="TOPIC", help="Where the events go.  [default: the topic of --type]")
@click.option("--type", "type_name", metavar="NAME", help="A known event type, such as rapini.Connection.")
@click.option(
    "--count", type=click.IntRange(min=1), default=1, show_default=True, help="Send the arguments so many times."
)
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), metavar="N", help="At most N events a second.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True, max=86_400),
    default=10.0,
    show_default=True,
    metavar="S",
    help="Seconds to wait for the peers, and at the end for their acknowledgement.",
)
@node_options("publish")
def publish(
    node: NodeOptions,
    lines: tuple[str, ...],
    topic: str | None,
    type_name: str | None,
    count: int,
    rate: float | None,
    timeout_s: float,
) -> int:
    """Send events from JSON lines."""
    kind = None if type_name is None else _known_type(type_name)
    if topic is None and kind in (None, RawEvent):
        raise click.UsageError("--topic is missing: say where the events go, as in -t test/hello")
    if count > 1 and not lines:
        raise click.UsageError("--count repeats the arguments, and there are none")
    if topic is not None:
        check_topic(topic)
    settings = node_settings(node)
    if not settings.connect and not settings.listen:
        raise click.UsageError("nobody to send to: give --connect URL (or --listen URL)")
    diagnostics.hide_rejections()
    with Stopping() as stopping, Node(**node_arguments(node, listen=[], connect=[], overflow="block")) as running:
        for url in settings.listen:
            warn(f"listening on {running.listen(url)}")
        if not _meet(running, settings.connect, timeout_s, stopping):
            return stopping.status(is_daemon=False)
        source = _Source(lines, count, kind, stopping)
        refused = _send(running, source, topic, rate)
        is_taken = running.flush(timeout_s)
        return _conclude(running.counters(), source.bad + refused, stopping, is_taken=is_taken)


def _known_type(name: str) -> type[Event]:
    import rapini.apps.schema  # noqa: F401 - makes our own types known

    known = {
        known: kind for known, kind in event_types().items() if kind is not Event and known != "rapini.UnknownEvent"
    }
    if name in known:
        return known[name]
    raise ConfigError("unknown_type", f"no event type is named {name}", remedy=f"known are {', '.join(sorted(known))}")


def _meet(running: Node, urls: list[str], timeout_s: float, stopping: Stopping) -> bool:
    """Wait until everybody is up; false if a signal came first."""
    met = False

    def give_up() -> None:
        if not met:
            running.close(0)  # ends the wait below

    stopping.call(give_up)
    try:
        deadline = time.monotonic() + timeout_s
        for url in urls:
            running.connect(url, wait_s=round(max(0.1, deadline - time.monotonic()), 1))
        if not urls:
            running.wait_for(timeout_s=timeout_s)
    except PeerError:
        if not stopping.requested:
            raise
    met = True
    return not stopping.requested


def _send(running: Node, source: _Source, topic: str | None, rate: float | None) -> int:
    """Publish all; returns how many the node refused because of what they are."""
    stopping = source.stopping
    refused = 0
    due = time.monotonic()
    for event in source.events():
        if rate is not None:
            pause = due - time.monotonic()
            if pause > 0:
                stopping.interruptible(lambda pause=pause: time.sleep(pause))  # type: ignore[misc]
            due += 1 / rate
        if stopping.requested:
            break
        try:
            running.publish(event, topic)
        except EventError as error:
            if error.code == "bad_topic":
                raise
            refused += 1
            fail(str(error))
    return refused


def _conclude(counters: CountersSnapshot, bad: int, stopping: Stopping, *, is_taken: bool) -> int:
    acknowledged = sum(counters.acknowledged.values())
    causes: dict[str, int] = {}
    for by_cause in counters.dropped.values():
        for cause, topics in by_cause.items():
            causes[cause] = causes.get(cause, 0) + sum(topics.values())
    causes["nobody_subscribed"] = sum(counters.unrouted.values())
    causes["not_encodable"] = sum(counters.not_encodable.values())
    causes = {cause: number for cause, number in causes.items() if number}
    why = ", ".join(f"{number} {cause}" for cause, number in causes.items())
    lost = sum(causes.values())
    text = f"published {counters.total_published}, acknowledged {acknowledged}, dropped {lost}"
    warn(text + (f" ({why})" if why else "") + ("" if is_taken else "; not all acknowledged in time"))
    if bad:
        fail(f"{bad} line{'s' if bad > 1 else ''} could not be sent")
        return Status.USAGE
    if stopping.requested:
        return stopping.status(is_daemon=False)
    return Status.OK if is_taken and not lost else Status.LOST
