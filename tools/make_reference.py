"""Write docs/reference/settings.md and docs/reference/status.md from the code, so that they cannot grow apart.

    python tools/make_reference.py

Names, types and defaults are the classes' own; the meanings are their docstrings (those of `rapini.defaults` where a
field has none, the options' help for the programs' tables). `tests/docs/test_manual.py` checks that the files are
current.
"""

from __future__ import annotations

import ast
import enum
import inspect
import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import click
import msgspec

from rapini import (
    CountersSnapshot,
    DialStatus,
    Gap,
    NodeSettings,
    NodeStatus,
    NodeTotals,
    Origin,
    PeerInfo,
    PeerState,
    PeerStatus,
    PublishOutcome,
    SessionStatus,
    defaults,
)
from rapini.cli import programs
from rapini.cli.failures import Status
from rapini.logs import LossCause
from rapini.secure.channel import Side
from rapini.session.outcomes import CloseKind

DOCS: Final = Path(__file__).resolve().parent.parent / "docs" / "reference"

SETTINGS_HEAD: Final = """\
# Settings

Made by `tools/make_reference.py`. A setting is an argument of `Node` and `AsyncNode`, or an option of a TOML file given
as `config=` or `--config`. Arguments and flags override the file. An unknown option, a wrong type or a value out of
range is refused before anything starts (`bad_option`), with file, line and remedy. Relative paths are relative to the
folder in which the program was started.
"""

STATUS_HEAD: Final = """\
# Statuses, codes and counters

Made by `tools/make_reference.py`. What the codes mean and what to do about them:
[When it does not connect](../howto/when-it-does-not-connect.md) and [Codes of calls](codes.md). How the counters add
up: [Accounting](../explanation/accounting.md). What is promised: [Delivery](../explanation/delivery.md).
"""

HOW_IT_ENDS: Final = """
## How a channel ends

Of a channel that was up, `lost` is reported as `lost`, `left` and `closed` as `left`. Of one that was not, `failed` and
`rejected` are reported as `rejected`, and `closed` is not reported. A `duplicate_connection` is not reported either:
the two nodes have another channel.
"""

NODE_STATUS: Final = """
## `NodeStatus`

What `rapini status --json` prints and `rapini.read_status(path)` returns; see
[See what a node does](../howto/see-what-a-node-does.md). Fields may be added, and keep their meaning.
"""

WHY_NOT: Final = """
## Why an event was not delivered

The causes in `CountersSnapshot.dropped`, by peer, cause and topic; and the reasons of the receiver's `Gap`s.
"""

UNITS: Final = {"_s": "seconds", "_bytes": "bytes", "_events": "events"}

DROP_CAUSES: Final = {
    "queue_full": "the peer's queue here (`send_queue_bytes`) had no room, nor had what it spills to",
    "shed": "the same, where topics have priorities: this one ranked lowest",
    "expired": "it waited here for longer than `max_age_s`",
    "peer_lost": "best effort: the peer was away when it was published, or was lost while it still waited here",
    "lost_in_transit": "best effort: it was sent, and the peer, back as the same incarnation, had not received it",
    "unacknowledged": "the peer came back as a new incarnation; the old one may have taken it, and had not said so",
    "lease_expired": "the peer was lost for longer than `lease_s`, or too much waited for it",
    "peer_left": "the peer said goodbye before it had taken it",
    "closing": "our own node was closed, or ended the connection, before the peer had taken it",
}
"""The causes of drops, which are text in the code; the test compares the names."""

GAP_REASONS: Final = {
    "trimmed": "durable: the spool was full, and dropped it; or it was older than what the spool still has",
    "damaged": "durable: the publisher's disk did not keep it",
    "upstream_1": "it was lost before it came to the relay that tells of it; `upstream_2`: a relay earlier, …",
}
"""Reasons that stand in gaps alone."""

PLAIN_FIELDS: Final = {
    "state": "What happened.",
    "name": "The peer's name.",
    "role": "The role that it was certified for; behind `plain` what it says.",
    "address": "Its network address.",
    "endpoint": "The URL dialled or listened on.",
    "mechanism": "`tls` or `plain`.",
    "epoch": "Which channel of the session this is about, from 1.",
    "topic": "Where the event was published.",
    "channels_opened": "Handshakes completed.",
    "peers_lost": "Peers that went without a goodbye.",
    "peers_left": "Peers that said goodbye.",
    "peers_resumed": "Peers that came back as the same incarnation.",
    "peers_restarted": "Peers that came back as a new incarnation.",
}
"""What fields are whose names say it in the code."""

PROGRAM_TABLES: Final = (
    ("sensor", programs.SensorTable, programs.sensor),
    ("logger", programs.LoggerTable, programs.logger),
    ("manager", programs.ManagerTable, programs.manager),
)


def docstrings(source: Any) -> dict[str, str]:
    """The strings that stand under a class's or a module's assignments, by name, on one line."""
    tree = ast.parse(inspect.getsource(source))
    body = tree.body if inspect.ismodule(source) else tree.body[0].body  # type: ignore[attr-defined]
    found = {}
    for statement, following in itertools.pairwise(body):
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            target = getattr(statement, "target", None) or getattr(statement, "targets", [None])[0]
            if isinstance(target, ast.Name):
                found[target.id] = " ".join(str(following.value.value).split())
    return found


def row(cells: Iterable[str]) -> str:
    """A row of a table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join([row(head), row("---" for _ in head), *map(row, rows)])


def type_text(kind: Any) -> str:
    """A field's type, as an operator would say it, with its bounds."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(f'`"{choice}"`' for choice in arguments)
    if origin is list:
        return f"list of {type_text(arguments[0])}"
    if origin is dict:
        return f"table of {type_text(arguments[1])}"
    if origin is Annotated:
        meta = next(extra for extra in arguments[1:] if isinstance(extra, msgspec.Meta))
        bounds = (("more than", meta.gt), ("at least", meta.ge), ("at most", meta.le))
        return ", ".join(
            [arguments[0].__name__, *(f"{words} {value:,}" for words, value in bounds if value is not None)]
        )
    return str(kind.__name__)


def default_text(field: msgspec.structs.FieldInfo) -> str:
    """A field's default as TOML writes it."""
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    match value:
        case bool():
            return f"`{str(value).lower()}`"
        case str():
            return f'`"{value}"`'
        case float():
            return f"`{value:g}`"
        case list() if len(value) > 4:
            return f'`["{value[0]}", …]` ({len(value)} special-purpose networks)'
        case list():
            return "`[" + ", ".join(f'"{item}"' for item in value) + "]`"
        case _:
            return f"`{value}`"


def unit_of(name: str) -> str:
    """The unit that a field's name ends in."""
    return next((unit for ending, unit in UNITS.items() if name.endswith(ending)), "")


def settings_table(kind: type[msgspec.Struct], meanings: dict[str, str]) -> str:
    """One row a field."""
    fields = msgspec.structs.fields(kind)
    rows = [
        (f"`{f.name}`", type_text(f.type), default_text(f), unit_of(f.name), meanings[f.name].rstrip("."))
        for f in fields
    ]
    return table(("option", "type", "default", "unit", "meaning"), rows)


def option_meanings(command: click.Command) -> dict[str, str]:
    """The help of a command's options, by the name of the value."""
    return {
        option.name: re.sub(r"\s*\[default.*?\]", "", option.help or "")
        for option in command.params
        if isinstance(option, click.Option) and option.name
    }


def as_options(text: str) -> str:
    """A default's docstring as the option's: constants under their options' names, no pointer to measurements."""
    text = re.sub(r"`([A-Z_]+)`", lambda name: name[0].lower(), text)
    return re.sub(r" \(`measurements\.md`[^)]*\)", "", text)


def settings_text() -> str:
    """docs/reference/settings.md as it should be."""
    of_defaults = {name.lower(): as_options(text) for name, text in docstrings(defaults).items()}
    meanings = of_defaults | docstrings(NodeSettings)
    parts = [SETTINGS_HEAD, "## `[node]`\n", settings_table(NodeSettings, meanings)]
    for name, kind, command in PROGRAM_TABLES:
        parts += [f"\n## `[{name}]`\n\nFor `rapini {name}`.\n", settings_table(kind, option_meanings(command))]
    parts.append("\n## Exit statuses\n\nThe same for every command.\n")
    statuses = docstrings(Status)
    parts.append(table(("status", "meaning"), [(f"{s.value}", statuses.get(s.name, "Done.")) for s in Status]))
    return "\n".join(parts) + "\n"


def enum_table(head: str, kind: type[enum.Enum]) -> str:
    """One row a member."""
    meanings = docstrings(kind)
    return table((head, "meaning"), [(f"`{member.value}`", meanings[member.name]) for member in kind])


def fields_table(kind: type) -> str:
    """One row a field of a dataclass."""
    meanings = PLAIN_FIELDS | docstrings(kind)
    return table(("field", "meaning"), [(f"`{name}`", meanings[name]) for name in kind.__annotations__])


def status_text() -> str:
    """docs/reference/status.md as it should be."""
    parts = [
        STATUS_HEAD,
        "## `PeerState`\n",
        enum_table("state", PeerState),
        "\n## `PeerStatus`\n",
        fields_table(PeerStatus),
        "\n## `Side`\n",
        enum_table("side", Side),
        HOW_IT_ENDS,
        enum_table("end", CloseKind),
        "\n## `PeerInfo`\n\nWhat `node.peers()` and the admission hook get.\n",
        fields_table(PeerInfo),
        "\n## `Origin`\n",
        fields_table(Origin),
        "\n## `Gap`\n",
        fields_table(Gap),
        "\n## `PublishOutcome`\n",
        enum_table("outcome", PublishOutcome),
        WHY_NOT,
        table(("cause, reason", "meaning"), [(f"`{cause}`", text) for cause, text in DROP_CAUSES.items()]),
        "\nReasons that only gaps have:\n",
        table(("reason", "meaning"), [(f"`{reason}`", text) for reason, text in GAP_REASONS.items()]),
        "\n## `CountersSnapshot`\n\nWhat `node.counters()` returns.\n",
        fields_table(CountersSnapshot),
        NODE_STATUS,
        fields_table(NodeStatus),
        "\n### Each of `dials`\n",
        fields_table(DialStatus),
        "\n### Each of `sessions`\n",
        fields_table(SessionStatus),
        "\n### `totals`\n",
        fields_table(NodeTotals),
        "\n## Why an event is not in its log\n\nThe logger's causes.\n",
        enum_table("cause", LossCause),
    ]
    return "\n".join(parts) + "\n"


PAGES: Final = {"settings.md": settings_text, "status.md": status_text}

if __name__ == "__main__":
    for name, text in PAGES.items():
        (DOCS / name).write_text(text(), encoding="utf-8")
        print(name)
