"""Our log files against Zeek's: the same values give the same bytes, and a stranger's program reads them back.

`data/zeek_logs.json` holds files that a real Zeek 9.1.0-dev wrote. zat (PyPI) is an independent reader of Zeek's logs.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from rapini.apps.schema import Connection, DnsExchange
from rapini.events import Address, Event, Interval, Network, Port, Record, Time
from rapini.logs import JsonFormatter, LogManager, LogSchema, TsvFormatter, zeek_schema
from tests.conftest import require_component

_LOGS: Final[dict[str, dict[str, str]]] = json.loads(
    (Path(__file__).parent / "data" / "zeek_logs.json").read_text(encoding="ascii")
)["logs"]
_TYPES: Final[dict[str, type[Event]]] = {"conn": Connection, "dns": DnsExchange}
_CASES: Final = [case for case in _LOGS if case.rpartition("/")[2] in _TYPES]
_OPENED: Final = datetime(2026, 11, 23, 4, 26, 31, tzinfo=UTC)


def _schema(case: str) -> LogSchema:
    path = case.rpartition("/")[2]
    return zeek_schema(_TYPES[path], path=path)


def _records(tsv: str) -> list[str]:
    return [line for line in tsv.splitlines() if not line.startswith("#")]


def _from_tsv(schema: LogSchema, event_type: type[Event], line: str) -> Event:
    """An event from a line of Zeek's, by the types that Zeek's header states."""

    def scalar(zeek_type: str, text: str) -> Any:
        match zeek_type:
            case "time" | "interval":
                return float(text)
            case "count" | "port":
                return int(text)
            case "bool":
                return text == "T"
            case "addr":
                return Address.of(text)
            case _:
                return "" if text == "(empty)" else text

    values: list[Any] = []
    for column, text in zip(schema.columns, line.split("\t"), strict=True):
        if text == "-":
            values.append(None)
        elif column.container:
            elements = [] if text == "(empty)" else text.split(",")
            values.append([scalar(column.zeek_type.value, element) for element in elements])
        else:
            values.append(scalar(column.zeek_type.value, text))
    return event_type(*values)


def _from_json(schema: LogSchema, event_type: type[Event], line: str) -> Event:
    fields = json.loads(line)
    values = [fields.pop(column.name, None) for column in schema.columns]
    assert not fields, "a column of Zeek's that ours lacks"
    typed = [
        Address.of(v) if column.zeek_type.value == "addr" else v
        for column, v in zip(schema.columns, values, strict=True)
    ]
    return event_type(*typed)


@pytest.mark.parametrize("case", _CASES)
def test_header_names_the_columns_as_zeek_does(case: str) -> None:
    theirs = [line for line in _LOGS[case]["tsv"].splitlines() if line.startswith("#")]
    formatter = TsvFormatter(_schema(case))
    ours = (formatter.header(_OPENED) + formatter.footer(_OPENED)).decode().splitlines()
    clocks = ("#open\t", "#close\t")
    assert [line for line in ours if not line.startswith(clocks)] == [
        line for line in theirs if not line.startswith(clocks)
    ]
    assert [len(line) for line in ours if line.startswith(clocks)] == [
        len(line) for line in theirs if line.startswith(clocks)
    ]


@pytest.mark.parametrize("case", _CASES)
def test_tsv_values_come_out_byte_for_byte(case: str) -> None:
    schema, event_type = _schema(case), _TYPES[case.rpartition("/")[2]]
    theirs = _records(_LOGS[case]["tsv"])
    rendered = TsvFormatter(schema).render([_from_tsv(schema, event_type, line) for line in theirs])
    assert rendered.data.decode().splitlines() == theirs
    assert (rendered.rows, rendered.failed) == (len(theirs), 0)


@pytest.mark.parametrize("case", _CASES)
def test_json_values_come_out_byte_for_byte_and_as_the_tsv_twin(case: str) -> None:
    schema, event_type = _schema(case), _TYPES[case.rpartition("/")[2]]
    theirs = _LOGS[case]["json"].splitlines()
    events = [_from_json(schema, event_type, line) for line in theirs]
    assert JsonFormatter(schema).render(events).data.decode().splitlines() == theirs
    assert TsvFormatter(schema).render(events).data.decode().splitlines() == _records(_LOGS[case]["tsv"])


class _Color(Enum):
    RED = "LG::RED"
    GREEN = "LG::GREEN"


class _Sub(Record, frozen=True, array_like=True, gc=False):
    x: int | None
    y: str | None


class _Id(Record, frozen=True, array_like=True, gc=False):
    orig_h: Address
    orig_p: Port
    resp_h: Address
    resp_p: Port


class AllTypes(Event, topic="test/all-types", name="test.interop.AllTypes"):
    """The columns of the recorded `lg.log` but for its two of type `func`, which we have not."""

    ts: Time
    b: bool
    i: int
    c: int
    d: float
    iv: Interval
    s: str
    bin: bytes
    es: str
    pt: Port
    pu: Port
    pi: Port
    a4: Address
    a6: Address
    n4: Network
    n6: Network
    e: _Color
    pr: str
    ss: list[str]
    sa: list[Address]
    sc: list[int]
    se: list[_Color]
    sp: list[Port]
    sn: list[Network]
    s0: set[str]
    vs: list[str]
    vc: list[int]
    vd: list[float]
    vi: list[Interval]
    va: list[Address]
    ve: list[_Color]
    v0: list[str]
    opt: str | None
    optset: list[int] | None
    sub: _Sub | None
    id: _Id


def _all_types(ts: float, b: bool, c: int, opt: str | None, optset: list[int] | None, sub: _Sub) -> AllTypes:
    colors, net, v6 = [_Color.RED, _Color.GREEN], Network.of("10.0.0.0/8"), Address.of("2001:db8::5")
    return AllTypes(
        ts, b, -5, c, 2.5, 1.5, "hello", b"a\x00\xff\xc3\xa6", "", Port(80), Port(53, "udp"), Port(8, "icmp"),
        Address.of("1.2.3.4"), Address.of("2001:db8::1"), net, Network.of("2001:db8::/32"), _Color.GREEN, "tcp",
        ["a", "b"], [v6, Address.of("1.1.1.1")], [8, 7], colors, [Port(80), Port(53, "udp")], [net], set(),
        ["x", ""], [1, 2], [1.5, -2.0], [1.0], [Address.of("9.9.9.9")], [_Color.RED], [], opt, optset, sub,
        _Id(Address.of("10.0.0.1"), Port(1234), Address.of("2001:db8::2"), Port(80)),
    )  # fmt: skip


def test_every_type_comes_out_as_zeek_writes_it() -> None:
    theirs = _LOGS["all_types/logger/lg"]
    sets = {"ss": "string", "sa": "addr", "sc": "count", "se": "enum", "sp": "port", "sn": "subnet", "optset": "count"}
    types = {name: f"set[{element}]" for name, element in sets.items()}
    types |= {"c": "count", "vc": "vector[count]", "pr": "enum", "sub.x": "count"}
    schema = LogSchema.for_event(AllTypes, path="lg", types=types)
    events = [
        _all_types(1700000000.25, True, 5, None, None, _Sub(None, None)),
        _all_types(1700000001.25, False, 6, "present", [99], _Sub(1, "why")),
        _all_types(1700000002.25, True, 7, None, None, _Sub(2, None)),
    ]
    header = TsvFormatter(schema).header(_OPENED).decode().splitlines()
    wanted = [line for line in theirs["tsv"].splitlines() if line.startswith(("#fields", "#types"))]
    assert header[-2:] == [line.rsplit("\t", 2)[0] for line in wanted]
    tsv = TsvFormatter(schema).render(events).data.decode().splitlines()
    assert tsv == [line.rsplit("\t", 2)[0] for line in _records(theirs["tsv"])]
    as_json = JsonFormatter(schema).render(events).data.decode().splitlines()
    assert as_json == [line.partition(',"fn":')[0] + "}" for line in theirs["json"].splitlines()]


# --- Read back by a stranger ------------------------------------------------------------------------------------


def _zat_row(event: Event, schema: LogSchema) -> dict[str, object]:
    """What zat makes of an event's line. It has no unset value but each type's own zero."""
    unset = {"bool": False, "count": 0, "port": 0, "interval": timedelta(), "string": "-"}
    row: dict[str, object] = {}
    for column in schema.columns:
        value = getattr(event, column.source[0])
        name = column.type_name
        if value is None:
            row[column.name] = unset.get(name, "-")
        elif name == "time":
            row[column.name] = datetime.fromtimestamp(float(f"{value:.6f}"))  # noqa: DTZ006 - as zat does
        elif name == "interval":
            row[column.name] = timedelta(seconds=float(f"{value:.6f}"))
        elif name == "vector[interval]":
            row[column.name] = ",".join(f"{v:.6f}" for v in value)
        elif column.container:
            row[column.name] = ",".join(value)
        else:
            row[column.name] = str(value) if name == "addr" else value
    return row


# pandas and zat leave files to the garbage collector and use what newer versions of each other deprecate.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:zat.*")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:pandas.*")
@pytest.mark.parametrize(("case", "path"), [("wikipedia/logger/conn", "conn"), ("wikipedia/logger/dns", "dns")])
def test_zat_reads_our_logs_back_into_equal_values(case: str, path: str, tmp_path: Path) -> None:
    require_component("python:zat", hint="it is among the development requirements")
    from zat.log_to_dataframe import LogToDataFrame
    from zat.zeek_log_reader import ZeekLogReader

    event_type, schema = _TYPES[path], _schema(case)
    events = [_from_json(schema, event_type, line) for line in _LOGS[case]["json"].splitlines()]
    logs = LogManager(tmp_path)
    logs.add_stream(event_type, schema)
    logs.log(events)
    assert logs.close(deadline_s=20).is_complete

    rows = list(ZeekLogReader(str(tmp_path / f"{path}.log"), strict=True).readrows())
    assert rows == [_zat_row(event, schema) for event in events]

    frame = LogToDataFrame().create_dataframe(str(tmp_path / f"{path}.log"))
    assert len(frame) == len(events)
    assert list(frame["uid"]) == [msgspec.structs.asdict(event)["uid"] for event in events]
