"""What `rapini bench session` prints for people: a table for each section, and the promises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["print_machine", "print_promises", "print_session", "table_of"]

Facts = dict[str, Any]


def table_of(title: str, *columns: str) -> Table:
    """A table whose columns, but for the first, are numbers."""
    from rich.table import Table

    table = Table(*columns, title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def print_machine(console: Console, result: Facts) -> None:
    """Where the figures come from."""
    machine = result["machine"]
    console.print(
        f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, libzmq {machine['libzmq']}, "
        f"{machine['date']}, load {machine['load_before']}; medians of {result['rounds']} interleaved rounds",
        style="dim",
        highlight=False,
    )


def print_promises(console: Console, criteria: list[Facts]) -> None:
    """What was promised, and what was measured."""
    verdicts = {True: "[green]kept[/]", False: "[red]not kept[/]", None: "-"}
    table = table_of("Promises", "", "promise", "measured", "")
    table.columns[1].justify = "left"
    for row in criteria:
        measured = "-" if row["measured"] is None else f"{row['measured']:,.2f}"
        table.add_row(row["name"], row["promise"], measured, verdicts[row["is_kept"]])
    console.print(table)


def print_session(console: Console, result: Facts) -> None:
    """All of it."""
    print_machine(console, result)
    for section, show in _SECTIONS.items():
        if section in result:
            show(console, result[section])
    print_promises(console, result["criteria"])


def _rate(row: Facts) -> tuple[str, str]:
    if row["events_per_s"] is None:
        return "-", "-"
    return f"{row['events_per_s']:,.0f}", f"{row['events_per_s_min']:,.0f}-{row['events_per_s_max']:,.0f}"


def _reliable(console: Console, part: Facts) -> None:
    columns = ("class", "events/s", "range", "publisher µs/event", "subscriber µs/event")
    table = table_of("Delivery classes over zmq+tls", *columns)
    for name, row in part["variants"].items():
        cpu = (f"{row['publisher_cpu_us_per_event']:.2f}", f"{row['subscriber_cpu_us_per_event']:.2f}")
        table.add_row(name, *_rate(row), *cpu)
    console.print(table)


def _durable(console: Console, part: Facts) -> None:
    disk = part["disk"]
    title = f"Durable, on {disk['file_system']} with {disk['fsyncs_per_s']:,.0f} fsyncs/s"
    table = table_of(title, "", "events/s", "range", "publisher µs/event")
    notes = []
    for name, row in part["variants"].items():
        cpu = row.get("publisher_cpu_us_per_event")
        table.add_row(name, *_rate(row), "-" if cpu is None else f"{cpu:.2f}")
        notes.append(f"{name}: {row['says']}")
    console.print(table)
    for note in notes:
        console.print(note, style="dim", highlight=False)
    table = table_of("publish_durable(), which returns when the event is on disk", "threads", "calls/s")
    for threads, rate in part["publish_durable_per_s"].items():
        table.add_row(threads, f"{rate:,.0f}")
    console.print(table)


def _reconnect(console: Console, part: Facts) -> None:
    title = (
        f"From a cut until both sides are up: {part['reconnects']:,} times, backoff_first_s {part['backoff_first_s']}"
    )
    table = table_of(title, "link", "median ms", "99 % ms", "CPU ms", "KB more", "sockets more", "threads more")
    for name, row in part["variants"].items():
        growth = row["growth"].values()
        worst = [max(end[thing] for end in growth) for thing in ("rss_kb", "sockets", "threads")]
        cpu = sum(row["cpu_ms_per_reconnect"].values())
        times = (f"{row['both_up_ms']:.1f}", f"{row['both_up_p99_ms']:.1f}", f"{cpu:.1f}")
        table.add_row(name, *times, *(f"{figure:,.0f}" for figure in worst))
    console.print(table)


def _clone(console: Console, part: Facts) -> None:
    title = f"A clone of {part['entries']:,} entries, from dialling until it is in sync, over {part['scheme']}"
    table = table_of(title, "missed", "changes", "seconds", "longest")
    for name, row in part["missed"].items():
        seconds = (f"{row['in_sync_s']:.3f}", f"{row['in_sync_s_max']:.3f}")
        table.add_row("everything: the first copy" if name == "first" else name, f"{row['missed_changes']:,}", *seconds)
    console.print(table)


def _store(console: Console, part: Facts) -> None:
    table = table_of("Writes at a store's master in memory", "", "calls/s", "range", "CPU µs/call")
    span = f"{part['put_unique_per_s_min']:,.0f}-{part['put_unique_per_s_max']:,.0f}"
    table.add_row("put_unique", f"{part['put_unique_per_s']:,.0f}", span, f"{part['cpu_us_per_call']:.2f}")
    table.add_row("a dict's setdefault", f"{part['dict_setdefault_per_s']:,.0f}", "", "")
    console.print(table)


def _idle(console: Console, part: Facts) -> None:
    title = f"A listener with {part['peers']} idle peers, for {part['seconds']:g} s"
    table = table_of(title, "link", "% of a core", "KB a peer", "threads", "sockets", "s until all are up")
    for name, row in part["variants"].items():
        figures = (f"{row['cpu_percent_of_a_core']:.1f}", f"{row['kb_per_peer']:.0f}")
        table.add_row(name, *figures, str(row["threads"]), str(row["sockets"]), f"{row['come_up_s']:.1f}")
    console.print(table)


_SECTIONS: Final = {
    "reliable": _reliable,
    "durable": _durable,
    "reconnect": _reconnect,
    "clone": _clone,
    "store": _store,
    "idle": _idle,
}
