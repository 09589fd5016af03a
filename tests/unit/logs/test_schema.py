"""Columns follow from the fields' types; what cannot be a column is refused when the log is defined."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Literal

import msgspec
import pytest

from rapini.apps.schema import Connection
from rapini.errors import LogError
from rapini.events import Address, Event, Interval, Network, Port, Record, Time
from rapini.logs import LogSchema, zeek_schema


class _Kind(Enum):
    A = "a"


class _Inner(Record, frozen=True, array_like=True, gc=False):
    deep: Address | None
    n: int


class Everything(Event, topic="test/everything", name="test.logs.Everything"):
    ts: Time
    age: Interval | None
    real: float
    flag: bool
    number: int
    natural: Annotated[int, msgspec.Meta(ge=0)]
    text: str
    raw: bytes | None
    host: Address
    net: Network
    port: Port
    kind: _Kind
    word: Literal["x", "y"]
    hosts: list[Address]
    names: set[str] | None
    ages: tuple[Interval, ...]
    inner: _Inner | None


def test_types_follow_from_the_fields() -> None:
    schema = LogSchema.for_event(Everything, path="everything")
    assert [(c.name, c.type_name, c.optional) for c in schema.columns] == [
        ("ts", "time", False),
        ("age", "interval", True),
        ("real", "double", False),
        ("flag", "bool", False),
        ("number", "int", False),
        ("natural", "count", False),
        ("text", "string", False),
        ("raw", "string", True),
        ("host", "addr", False),
        ("net", "subnet", False),
        ("port", "port", False),
        ("kind", "enum", False),
        ("word", "enum", False),
        ("hosts", "vector[addr]", False),
        ("names", "set[string]", True),
        ("ages", "vector[interval]", False),
        ("inner.deep", "addr", True),
        ("inner.n", "int", True),
    ]


def test_zeeks_habits_for_the_monitors_logs() -> None:
    columns = {c.name: c.type_name for c in zeek_schema(Connection, path="conn").columns}
    assert columns["id.orig_p"] == "port"
    assert columns["proto"] == "enum"
    assert columns["orig_bytes"] == "count"
    assert columns["tunnel_parents"] == "set[string]"


def test_names_and_types_can_be_overridden() -> None:
    schema = LogSchema.for_event(
        Everything, path="x", rename={"ts": "when"}, types={"inner.n": "port", "hosts": "set[addr]"}, int_type="count"
    )
    columns = {c.name: c.type_name for c in schema.columns}
    assert (columns["when"], columns["inner.n"], columns["hosts"], columns["number"]) == (
        "time", "port", "set[addr]", "count",
    )  # fmt: skip


class Mapping(Event, topic="test/x", name="test.logs.Mapping"):
    a: dict[str, int]


class Nested(Event, topic="test/x", name="test.logs.Nested"):
    a: list[list[int]]


class Mixed(Event, topic="test/x", name="test.logs.Mixed"):
    a: int | str


class Fieldless(Event, topic="test/x", name="test.logs.Fieldless"):
    pass


@pytest.mark.parametrize(
    ("event_type", "options"),
    [
        (Mapping, {}),
        (Nested, {}),
        (Mixed, {}),
        (Fieldless, {}),
        (Connection, {"path": "../conn"}),
        (Connection, {"path": ""}),
        (Connection, {"rename": {"uid": "ts"}}),
        (Connection, {"rename": {"uid": "a\tb"}}),
        (Connection, {"types": {"uid": "text"}}),
        (Connection, {"types": {"uid": "set[string]"}}),
    ],
)
def test_what_cannot_be_a_log_is_refused(event_type: type[Event], options: dict[str, Any]) -> None:
    with pytest.raises(LogError) as raised:
        LogSchema.for_event(event_type, **{"path": "x", **options})
    assert raised.value.code == "bad_schema"
