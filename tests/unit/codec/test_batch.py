"""The batch format: what goes in comes out, and a fault costs what is at fault and no more."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rapini import limits
from rapini.codec import Codec, DecodedRun, join_runs, split_into_batches
from rapini.errors import DecodeError, EventError
from rapini.events import Address, Event, RawEvent, UnknownEvent
from tests.unit.codec.types import Color, Everything, Inner, New, Old, everything
from tests.unit.codec.types import example as everything_example

pack = msgspec.msgpack.encode
TOPIC = "codec/everything"
HALF = limits.MAX_FRAME_BYTES // 2


def run_of(name: str, events: bytes, count: int, topic: str = TOPIC) -> bytes:
    """A batch of one run, written by hand."""
    return pack([(name, topic, count, events)])


def batch_of(*events: Event, topic: str = TOPIC) -> bytes:
    """A batch of one run, made by the codec."""
    runs, failures = Codec().encode_run(topic, events)
    assert failures == []
    return join_runs(runs)


def decode_one(batch: bytes) -> DecodedRun:
    """The only run of a batch."""
    (run,) = Codec().decode_batch_untrusted(batch)
    return run


# -- there and back ---------------------------------------------------------------------------------------------------


@given(st.lists(everything, min_size=1, max_size=5))
@example([everything_example()])
def test_what_is_encoded_comes_back_equal(events: list[Everything]) -> None:
    run = decode_one(batch_of(*events))
    assert list(run.events) == events
    assert (run.name, run.topic, list(run.bad)) == ("Everything", TOPIC, [])
    assert [type(event) for event in run.events] == [Everything] * len(events)


def test_special_floats_come_back_as_they_are() -> None:
    event = msgspec.structs.replace(everything_example(), ratio=float("nan"), ts=float("inf"), span=-0.0)
    (back,) = decode_one(batch_of(event)).events
    assert isinstance(back, Everything)
    assert back.ratio != back.ratio
    assert (back.ts, str(back.span)) == (float("inf"), "-0.0")


@given(st.lists(st.lists(everything, min_size=1, max_size=3), max_size=20))
def test_runs_of_a_batch_keep_their_order(groups: list[list[Everything]]) -> None:
    codec = Codec()
    runs = [codec.encode_run(f"t/{n}", group)[0][0] for n, group in enumerate(groups)]
    decoded = codec.decode_batch_untrusted(join_runs(runs))
    assert [(run.topic, list(run.events)) for run in decoded] == [(f"t/{n}", g) for n, g in enumerate(groups)]


def test_one_encoding_serves_all_receivers() -> None:
    codec = Codec()
    (run,), _ = codec.encode_run(TOPIC, [everything_example()] * 100)
    batches = {join_runs([run]) for _ in range(10)}
    assert (codec.encode_calls, len(batches)) == (1, 1)


def test_raw_events_cross_with_their_media_type() -> None:
    event = RawEvent(bytes(range(256)), "application/x-mine")
    assert list(decode_one(batch_of(event, topic="raw/1")).events) == [event]


# -- evolution --------------------------------------------------------------------------------------------------------


def test_a_receiver_that_knows_fewer_fields_skips_the_rest() -> None:
    batch = batch_of(New("u", 5, "hello", ["t"])).replace(b"codec.Age.new", b"codec.Age.old")
    assert list(decode_one(batch).events) == [Old("u", 5)]


def test_a_receiver_that_knows_more_fields_fills_in_defaults() -> None:
    batch = batch_of(Old("u", 5)).replace(b"codec.Age.old", b"codec.Age.new")
    assert list(decode_one(batch).events) == [New("u", 5, "none", [])]


def test_an_unknown_type_arrives_intact_and_is_published_again_unchanged() -> None:
    batch = batch_of(everything_example()).replace(b"\xaaEverything", b"\xaaNeverHeard")
    run = decode_one(batch)
    (event,) = run.events
    assert isinstance(event, UnknownEvent)
    assert (run.name, event.type_name) == ("NeverHeard", "NeverHeard")
    assert event.fields[1] == -5
    assert batch_of(event) == batch
    back = msgspec.msgpack.decode(event.encoded, type=Everything)
    assert back == everything_example()


def test_the_name_of_the_class_for_unknown_events_is_nobodys_type() -> None:
    (event,) = decode_one(run_of("rapini.UnknownEvent", pack([["X", b"\x90"]]), 1)).events
    assert event == UnknownEvent("rapini.UnknownEvent", pack(["X", b"\x90"]))


# -- one bad event costs one event ------------------------------------------------------------------------------------


def fields(**changes: object) -> list[object]:
    """The example's fields as they stand on the wire, some of them changed."""
    values = msgspec.msgpack.decode(pack(everything_example()))
    names = Everything.__struct_fields__
    for name, value in changes.items():
        values[names.index(name)] = value
    return list(values)


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"flag": 1}, "$[0]"),
        ({"number": "5"}, "$[1]"),
        ({"text": b"x"}, "$[3]"),
        ({"host": [b"1234"]}, "$[7][0]"),
        ({"net": [[bytes(16)], 129]}, "$[8][1]"),
        ({"port": [65536, "tcp"]}, "$[9][0]"),
        ({"port": [1, "\n\x1b[31m"]}, "$[9][1]"),
        ({"color": "blue"}, "$[10]"),
        ({"level": 2}, "$[11]"),
        ({"inner": ["x", "y"]}, "$[13][1]"),
        ({"numbers": [1, None]}, "$[14][1]"),
        ({"table": {"k": "v"}}, "$[16][...]"),
    ],
    ids=str,
)
def test_a_bad_event_is_named_by_the_path_of_its_field(changes: dict[str, object], path: str) -> None:
    good = pack(fields())
    batch = run_of("Everything", b"\x93" + good + pack(fields(**changes)) + good, 3)
    run = decode_one(batch)
    assert list(run.events) == [everything_example()] * 2
    (bad,) = run.bad
    assert (bad.index, bad.count, bad.path) == (1, 1, path)
    assert bad.detail.isprintable()


def test_what_a_peer_puts_into_a_bad_event_is_quoted_in_part_only() -> None:
    run = decode_one(run_of("Everything", b"\x91" + pack(fields(color="x" * 100_000)), 1))
    assert 0 < len(run.bad[0].detail) <= limits.MAX_DETAIL_CHARS


def test_too_few_fields_cost_the_event() -> None:
    run = decode_one(run_of("Everything", pack([[True, 1]]), 1))
    assert (list(run.events), run.bad[0].path) == ([], "$")


def test_values_that_python_cannot_hold_cost_the_event() -> None:
    class Unhashable(Event):
        items: set[dict[str, int]]  # msgspec accepts the type, Python no such set

    run = decode_one(run_of("Unhashable", pack([[[{"a": 1}]], [[]]]), 2))
    assert (list(run.events), [bad.index for bad in run.bad]) == ([Unhashable(set())], [0])


def test_an_unknown_type_whose_fields_are_no_array_is_a_bad_event() -> None:
    run = decode_one(run_of("NeverHeard", pack([5, [1], {"a": 1}]), 3))
    assert [event.fields for event in run.events if isinstance(event, UnknownEvent)] == [[1]]
    assert [bad.index for bad in run.bad] == [0, 2]


def test_a_class_of_ours_that_cannot_be_decoded_costs_its_own_runs() -> None:
    class Impossible(Event):
        thing: list[int] | set[int]  # the wire cannot tell them apart

    good = everything_example()
    batch = pack([("Impossible", "t", 2, pack([[1], [2]])), ("Everything", "t", 1, pack([good]))])
    first, second = Codec().decode_batch_untrusted(batch)
    assert (list(first.events), [bad.count for bad in first.bad]) == ([], [2])
    assert "Impossible" in first.bad[0].detail
    assert list(second.events) == [good]


# -- hostile bytes ----------------------------------------------------------------------------------------------------


def account(runs: list[DecodedRun]) -> int:
    """How many events a decoded batch accounts for."""
    return sum(len(run.events) + sum(bad.count for bad in run.bad) for run in runs)


@given(st.binary(max_size=400))
@example(b"")
@example(b"\xc0")
@example(b"\x91" * 5000)
def test_garbage_raises_a_decode_error_or_is_a_batch(data: bytes) -> None:
    with suppress(DecodeError):
        Codec().decode_batch_untrusted(data)


def test_garbage_is_quoted_in_part_only() -> None:
    with pytest.raises(DecodeError) as caught:
        Codec().decode_batch_untrusted(pack("x" * 10_000))
    assert caught.value.code == "not_a_batch"
    assert len(caught.value.detail) < 300


VALID = batch_of(*[everything_example()] * 2)


@given(st.integers(0, len(VALID) - 1))
def test_a_truncated_batch_is_refused_whole(at: int) -> None:
    with pytest.raises(DecodeError):
        Codec().decode_batch_untrusted(VALID[:at])


@given(st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 7)), min_size=1, max_size=4))
def test_flipped_bits_cost_events_and_raise_nothing_else(flips: list[tuple[int, int]]) -> None:
    data = bytearray(VALID)
    for at, bit in flips:
        data[at] ^= 1 << bit
    try:
        runs = Codec().decode_batch_untrusted(bytes(data))
    except DecodeError:
        return
    assert account(runs) >= len(runs)


@given(st.binary(max_size=60), st.integers(-5, 2**64 - 1), st.sampled_from(["Everything", "NeverHeard", "RawEvent"]))
def test_whatever_a_run_holds_it_is_accounted_for(events: bytes, count: int, name: str) -> None:
    (run,) = Codec().decode_batch_untrusted(run_of(name, events, count))
    assert 1 <= max(1, account([run])) <= max(1, len(events))


@pytest.mark.parametrize("head", [b"\xdd\xff\xff\xff\xff", b"\xdc\xff\xff", b"\x9f"])
@pytest.mark.parametrize("name", ["Everything", "NeverHeard"])
def test_announced_counts_cost_no_memory(head: bytes, name: str) -> None:
    with pytest.raises(DecodeError):
        Codec().decode_batch_untrusted(head)
    (run,) = Codec().decode_batch_untrusted(run_of(name, head, 2**60))
    assert (list(run.events), len(run.bad), run.bad[0].count) == ([], 1, len(head))


def test_a_wrong_count_over_many_bytes_is_one_report() -> None:
    (run,) = Codec().decode_batch_untrusted(run_of("NeverHeard", b"\x91\xc6\x00\x10\x00\x00" + bytes(2**20), 2**63))
    assert len(run.bad) == 1
    assert run.bad[0].count == 2**20 + 6


@pytest.mark.parametrize("count", [0, 1, 3, 4])
@pytest.mark.parametrize("name", ["RawEvent", "NeverHeard"])
def test_a_run_that_does_not_hold_what_it_announces_is_dropped(name: str, count: int) -> None:
    run = decode_one(run_of("rapini.RawEvent" if name == "RawEvent" else name, pack([[b"one"], [b"two"]]), count))
    assert (list(run.events), [bad.path for bad in run.bad]) == ([], ["$"])


@pytest.mark.parametrize("wrong", ["", "a\nb", "x" * 256, "\x1b[2J"])
def test_a_run_of_a_bad_name_or_topic_is_dropped_without_quoting_it(wrong: str) -> None:
    for name, topic in ((wrong, "t"), ("Everything", wrong)):
        batch = pack([(name, topic, 1, pack([fields()])), ("Everything", "t", 1, pack([fields()]))])
        first, second = Codec().decode_batch_untrusted(batch)
        assert (first.name, first.topic, list(first.events)) == ("", "", [])
        assert [bad.count for bad in first.bad] == [1]
        assert list(second.events) == [everything_example()]


# -- what cannot be sent ----------------------------------------------------------------------------------------------


def test_an_event_that_cannot_be_encoded_drops_itself_only() -> None:
    good = everything_example()
    events = [
        good,
        msgspec.structs.replace(good, number=2**70),
        good,
        msgspec.structs.replace(good, blob=object()),
        good,
    ]
    runs, failures = Codec().encode_run(TOPIC, events)
    assert [event for run in Codec().decode_batch_untrusted(join_runs(runs)) for event in run.events] == [good] * 3
    assert [(failure.topic, failure.type_name) for failure in failures] == [(TOPIC, "Everything")] * 2
    assert all(failure.detail for failure in failures)


@pytest.mark.parametrize(
    "wrong",
    [
        UnknownEvent("", b"\x90"),
        UnknownEvent("a\nb", b"\x90"),
        UnknownEvent(5, b"\x90"),  # type: ignore[arg-type]
        UnknownEvent("X", b""),
        UnknownEvent("X", b"\x92\x01"),
        UnknownEvent("X", b"\x90\x90"),
        UnknownEvent("X", b"\x05"),
        UnknownEvent("X", "text"),  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_an_unknown_event_that_nobody_sent_drops_itself_only(wrong: UnknownEvent) -> None:
    good = UnknownEvent("X", b"\x91\x05")
    runs, failures = Codec().encode_run("t", [good, wrong, good])
    decoded = Codec().decode_batch_untrusted(join_runs(runs))
    assert [event for run in decoded for event in run.events] == [good, good]
    assert len(failures) == 1


def test_a_run_that_is_too_large_is_parted() -> None:
    events = [RawEvent(bytes(HALF // 4)) for _ in range(9)]
    runs, failures = Codec().encode_run("t", events)
    assert failures == []
    assert len(runs) > 1
    assert all(len(run.data) <= HALF + 1000 for run in runs)
    assert sum(run.count for run in runs) == 9


def test_an_event_that_is_too_large_drops_itself_only() -> None:
    runs, failures = Codec().encode_run("t", [RawEvent(b"a"), RawEvent(bytes(HALF)), RawEvent(b"b")])
    assert sum(run.count for run in runs) == 2
    assert "at most" in failures[0].detail


@given(st.lists(st.integers(1, HALF), max_size=12))
def test_every_batch_fits_a_frame_and_nothing_is_lost_or_reordered(sizes: list[int]) -> None:
    codec = Codec()
    small, _ = codec.encode_run("t", [RawEvent(b"")])
    runs = [msgspec.structs.replace(small[0], data=bytes(size), count=n) for n, size in enumerate(sizes)]
    groups = list(split_into_batches(runs))
    assert [run.count for group in groups for run in group] == list(range(len(sizes)))
    assert all(sum(len(run.data) for run in group) + 3 + 13 <= limits.MAX_FRAME_BYTES for group in groups)
    assert len(groups) <= max(1, 2 * sum(sizes) // HALF + 1)


def test_more_runs_than_a_batch_can_count_are_parted() -> None:
    runs, _ = Codec().encode_run("t", [RawEvent(b"")])
    groups = [len(group) for group in split_into_batches(runs * 70_000)]
    assert groups == [65_535, 70_000 - 65_535]
    assert len(Codec().decode_batch_untrusted(join_runs(runs * 65_535))) == 65_535


# -- development mode -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "path"),
    [
        ("number", "5", "$[1]"),
        ("inner", Inner("x", "y"), "$[13][1]"),  # type: ignore[arg-type]
        ("host", "10.0.0.1", "$[7]"),
        ("names", [1], "$[15][0]"),
        ("color", "blue", "$[10]"),
    ],
    ids=str,
)
def test_development_mode_names_the_field_of_the_wrong_type(field: str, value: object, path: str) -> None:
    event = msgspec.structs.replace(everything_example(), **{field: value})
    with pytest.raises(EventError) as caught:
        Codec().check(event)
    assert (caught.value.code, caught.value.path) == ("wrong_type", path)
    assert f"Everything.{field}" in str(caught.value)


def test_development_mode_accepts_what_fits() -> None:
    Codec().check(everything_example())
    Codec().check(UnknownEvent("X", b"\x90"))
    Codec().check(msgspec.structs.replace(everything_example(), color=Color.RED, host=Address.of("::1")))


def test_development_mode_refuses_what_cannot_be_encoded() -> None:
    with pytest.raises(EventError) as caught:
        Codec().check(msgspec.structs.replace(everything_example(), blob=object()))
    assert caught.value.code == "not_encodable"


# -- numbers, and runs that are relayed -------------------------------------------------------------------------------


def numbered(events: list[Event], first: int, topic: str = TOPIC) -> bytes:
    """A batch as a publisher makes it."""
    return join_runs(Codec().encode_run(topic, events, first)[0])


def test_a_run_carries_the_number_of_its_first_event() -> None:
    run = decode_one(numbered([everything_example()] * 3, 41))
    assert (run.first, run.count, run.origin, run.stream, run.hops) == (41, 3, "", b"", 0)
    run = decode_one(batch_of(everything_example()))
    assert (run.first, run.count) == (-1, 1)


def test_numbers_stay_right_where_runs_are_halved_and_events_fall_out() -> None:
    large = [RawEvent(bytes(HALF // 2 - 100)) for _ in range(5)]
    runs, failures = Codec().encode_run("raw/1", [*large, RawEvent(bytes(HALF)), RawEvent(b"last")], 100)
    assert [failure.is_too_large for failure in failures] == [True]
    decoded = Codec().decode_batch_untrusted(join_runs(runs))
    numbers = [run.first + at for run in decoded for at in range(len(run.events))]
    assert numbers == [100, 101, 102, 103, 104, 106]


def test_unknown_events_keep_their_numbers_too() -> None:
    events = [UnknownEvent("No.Such", b"\x91\x01"), UnknownEvent("No.Such", b"\x91\x02")]
    runs = Codec().decode_batch_untrusted(numbered(list(events), 7))
    assert [run.first for run in runs] == [7, 8]


@given(st.lists(everything, min_size=1, max_size=5), st.integers(0, 2**61), st.integers(1, 255))
def test_a_forwarded_run_is_the_same_with_its_origin(events: list[Everything], first: int, hops: int) -> None:
    codec = Codec()
    (run,), bad = codec.split_batch_untrusted(numbered(list(events), first))
    assert (run.first, run.count, run.origin, bad) == (first, len(events), "", 0)
    passed = msgspec.structs.replace(run, origin="sensor-1", stream=b"s" * 16, hops=hops)
    sent = codec.forward_run(passed)
    assert (sent.topic, sent.count) == (TOPIC, len(events))
    back = decode_one(join_runs([sent]))
    assert list(back.events) == events
    assert (back.first, back.origin, back.stream, back.hops) == (first, "sensor-1", b"s" * 16, hops)
    ((again,), _) = codec.split_batch_untrusted(join_runs([sent]))
    assert bytes(again.events) == bytes(run.events)
    assert codec.encode_calls == 0


@given(st.integers(1, 6), st.data())
def test_a_part_of_a_run_holds_those_events(count: int, data: st.DataObject) -> None:
    codec = Codec()
    events = [RawEvent(bytes([number])) for number in range(count)]
    ((run,), _) = codec.split_batch_untrusted(numbered(list(events), 50, "raw/1"))
    first = data.draw(st.integers(0, count - 1))
    after = data.draw(st.integers(first + 1, count))
    back = decode_one(join_runs([codec.forward_run(codec.cut_run_untrusted(run, 50 + first, after - first))]))
    assert (back.first, list(back.events)) == (50 + first, events[first:after])


@pytest.mark.parametrize(
    "run",
    [
        ["Everything", TOPIC, 1, b"\x91\x90"],
        ["Everything", TOPIC, 2, b"\x91\x90", 0],
        ["Everything", TOPIC, 0, b"\x90", 0],
        ["Everything", TOPIC, 2**40, b"\xdd\xff\xff\xff\xff\x90", 0],
        ["Everything", "a\nb", 1, b"\x91\x90", 0],
        ["Everything", TOPIC, 1, b"\x91\x90", 2**62],
        ["Everything", TOPIC, 1, b"\x91\x90", 0, -1, "se nsor", bytes(16), 1],
        ["Everything", TOPIC, 1, b"\x91\x90", 0, -1, "sensor", b"", 1],
        ["Everything", TOPIC, 1, b"\x91\x90", 0, -1, "sensor", bytes(16), 256],
    ],
    ids=["unnumbered", "other count", "empty", "huge count", "topic", "number", "origin", "stream", "hops"],
)
def test_what_cannot_be_forwarded_is_left_out_and_its_neighbours_are_not(run: list[object]) -> None:
    good = ["Everything", TOPIC, 1, b"\x91\x90", 0, -1, "sensor", bytes(16), 255]
    runs, bad = Codec().split_batch_untrusted(pack([run, good]))
    assert ([each.origin for each in runs], bad) == (["sensor"], 1)


@given(st.binary(max_size=200))
def test_parting_garbage_raises_a_decode_error_or_nothing(data: bytes) -> None:
    codec = Codec()
    with suppress(DecodeError):
        for run in codec.split_batch_untrusted(data)[0]:
            codec.forward_run(run)
            codec.cut_run_untrusted(run, run.first, 1)


def test_a_part_of_a_garbled_run_is_a_decode_error() -> None:
    ((run,), _) = Codec().split_batch_untrusted(pack([["Everything", TOPIC, 2, b"\x92\xc1\xc1", 5]]))
    with pytest.raises(DecodeError):
        Codec().cut_run_untrusted(run, 5, 1)


def test_newer_fields_of_a_run_are_ignored() -> None:
    run = decode_one(pack([["No.Such", TOPIC, 1, b"\x91\x90", 5, -1, "sensor", bytes(16), 1, "newer", 7]]))
    assert (run.first, run.origin) == (5, "sensor")
