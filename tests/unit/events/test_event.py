"""Event types: what may be defined, and what is refused with a reason."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapini import limits
from rapini.errors import DecodeError, EventError
from rapini.events import (
    Event,
    RawEvent,
    UnknownEvent,
    check_topic,
    event_type,
    event_types,
    is_topic,
    is_type_name,
)


class Ping(Event, topic="unit/ping"):
    token: int


def make_type(class_name: str, namespace: dict[str, object], **config: Any) -> type[Event]:
    """What a class statement comes down to."""
    meta: Any = type(Event)
    made: type[Event] = meta(class_name, (Event,), namespace, **config)
    return made


def define(class_name: str = "Defined", **config: Any) -> type[Event]:
    """Define an event type as a class statement in this module would."""
    namespace = {"__module__": __name__, "__qualname__": class_name, "__annotations__": {"a": int, "b": int}, "b": 2}
    return make_type(class_name, namespace, **config)


def test_a_type_is_known_by_its_name_and_an_event_is_a_value() -> None:
    assert event_type("Ping") is Ping
    assert event_types()["Ping"] is Ping
    assert event_type("no such type") is None
    assert Ping(1) == Ping(1) != Ping(2)
    assert hash(Ping(1)) == hash(Ping(1))
    with pytest.raises(AttributeError):
        Ping(1).token = 2


def test_the_snapshot_of_all_types_is_a_copy() -> None:
    event_types().clear()
    assert event_type("Ping") is Ping


def test_a_name_given_in_the_class_statement_is_the_name_between_nodes() -> None:
    class Renamed(Event, name="unit.Other"):
        a: int

    assert event_type("unit.Other") is Renamed
    assert event_type("Renamed") is None


def test_the_same_class_may_be_defined_again_and_another_of_its_name_may_not() -> None:
    first = define("Twice")
    assert event_type("Twice") is first
    newest = define("Twice")
    assert event_type("Twice") is newest
    with pytest.raises(EventError) as caught:
        make_type("Elsewhere", {"__module__": "another", "__annotations__": {}}, name="Twice")
    assert caught.value.code == "bad_definition"
    assert "Twice" in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "config",
    [
        {"frozen": False},
        {"array_like": False},
        {"gc": True},
        {"tag": True},
        {"tag_field": "kind"},
        {"forbid_unknown_fields": True},
        {"kw_only": True},
        {"name": ""},
        {"name": "two\nlines"},
        {"name": "x" * 256},
        {"name": "\ud800"},
    ],
    ids=str,
)
def test_a_definition_that_would_break_the_wire_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(EventError) as caught:
        define("Refused", **config)
    assert caught.value.code == "bad_definition"
    assert event_type("Refused") is None


def test_a_required_field_after_an_optional_one_is_a_bad_definition() -> None:
    with pytest.raises(EventError) as caught:
        make_type("Order", {"__module__": __name__, "__annotations__": {"a": int, "b": int}, "a": 1})
    assert caught.value.code == "bad_definition"


@pytest.mark.parametrize("topic", ["", "a\nb", "a\x00", "x" * 256, "é" * 128, "\ud800", "\u202e"])
def test_what_cannot_be_a_topic_is_refused(topic: str) -> None:
    assert not is_topic(topic)
    for refuse in (lambda: check_topic(topic), lambda: define("BadTopic", topic=topic)):
        with pytest.raises(EventError) as caught:
            refuse()
        assert caught.value.code == "bad_topic"


@pytest.mark.parametrize("topic", ["a", "conn/closed", "x" * 255, "é" * 127, "Ж/日本"])
def test_what_can_be_a_topic_is_kept(topic: str) -> None:
    assert check_topic(topic) == topic


@given(st.text(max_size=300))
def test_a_topic_is_printable_and_bounded_in_bytes(text: str) -> None:
    expected = text.isprintable() and 0 < len(text.encode("utf-8", "surrogatepass")) <= limits.MAX_TOPIC_BYTES
    assert is_topic(text) is expected
    assert is_type_name(text) is expected


def test_what_is_no_text_cannot_name_a_type() -> None:
    assert not is_type_name(5)
    assert not is_type_name(None)


def test_fields_of_an_unknown_event_are_decoded_without_types() -> None:
    assert UnknownEvent("X", b"\x93\x01\xa1a\xc0").fields == [1, "a", None]


@pytest.mark.parametrize(
    "encoded", [b"", b"\x01", b"\x92\x01", b"\x91\xa1\xff", b"\x91\x81\x81\x01\x02\x03", b"\x91" * 5000]
)
def test_fields_that_are_none_raise_a_decode_error(encoded: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        _ = UnknownEvent("X", encoded).fields
    assert caught.value.code == "bad_fields"


def test_a_raw_event_says_what_its_bytes_are() -> None:
    assert RawEvent(b"{}").media_type == "application/octet-stream"
    assert RawEvent(b"{}", "application/json").media_type == "application/json"
