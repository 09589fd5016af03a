"""`rapini bench`: benchmarks as commands; a table for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rapini.cli.benchview import print_machine, print_promises, print_session, table_of
from rapini.defaults import MAX_BATCH_EVENTS, WINDOW_BYTES

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["bench"]

Progress = Callable[[str], None]

_LINK_HELP = """Events per second, delay, fan-out and memory of a secured link; packets per second of `rapini run`.

The baselines are raw pyzmq PUSH/PULL, plain and with CURVE, one msgspec-encoded event a message. The whole run takes
about four minutes. The status is 1 if a promise was not kept.

\b
Examples:
  rapini bench link
  rapini bench link --only throughput --rounds 5 --json
"""

_SESSION_HELP = """What sessions cost: delivery classes, reconnecting, stores, idle peers; and which promises are kept.

\b
  reliable   reliable beside best_effort events, over TLS
  durable    durable events with group commit, on disk and received, beside NATS JetStream (if rapini[bench] is there)
  reconnect  from a cut of the connection until both sides are up, and what many cuts leave behind
  clone      until a clone of a store is in sync after it was away
  store      put_unique() a second at a store's master in memory
  idle       CPU time and memory of a listener with many idle peers

The whole run takes about five minutes. The status is 1 if a promise was not kept. 'durable' writes some hundred
megabytes below --spool, and removes them.

\b
Examples:
  rapini bench session
  rapini bench session --only reliable,durable --spool /var/lib/rapini --json
"""


@click.group()
def bench() -> None:
    """Measure Rapini beside plain 0MQ and CURVE, on this machine, in one run.

    Quote the ratios: absolute rates differ from machine to machine, and with whatever else it is doing.
    """


@bench.command(help=_LINK_HELP)
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True, help="Interleaved rounds.")
@click.option("--seconds", type=click.FloatRange(0.2, 3600), default=3.0, show_default=True, help="Length of each run.")
@click.option(
    "--memory-seconds",
    type=click.FloatRange(1, 3600),
    default=60.0,
    show_default=True,
    help="Length of the memory run.",
)
@click.option(
    "--packets", type=click.IntRange(4000, 100_000_000), default=200_000, show_default=True, help="For 'capture'."
)
@click.option(
    "--only",
    "sections",
    multiple=True,
    type=click.Choice(("throughput", "latency", "fanout", "memory", "capture")),
    help="Measure this section alone; may be repeated.",
)
@click.option(
    "--window-bytes",
    type=click.IntRange(1024),
    default=WINDOW_BYTES,
    show_default=True,
    help="The subscribers' credit.",
)
@click.option(
    "--batch-events",
    type=click.IntRange(1, 65_536),
    default=MAX_BATCH_EVENTS,
    show_default=True,
    help="The publishers' largest batch.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else on standard output.")
def link(
    rounds: int,
    seconds: float,
    memory_seconds: float,
    packets: int,
    sections: tuple[str, ...],
    window_bytes: int,
    batch_events: int,
    as_json: bool,
) -> int:
    """Measure a secured link."""
    from rapini.bench.link import SECTIONS, Plan, measure

    def run(progress: Progress) -> dict[str, Any]:
        return measure(
            Plan(
                rounds=rounds,
                seconds=seconds,
                memory_seconds=memory_seconds,
                capture_packets=packets,
                sections=sections or SECTIONS,
                window_bytes=window_bytes,
                batch_events=batch_events,
                progress=progress,
            )
        )

    return _report(run, _print_link, as_json)


@bench.command(help=_SESSION_HELP)
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True, help="Interleaved rounds.")
@click.option("--seconds", type=click.FloatRange(0.2, 3600), default=3.0, show_default=True, help="Length of each run.")
@click.option(
    "--reconnects", type=click.IntRange(1, 1_000_000), default=1000, show_default=True, help="For 'reconnect'."
)
@click.option(
    "--entries",
    type=click.IntRange(10, 1_000_000),
    default=100_000,
    show_default=True,
    help="For 'clone' and 'store'.",
)
@click.option("--peers", type=click.IntRange(1, 10_000), default=200, show_default=True, help="For 'idle'.")
@click.option(
    "--idle-seconds", type=click.FloatRange(0.2, 3600), default=10.0, show_default=True, help="Length of 'idle'."
)
@click.option(
    "--spool",
    type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
    default=Path(),
    help="A folder on the disk to measure 'durable' on; by default the current one. What is made in it is removed.",
)
@click.option(
    "--only",
    "sections",
    metavar="SECTIONS",
    default="",
    help="Measure these sections alone, with commas between: reliable, durable, reconnect, clone, store, idle.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else on standard output.")
def session(
    rounds: int,
    seconds: float,
    reconnects: int,
    entries: int,
    peers: int,
    idle_seconds: float,
    spool: Path,
    sections: str,
    as_json: bool,
) -> int:
    """Measure sessions."""
    from rapini.bench.session import SECTIONS, Plan, measure

    wanted = tuple(dict.fromkeys(name.strip() for name in sections.split(",") if name.strip()))
    for name in wanted:
        if name not in SECTIONS:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(SECTIONS)}", param_hint="--only")

    def run(progress: Progress) -> dict[str, Any]:
        return measure(
            Plan(
                rounds=rounds,
                seconds=seconds,
                reconnects=reconnects,
                entries=entries,
                peers=peers,
                idle_seconds=idle_seconds,
                sections=wanted or SECTIONS,
                spool=spool,
                progress=progress,
            )
        )

    return _report(run, print_session, as_json)


def _report(
    run: Callable[[Progress], dict[str, Any]], show: Callable[[Console, dict[str, Any]], None], as_json: bool
) -> int:
    """Measure, saying on standard error what is measured; print; the status says whether all promises were kept."""
    from rich.console import Console

    notes = Console(stderr=True)
    with notes.status("measuring") as status:

        def progress(what: str) -> None:
            status.update(what)
            if not notes.is_terminal:
                notes.print(what, style="dim", highlight=False)

        result = run(progress)
    if as_json:
        json.dump(result, sys.stdout, indent=1)
        print()
    else:
        show(Console(), result)
    return 1 if any(row["is_kept"] is False for row in result["criteria"]) else 0


def _print_link(console: Console, result: dict[str, Any]) -> None:
    print_machine(console, result)
    if "throughput" in result:
        table = table_of("Throughput", "variant", "events/s", "range", "publisher µs/event", "subscriber µs/event")
        for name, row in result["throughput"]["variants"].items():
            spread = f"{row['events_per_s_min']:,.0f}-{row['events_per_s_max']:,.0f}"
            cpu = (f"{row['publisher_cpu_us_per_event']:.2f}", f"{row['subscriber_cpu_us_per_event']:.2f}")
            table.add_row(name, f"{row['events_per_s']:,.0f}", spread, *cpu)
        console.print(table)
    if "latency" in result:
        table = table_of("Delay from publish() to the subscriber at 1,000 events/s", "variant", "p50 µs", "p99 µs")
        for name, row in result["latency"]["variants"].items():
            table.add_row(name, f"{row['p50_us']:.0f}", f"{row['p99_us']:.0f}")
        console.print(table)
    if "fanout" in result:
        table = table_of("Fan-out over zmq+tls", "subscribers", "publisher µs/event", "events/s", "encodings/batch")
        for count, row in result["fanout"]["subscribers"].items():
            rate, encodings = f"{row['published_events_per_s']:,.0f}", f"{row['encode_calls_per_batch']:.3f}"
            table.add_row(count, f"{row['publisher_cpu_us_per_event']:.2f}", rate, encodings)
        console.print(table)
    print_promises(console, result["criteria"])
