"""Rendering: numbers as Zeek writes them, hostile text without a way out, and one bad value costs one record."""

from __future__ import annotations

import json
import math
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapini.apps.schema import Connection
from rapini.events import Address, Event, Interval, Time
from rapini.logs import JsonFormatter, LogSchema, RowFormatter, TsvFormatter, zeek_schema
from rapini.logs.escape import unescape_tsv
from rapini.logs.rows import compile_cost, json_double, tsv_double


class Line(Event, topic="test/line", name="test.logs.Line"):
    name: str
    at: Time
    note: str | None = None
    words: list[str] | None = None
    took: Interval | None = None
    size: int = 0
    real: float | None = None
    host: Address | None = None
    ok: bool | None = None


SCHEMA: Final = LogSchema.for_event(Line, path="line")


def _tsv(*events: Event, schema: LogSchema = SCHEMA) -> list[str]:
    return TsvFormatter(schema).render(events).data.decode().split("\n")[:-1]


def _json(*events: Event) -> list[str]:
    return JsonFormatter(SCHEMA).render(events).data.decode().split("\n")[:-1]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.5"), (3.0, "3.0"), (-2.0, "-2.0"), (1e-7, "0"), (1e-10, "0.0"), (100.0, "100.0"),
        (2.123456789, "2.123457"), (1e300, f"{1e300:.0f}.0"), (math.inf, "inf"), (-math.inf, "-inf"), (math.nan, "nan"),
    ],
)  # fmt: skip
def test_doubles_in_tsv(value: float, text: str) -> None:
    assert tsv_double(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0"), (-0.0, "-0.0"), (2, "2.0"), (1.5, "1.5"), (1e-6, "0.000001"), (1.25e-6, "0.00000125"),
        (-9.5e-6, "-0.0000095"), (1.5e-5, "0.000015"), (1e-7, "1e-7"), (1e16, "10000000000000000.0"),
        (-1.5e20, "-150000000000000000000.0"), (1e21, "1e21"), (math.nan, "null"), (math.inf, "null"),
        (123456789012345680.0, "123456789012345680.0"),
    ],
)  # fmt: skip
def test_doubles_in_json(value: float, text: str) -> None:
    assert msgspec.json.encode(json_double(value)).decode() == text
    assert f'"at":{text}' in _json(Line("x", value))[0] or text == "null"


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_doubles_in_json_read_back_as_they_were(value: float) -> None:
    assert json.loads(msgspec.json.encode(json_double(value))) == value


def test_unset_empty_and_markers_differ() -> None:
    lines = _tsv(Line("", 1.0), Line("-", 1.0, "", []), Line("(empty)", 1.0, "-", ["", "-", "a,b"], 0.5, -3, 2.5))
    assert [line.split("\t") for line in lines] == [
        ["(empty)", "1.000000", "-", "-", "-", "0", "-", "-", "-"],
        ["\\x2d", "1.000000", "(empty)", "(empty)", "-", "0", "-", "-", "-"],
        ["\\x28empty)", "1.000000", "\\x2d", "(empty),\\x2d,a\\x2cb", "0.500000", "-3", "2.5", "-", "-"],
    ]


def test_json_leaves_out_what_is_unset_and_keeps_what_is_empty() -> None:
    assert _json(Line("", 1.0), Line("a", 1.0, "", [], ok=False, host=Address.of("::1"))) == [
        '{"name":"","at":1.0,"size":0}',
        '{"name":"a","at":1.0,"note":"","words":[],"size":0,"host":"::1","ok":false}',
    ]


def test_a_record_never_begins_like_a_comment() -> None:
    assert _tsv(Line("#close", 1.0), Line("a", 1.0), Line("#", 1.0))[0].startswith("\\x23close\t")
    assert _tsv(Line("\u00e9", 1.0), Line("#", 1.0))[1].startswith("\\x23\t")


_NASTY = st.text(alphabet=st.sampled_from("ab,#-\\\t\n\r\x00\x1b\x7f\u2028\u0085é\ue000\"'{}"), max_size=8)


@given(names=st.lists(st.tuples(_NASTY, st.none() | _NASTY, st.none() | st.lists(_NASTY, max_size=3)), max_size=6))
def test_hostile_text_cannot_leave_its_field_and_reads_back(
    names: list[tuple[str, str | None, list[str] | None]],
) -> None:
    events = [Line(name, 1.0, note, words) for name, note, words in names]
    lines = TsvFormatter(SCHEMA).render(events).data.split(b"\n")
    assert lines.pop() == b""
    assert len(lines) == len(events)
    for line, event in zip(lines, events, strict=True):
        name, _, note, words, *_ = line.decode().split("\t")
        assert unescape_tsv(name) == event.name.encode()
        assert unescape_tsv(note) == (None if event.note is None else event.note.encode())
        if event.words not in ([], [""]):
            read = None if words == "-" else [unescape_tsv(w) for w in words.split(",")]
            assert read == (None if event.words is None else [w.encode() for w in event.words])


@given(name=_NASTY, words=st.lists(_NASTY, max_size=3))
def test_json_lines_are_valid_and_one_each(name: str, words: list[str]) -> None:
    data = JsonFormatter(SCHEMA).render([Line(name, 1.0, None, words), Line("z", 2.0)]).data
    first, second, rest = data.split(b"\n")
    assert (json.loads(second)["name"], rest) == ("z", b"")
    assert len(json.loads(first)["words"]) == len(words)
    assert not set(first.decode()) & set("\x00\x1b\x7f\u0085\ue000")


@given(events=st.lists(st.builds(Line, _NASTY, st.floats(-1e18, 1e18), st.none() | _NASTY), max_size=5))
@pytest.mark.parametrize("formatter", [TsvFormatter(SCHEMA), JsonFormatter(SCHEMA)], ids=["tsv", "json"])
def test_a_batch_is_the_sum_of_its_records(formatter: RowFormatter, events: list[Line]) -> None:
    """Whether the quick renderer served, the careful one, or a mixture."""
    whole = formatter.render(events)
    assert whole.data == b"".join(formatter.render([event]).data for event in events)
    assert (whole.rows, whole.failed) == (len(events), 0)


@pytest.mark.parametrize("formatter", [TsvFormatter(SCHEMA), JsonFormatter(SCHEMA)], ids=["tsv", "json"])
def test_a_wrongly_typed_value_costs_its_record_alone(formatter: RowFormatter) -> None:
    wrong: Any = "yesterday"
    rendered = formatter.render([Line("a", 1.0), Line("b", wrong), Line("c", 3.0)])
    assert (rendered.rows, rendered.failed) == (2, 1)
    assert rendered.data == formatter.render([Line("a", 1.0), Line("c", 3.0)]).data


@pytest.mark.parametrize("field", [f.name for f in msgspec.structs.fields(Line)])
def test_no_wrong_type_breaks_out_of_a_tsv_line(field: str) -> None:
    for wrong in ("a\tb", "a\n#close", ["\t"], {"\n": 1}, object(), 1 << 70, None, b"\t"):
        event = msgspec.structs.replace(Line("a", 1.0), **{field: wrong})
        rendered = TsvFormatter(SCHEMA).render([event, Line("z", 2.0)])
        lines = rendered.data.split(b"\n")
        assert len(lines) == rendered.rows + 1
        assert all(line.count(b"\t") == len(SCHEMA.columns) - 1 for line in lines[:-1])
        assert rendered.rows + rendered.failed == 2


def test_sets_come_out_the_same_every_time() -> None:
    class Bag(Event, topic="test/bag", name="test.logs.Bag"):
        names: set[str]

    schema = LogSchema.for_event(Bag, path="bag")
    names = {f"n{i:03}" for i in range(50)}
    assert _tsv(Bag(names), schema=schema) == [",".join(sorted(names))]
    assert json.loads(JsonFormatter(schema).render([Bag(names)]).data)["names"] == sorted(names)


def test_what_an_event_costs_grows_with_its_text() -> None:
    cost = compile_cost(SCHEMA)
    small = cost([Line("a", 1.0)])
    assert 100 < small < 2000
    assert cost([Line("a" * 10_000, 1.0)]) - small >= 9_999
    assert cost([Line("a", 1.0, None, ["b" * 5000] * 4)]) - small >= 20_000
    assert cost([Line("a", 1.0)] * 7) == 7 * small


def test_rendering_keeps_no_quadratic_secret() -> None:
    """A batch ten times as long takes about ten times as long: an order of magnitude more would be a defect."""
    import time

    schema = zeek_schema(Connection, path="conn")
    host = Address.of("10.0.0.1")
    one = Connection(
        1.0, "C1", host, 1, host, 2, "tcp", None, 1.0, 1, 2, "SF", True, False, 0, "Sh", 1, 2, 3, 4, None, 6
    )
    formatter = TsvFormatter(schema)

    def seconds(count: int) -> float:
        batch, best = [one] * count, math.inf
        for _ in range(3):
            began = time.perf_counter()
            formatter.render(batch)
            best = min(best, time.perf_counter() - began)
        return best

    assert seconds(20_000) < 100 * seconds(2_000)
