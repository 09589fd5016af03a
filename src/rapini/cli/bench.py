"""`rapini bench`: benchmarks as commands; a table for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from rapini.defaults import MAX_BATCH_EVENTS, WINDOW_BYTES

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["bench"]


_LINK_HELP = """Events per second, delay, fan-out and memory of a secured link; packets per second of `rapini run`.

The baselines are raw pyzmq PUSH/PULL, plain and with CURVE, one msgspec-encoded event a message. The whole run takes
about four minutes. The status is 1 if a promise was not kept.

\b
Examples:
  rapini bench link
  rapini bench link --only throughput --rounds 5 --json
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
    from rich.console import Console

    from rapini.bench.link import SECTIONS, Plan, measure

    notes = Console(stderr=True)
    with notes.status("measuring") as status:

        def progress(what: str) -> None:
            status.update(what)
            if not notes.is_terminal:
                notes.print(what, style="dim", highlight=False)

        plan = Plan(
            rounds=rounds,
            seconds=seconds,
            memory_seconds=memory_seconds,
            capture_packets=packets,
            sections=sections or SECTIONS,
            window_bytes=window_bytes,
            batch_events=batch_events,
            progress=progress,
        )
        result = measure(plan)
    if as_json:
        json.dump(result, sys.stdout, indent=1)
        print()
    else:
        _print(Console(), result)
    return 0 if all(row["is_kept"] for row in result["criteria"]) else 1


def _print(console: Console, result: dict[str, Any]) -> None:
    from rich.table import Table

    machine = result["machine"]
    console.print(
        f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, libzmq {machine['libzmq']}, "
        f"{machine['date']}; medians of {result['rounds']} interleaved rounds",
        style="dim",
    )
    if "throughput" in result:
        table = Table("variant", "events/s", "range", "publisher µs/event", "subscriber µs/event", title="Throughput")
        _align(table)
        for name, row in result["throughput"]["variants"].items():
            spread = f"{row['events_per_s_min']:,.0f}-{row['events_per_s_max']:,.0f}"
            cpu = (f"{row['publisher_cpu_us_per_event']:.2f}", f"{row['subscriber_cpu_us_per_event']:.2f}")
            table.add_row(name, f"{row['events_per_s']:,.0f}", spread, *cpu)
        console.print(table)
    if "latency" in result:
        table = Table("variant", "p50 µs", "p99 µs", title="Delay from publish() to the subscriber at 1,000 events/s")
        _align(table)
        for name, row in result["latency"]["variants"].items():
            table.add_row(name, f"{row['p50_us']:.0f}", f"{row['p99_us']:.0f}")
        console.print(table)
    if "fanout" in result:
        table = Table("subscribers", "publisher µs/event", "events/s", "encodings/batch", title="Fan-out over zmq+tls")
        _align(table)
        for count, row in result["fanout"]["subscribers"].items():
            rate, encodings = f"{row['published_events_per_s']:,.0f}", f"{row['encode_calls_per_batch']:.3f}"
            table.add_row(count, f"{row['publisher_cpu_us_per_event']:.2f}", rate, encodings)
        console.print(table)
    table = Table("", "promise", "measured", "", title="Promises")
    for row in result["criteria"]:
        verdict = "[green]kept[/]" if row["is_kept"] else "[red]not kept[/]"
        table.add_row(row["name"], row["promise"], f"{row['measured']:.2f}", verdict)
    console.print(table)


def _align(table: object) -> None:
    from rich.table import Table

    if isinstance(table, Table):
        for column in table.columns[1:]:
            column.justify = "right"
