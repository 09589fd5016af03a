"""What `rapini status` prints: a node's status as lines of styled text, for eighty columns and more.

Lines are lists of (text, style), so that a pipe gets the same without styles. Everything that peers said is escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from rapini import DialStatus, NodeStatus, NodeTotals, SessionStatus
from rapini.cli.failures import printable

__all__ = ["Line", "duration", "node_lines", "overview_lines", "plain"]

Line = list[tuple[str, str]]
"""Pieces of text, each with its style (rich's words; empty for none)."""

_LABEL: Final = 12
_MIN_NAME: Final = 8
_MAX_NAME: Final = 40
_SESSION: Final = (("status", -9), ("since", 6), ("epoch", 5), ("received", 8), ("sent", 7))
_LOSSES: Final = (("missed", 6), ("dropped", 7), ("queued", 7))
_NODE: Final = (("pid", 7), ("up", 6), ("peers", 7), ("received", 8), ("sent", 7), ("missed", 6), ("dropped", 7))
_HELD_SHOWN_BYTES: Final = 100_000
"""Less than this is under way at any moment, and no news."""
_STYLES: Final = {"up": "green", "resumed": "green", "restarted": "green", "syncing": "yellow", "lost": "bold red"}
_UP: Final = ("up", "resumed", "restarted")


def plain(line: Line) -> str:
    """A line without its styles."""
    return "".join(text for text, _ in line).rstrip()


def _escaped(lines: list[Line]) -> list[Line]:
    """The last step of everything that is shown: no piece of it can move a cursor or begin a line."""
    return [[(printable(text), style) for text, style in line] for line in lines]


def duration(seconds: float) -> str:
    """Seconds in six characters or so: `7s`, `3m12s`, `2h05m`, `12d03h`."""
    whole = int(seconds)
    for unit, size, smaller, small in (("d", 86_400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= 100 * 86_400:
            return f"{whole // 86_400}d"
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // small:02}{smaller}"
    return f"{whole}s"


def _number(count: int, width: int) -> str:
    """In full where that fits, else three digits and a unit."""
    full = f"{count:,}"
    if len(full) <= width:
        return full
    for unit, size in (("T", 10**12), ("G", 10**9), ("M", 10**6)):
        if count >= size:
            return f"{_three_digits(count / size)}{unit}"
    return f"{_three_digits(count / 1000)}k"


def _three_digits(value: float) -> str:
    return f"{int(value):,}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _bytes(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 1000)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def _causes(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {cause}" for cause, count in sorted(counts.items(), key=lambda item: -item[1]))


def _names(listed: Sequence[str], total: int) -> str:
    more = f" and {total - len(listed):,} more" if total > len(listed) else ""
    return ", ".join("everything" if name == "" else name for name in listed) + more


def _cell(text: str, width: int) -> str:
    return text.ljust(-width) if width < 0 else text.rjust(width)


def _header(first: str, name_width: int, columns: Iterable[tuple[str, int]]) -> Line:
    return [(" ".join([first.ljust(name_width), *(_cell(title, width) for title, width in columns)]), "bold")]


def _name_width(names: Iterable[str], width: int, columns: Sequence[tuple[str, int]]) -> int:
    room = width - sum(abs(size) + 1 for _, size in columns)
    return max(_MIN_NAME, min(max(map(len, names), default=0), room, _MAX_NAME))


def _name(name: str, width: int) -> str:
    return name.ljust(width) if len(name) <= width else name[: width - 1] + "…"


# -- one node ---------------------------------------------------------------------------------------------------------


def node_lines(status: NodeStatus, width: int = 80, before: NodeStatus | None = None) -> list[Line]:
    """A node with its peers.

    Args:
        status: The node now.
        width: Columns to make use of; text may go beyond and is the terminal's to cut.
        before: The same node a while ago, for rates.
    """
    who = ", ".join(
        [f"cluster {status.cluster}", *([f"role {status.role}"] if status.role else []), f"pid {status.pid}"]
    )
    lines: list[Line] = [
        [
            (status.name, "bold"),
            (f"  {who}, up {duration(status.uptime_s)}, incarnation {status.incarnation}", ""),
        ]
    ]
    if status.state != "running":
        lines.append(_field("state", f"{status.state} {status.failure}".strip(), "bold red"))
    lines += [_field("listens on", url) for url in status.listening]
    lines += [_dial_line(dial) for dial in status.dials]
    if status.dials_total > len(status.dials):
        lines.append(_field("", f"and {status.dials_total - len(status.dials):,} more"))
    lines += _totals_lines(status, before)
    lines.append([])
    lines += _session_lines(status, width)
    lines += _rows("gaps", status.gaps)
    lines += _rows("stores", status.stores)
    return _escaped(lines)


def _field(label: str, text: str, style: str = "") -> Line:
    return [(f"  {label:<{_LABEL}}", "dim"), (text, style)]


def _dial_line(dial: DialStatus) -> Line:
    parts = [dial.state]
    if dial.peer:
        parts.append(f"to {dial.peer}" if dial.state == "up" else f"last to {dial.peer}")
    if dial.next_attempt_s is not None and dial.state == "waiting":
        parts.append(f"again in {dial.next_attempt_s:.1f} s")
    why = f" ({dial.failure_code}: {dial.failure})" if dial.failure_code else ""
    style = "" if dial.state in ("up", "standby") else "yellow"
    return [
        (f"  {'dials':<{_LABEL}}", "dim"),
        (f"{dial.endpoint}  ", ""),
        (f"{', '.join(parts)}{why}", style),
    ]


def _totals_lines(status: NodeStatus, before: NodeStatus | None) -> list[Line]:
    totals = status.totals
    published = f"{totals.published:,} published{_rate(status, before, lambda t: t.published)}"
    received = f"{totals.received:,} received{_rate(status, before, lambda t: t.received)}"
    lines = [_field("events", f"{published}, {received}, {totals.acknowledged:,} acknowledged")]
    losses = {"missed": totals.missed, "unrouted": totals.unrouted, "not encodable": totals.not_encodable}
    losses |= {"bad": totals.bad_events, **totals.dropped}
    if any(losses.values()):
        lines.append(_field("losses", _causes({cause: n for cause, n in losses.items() if n}), "yellow"))
    queues = f"{_bytes(totals.queued_bytes)} queued, {_bytes(totals.in_flight_bytes)} in flight, "
    lines.append(_field("queues", f"{queues}{_bytes(totals.held_bytes)} wait for the program"))
    history = {"lost": totals.peers_lost, "left": totals.peers_left, "resumed": totals.peers_resumed}
    history["restarted"] = totals.peers_restarted
    up = sum(session.status in _UP for session in status.sessions)
    past = ", ".join(f"{count:,} {what}" for what, count in history.items() if count)
    past = f"; so far {past}" if past else ""
    lines.append(_field("peers", f"{up:,} up of {status.sessions_total:,}{past}"))
    refused = {**totals.rejected}
    for code, count in totals.turned_away.items():
        refused[code] = refused.get(code, 0) + count
    if refused:
        lines.append(_field("refused", _causes(refused), "yellow"))
    return lines


def _rate(status: NodeStatus, before: NodeStatus | None, of: Callable[[NodeTotals], int]) -> str:
    if (
        before is None
        or not of(status.totals)
        or before.incarnation != status.incarnation
        or status.uptime_s - before.uptime_s < 0.05
    ):
        return ""
    rate = (of(status.totals) - of(before.totals)) / (status.uptime_s - before.uptime_s)
    return f" ({rate:,.0f}/s)"


def _session_lines(status: NodeStatus, width: int) -> list[Line]:
    if not status.sessions:
        return [[("no peers yet", "dim")]]
    columns = (*_SESSION, *_LOSSES)
    name_width = _name_width((session.name for session in status.sessions), width, columns)
    lines = [_header("peer", name_width, columns)]
    for session in status.sessions:
        lines += _session(session, name_width)
    if status.sessions_total > len(status.sessions):
        lines.append([(f"and {status.sessions_total - len(status.sessions):,} more", "dim")])
    return lines


def _session(session: SessionStatus, name_width: int) -> list[Line]:
    dropped = sum(session.dropped.values())
    queued = session.queued_bytes + session.in_flight_bytes
    flow = [duration(session.since_s), str(session.epoch), _number(session.received, 8), _number(session.sent, 7)]
    losses = [_number(session.missed, 6), _number(dropped, 7), _bytes(queued)]
    is_lossy = bool(session.missed or dropped)
    (_, status_width), *widths = _SESSION
    line: Line = [
        (_name(session.name, name_width) + " ", "bold" if session.status in _UP else ""),
        (_cell(session.status, status_width), _STYLES.get(session.status, "dim")),
        ("".join(" " + _cell(text, size) for text, (_, size) in zip(flow, widths, strict=True)), ""),
        ("".join(" " + _cell(text, size) for text, (_, size) in zip(losses[:2], _LOSSES, strict=False)), ""),
        (" " + _cell(losses[2], _LOSSES[2][1]), ""),
    ]
    if is_lossy:
        line[3] = (line[3][0], "yellow")
    lines = [line, _indented(_who(session))]
    if session.subscriptions:
        lines.append(_indented(f"wants {_names(session.subscriptions, session.subscriptions_total)}"))
    if dropped:
        lines.append(_indented(f"dropped {_causes(session.dropped)}"))
    if session.held_bytes >= _HELD_SHOWN_BYTES:
        lines.append(_indented(f"{_bytes(session.held_bytes)} from it wait for this node's program"))
    lines += _rows("flows", session.flows)
    return lines


def _who(session: SessionStatus) -> str:
    proof = "verified" if session.is_verified else "not verified"
    parts = [f"{session.mechanism}, {proof}" if session.mechanism else "", session.address]
    parts += [f"role {session.role}" if session.role else "", f"incarnation {session.incarnation}"]
    return ", ".join(filter(None, parts))


def _indented(text: str) -> Line:
    return [(f"  {text}", "dim")]


def _rows(title: str, rows: Sequence[Mapping[str, object]]) -> list[Line]:
    """A table with the columns in which its rows say something; nothing without rows."""
    if not rows:
        return []
    columns = list(dict.fromkeys(column for row in rows for column, value in row.items() if value not in (None, 0, "")))
    cells = [["" if row.get(column) is None else str(row[column]) for column in columns] for row in rows]
    widths = [max(map(len, texts)) for texts in zip(columns, *cells, strict=True)]
    lines: list[Line] = [[(f"  {title}", "bold")]]
    for texts in (columns, *cells):
        line = "  ".join(text.ljust(size) for text, size in zip(texts, widths, strict=True))
        lines.append([(f"    {line}", "dim" if texts is columns else "")])
    return lines


# -- several nodes ----------------------------------------------------------------------------------------------------


def overview_lines(statuses: Sequence[NodeStatus], width: int = 80) -> list[Line]:
    """Several nodes, a line each."""
    name_width = _name_width((status.name for status in statuses), width, _NODE)
    lines = [_header("node", name_width, _NODE)]
    for status in statuses:
        totals = status.totals
        up = sum(session.status in _UP for session in status.sessions)
        losses = totals.missed + sum(totals.dropped.values())
        cells = [str(status.pid), duration(status.uptime_s), f"{up}/{status.sessions_total}"]
        cells += [_number(totals.received, 8), _number(totals.sent, 7), _number(totals.missed, 6)]
        cells.append(_number(sum(totals.dropped.values()), 7))
        text = "".join(" " + _cell(cell, size) for cell, (_, size) in zip(cells, _NODE, strict=True))
        name_style = "bold" if status.state == "running" else "bold red"
        line: Line = [(_name(status.name, name_width), name_style), (text, "yellow" if losses else "")]
        if status.state != "running":
            line.append((f" {status.state}", "bold red"))
        lines.append(line)
    lines += [[], [("rapini status NAME shows one of them with its peers", "dim")]]
    return _escaped(lines)
