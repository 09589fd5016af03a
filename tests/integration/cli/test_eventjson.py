"""Events as JSON: back and forth without loss, and strict about what does not fit."""

from __future__ import annotations

import enum
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapini import Address, Event, Interval, Network, Port, RawEvent, Record, Time, UnknownEvent
from rapini.apps.schema import Connection
from rapini.cli.eventjson import event_from_fields, event_to_fields
from rapini.errors import EventError


class Colour(enum.Enum):
    RED = "red"


class Id(Record, frozen=True, array_like=True, gc=False):
    host: Address
    port: Port


class Everything(Event, topic="test/everything", name="test.cli.Everything"):
    flag: bool
    count: int
    ratio: float
    text: str
    data: bytes
    at: Time
    span: Interval | None
    net: Network
    id: Id
    tags: set[str]
    hosts: list[Address]
    by_name: dict[str, Port]
    colour: Colour
    later: int = 7


def through_json(event: Event) -> Event:
    return event_from_fields(type(event), msgspec.json.decode(msgspec.json.encode(event_to_fields(event))))


EXAMPLE = Everything(
    flag=True,
    count=-3,
    ratio=0.5,
    text="ä\n",
    data=b"\x00\xff",
    at=1.5e9,
    span=None,
    net=Network.of("10.0.0.0/8"),
    id=Id(Address.of("::1"), Port(53, "udp")),
    tags={"a", "b"},
    hosts=[Address.of("192.0.2.1")],
    by_name={"x": Port(1)},
    colour=Colour.RED,
)


def test_every_field_type_comes_back() -> None:
    assert through_json(EXAMPLE) == EXAMPLE
    fields = event_to_fields(EXAMPLE)
    assert isinstance(fields, dict)
    assert fields["net"] == "10.0.0.0/8"
    assert fields["id"] == {"host": "::1", "port": "53/udp"}
    assert fields["data"] == {"base64": "AP8="}


@given(
    text=st.text(),
    data=st.binary(),
    ratio=st.floats(allow_nan=False, allow_infinity=False),
    count=st.integers(-(2**63), 2**64 - 1),
    address=st.ip_addresses(),
)
def test_values_come_back(text: str, data: bytes, ratio: float, count: int, address: object) -> None:
    event = msgspec.structs.replace(
        EXAMPLE, text=text, data=data, ratio=ratio, count=count, hosts=[Address.of(str(address).split("%", 1)[0])]
    )
    assert through_json(event) == event


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"count": "3"}, "$.count"),
        ({"count": 1.5}, "$.count"),
        ({"flag": 1}, "$.flag"),
        ({"net": "10.0.0.1/8"}, "$.net"),
        ({"hosts": ["192.0.2.1", "nobody"]}, "$.hosts[1]"),
        ({"id": {"host": "::1", "port": "70000/tcp"}}, "$.id.port"),
        ({"id": {"host": "::1"}}, "$.id.port"),
        ({"by_name": {"x": 80}}, "$.by_name[x]"),
        ({"data": {"base64": "?"}}, "$.data"),
        ({"colour": "blue"}, "$.colour"),
        ({"unheard_of": 1}, "$.unheard_of"),
        ({"text": None}, "$.text"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, object], path: str) -> None:
    fields = event_to_fields(EXAMPLE)
    assert isinstance(fields, dict)
    with pytest.raises(EventError) as caught:
        event_from_fields(Everything, {**fields, **change})
    assert (caught.value.code, caught.value.path) == ("wrong_type", path)
    assert path in str(caught.value)


def test_a_missing_field_is_named_and_a_default_is_not_needed() -> None:
    fields = event_to_fields(EXAMPLE)
    assert isinstance(fields, dict)
    fields.pop("later")
    assert event_from_fields(Everything, fields) == EXAMPLE
    fields.pop("count")
    with pytest.raises(EventError, match=r"\$\.count: is missing"):
        event_from_fields(Everything, fields)
    with pytest.raises(EventError, match="expected an object"):
        event_from_fields(Everything, [1, 2])


def test_shown_values_are_always_json() -> None:
    event = msgspec.structs.replace(EXAMPLE, ratio=math.inf, at=math.nan)
    fields = event_to_fields(event)
    assert isinstance(fields, dict)
    assert (fields["ratio"], fields["at"]) == ("inf", "nan")


def test_raw_events_show_what_they_hold() -> None:
    def shown(data: bytes, media_type: str) -> object:
        fields = event_to_fields(RawEvent(data=data, media_type=media_type))
        assert isinstance(fields, dict)
        return fields["data"]

    assert shown(b'{"x":1}', "application/json") == {"x": 1}
    assert shown(b'{"x":', "application/json") == '{"x":'
    assert shown(b"hello", "text/plain") == "hello"
    assert shown(b"\xff", "text/plain") == {"base64": "/w=="}


def test_unknown_events_show_their_values_in_order() -> None:
    event = UnknownEvent(type_name="x", encoded=msgspec.msgpack.encode([1, "a", b"\xff"]))
    assert event_to_fields(event) == [1, "a", {"base64": "/w=="}]
    assert event_to_fields(UnknownEvent(type_name="x", encoded=b"\xc1")) == [{"base64": "wQ=="}]


def test_the_sensors_own_type_is_readable() -> None:
    fields = {field.name: None for field in msgspec.structs.fields(Connection)}
    with pytest.raises(EventError, match=r"\$\.ts"):
        event_from_fields(Connection, fields)
