"""Frames: read the same however they are cut, refused when they cannot be."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapini import limits
from rapini.errors import ConfigError, DecodeError
from rapini.secure.identity import check_name
from rapini.session.messages import (
    Ack,
    Body,
    FrameKind,
    FrameReader,
    Gap,
    Goodbye,
    Greeting,
    Hello,
    Ping,
    Pong,
    Position,
    Ready,
    Reject,
    Request,
    Response,
    Stream,
    Strings,
    Subscribed,
    Subscriptions,
    Welcome,
    decode_body_untrusted,
    encode_frame,
    pack_durable_frame,
    pack_events_frame,
    pack_store_frame,
    split_durable_untrusted,
    split_events_untrusted,
    split_store_untrusted,
)
from rapini.testing import greeting_of

pack = msgspec.msgpack.encode

BODIES: list[Body] = [
    Hello(2, 2, greeting_of("alpha")),
    Welcome(2, 7, greeting_of("beta", role="manager")),
    Reject("denied", "no", 1500),
    Subscriptions(3, ["", "conn/", "é"]),
    Subscribed(3),
    Ready(),
    Ack([2**63 - 1, 0]),
    Ping(1),
    Pong(1),
    Goodbye("goodbye", "bye"),
    Gap(1, 7, 3, "queue_full", {"conn/": 3}),
    Stream(bytes(16)),
    Position(bytes(16), None, False),
    Request(9, 5000, "dns/lookup", True, b"\x91batch"),
    Response(9, "handler_failed", "ValueError", b""),
    Strings(0, [("conn", "conn/closed")]),
]
RAW = (FrameKind.EVENTS, FrameKind.DURABLE, FrameKind.STORE)
"""Kinds whose bodies are not MessagePack throughout."""
STREAM = b"".join(encode_frame(body) for body in BODIES) + pack_events_frame(0, 5, 2, b"\x91batch")


def frames(reader: FrameReader, data: bytes) -> list[tuple[FrameKind, bytes]]:
    """What a reader makes of some bytes."""
    return [(kind, bytes(body)) for kind, body in reader.frames_untrusted(data)]


WHOLE = frames(FrameReader(), STREAM)


def test_every_kind_of_frame_is_there_and_comes_back() -> None:
    assert [kind for kind, _ in WHOLE] == [*[k for k in FrameKind if k not in RAW], FrameKind.EVENTS]
    assert [decode_body_untrusted(kind, memoryview(body)) for kind, body in WHOLE[:-1]] == BODIES


@given(st.lists(st.integers(1, 60), max_size=len(STREAM)))
def test_frames_do_not_depend_on_how_the_stream_is_cut(sizes: list[int]) -> None:
    reader, got, at = FrameReader(), [], 0
    for size in [*sizes, len(STREAM)]:
        got += frames(reader, STREAM[at : at + size])
        at += size
    assert got == WHOLE
    assert reader.kept_bytes == 0


@given(st.binary(max_size=300), st.lists(st.integers(1, 50), max_size=20))
def test_garbage_raises_a_decode_error_or_nothing(data: bytes, sizes: list[int]) -> None:
    reader, at = FrameReader(1000), 0
    with suppress(DecodeError):
        for size in [*sizes, len(data)]:
            for kind, body in reader.frames_untrusted(data[at : at + size]):
                if kind is FrameKind.EVENTS:
                    split_events_untrusted(body)
                else:
                    decode_body_untrusted(kind, body)
            at += size
    assert reader.kept_bytes <= len(data)


@given(st.sampled_from([kind for kind in FrameKind if kind not in RAW]), st.binary(max_size=80))
def test_a_garbled_body_raises_a_decode_error_or_is_one(kind: FrameKind, data: bytes) -> None:
    try:
        body = decode_body_untrusted(kind, memoryview(data))
    except DecodeError:
        return
    assert encode_frame(body)[4] == kind


@given(st.integers(0, len(WHOLE) - 1), st.data())
def test_a_truncated_body_is_refused(number: int, data: st.DataObject) -> None:
    kind, body = WHOLE[number]
    short = memoryview(body)[: data.draw(st.integers(0, max(0, min(len(body), 12) - 1)))]
    with pytest.raises(DecodeError) as caught:
        _ = split_events_untrusted(short) if kind is FrameKind.EVENTS else decode_body_untrusted(kind, short)
    assert caught.value.code == "bad_frame"


@pytest.mark.parametrize("size", [0, limits.MAX_GREETING_FRAME_BYTES + 1, 2**32 - 1])
def test_a_frame_of_impossible_size_is_refused_by_its_first_four_bytes(size: int) -> None:
    reader = FrameReader()
    head = size.to_bytes(4, "big")
    assert frames(reader, head[:3]) == []
    with pytest.raises(DecodeError) as caught:
        frames(reader, head[3:])
    assert caught.value.code == ("frame_too_large" if size else "bad_frame")
    assert reader.kept_bytes <= 4


def test_the_largest_frame_is_accepted_and_its_bound_can_be_raised_on_the_way() -> None:
    reader = FrameReader(10)
    large = pack_events_frame(1, 0, 1, bytes(100))
    got = []
    for kind, body in reader.frames_untrusted(encode_frame(Ready()) + large):
        got.append((kind, len(body)))
        reader.max_frame_bytes = len(large) - 4
    assert got == [(FrameKind.READY, 1), (FrameKind.EVENTS, 113)]


def test_an_unknown_kind_is_refused() -> None:
    for kind in (0, max(FrameKind) + 1, 255):
        with pytest.raises(DecodeError) as caught:
            frames(FrameReader(), b"\x00\x00\x00\x01" + bytes([kind]))
        assert caught.value.code == "unknown_kind"


def test_bodies_may_grow_at_their_end() -> None:
    body = decode_body_untrusted(FrameKind.SUBSCRIBED, memoryview(pack([3, "from", {"the": "future"}])))
    assert body == Subscribed(3)
    reject = decode_body_untrusted(FrameKind.REJECT, memoryview(pack(["denied", "no"])))
    assert reject == Reject("denied", "no", 0)
    assert decode_body_untrusted(FrameKind.GOODBYE, memoryview(pack(["goodbye"]))) == Goodbye("goodbye", "")


def hello_with(**changes: object) -> bytes:
    """A Hello's body with a greeting that may be wrong."""
    values = dict(zip(Greeting.__struct_fields__, pack_fields(), strict=True)) | changes
    return pack([1, 1, list(values.values())])


def pack_fields() -> list[object]:
    """A greeting's fields."""
    return list(msgspec.to_builtins(greeting_of("alpha"), builtin_types=[bytes]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"node": ""},
        {"node": "a/b"},
        {"node": "a\n"},
        {"node": "-a"},
        {"node": "ä"},
        {"node": "a" * 129},
        {"cluster": ""},
        {"cluster": "\x1b[2J"},
        {"role": "a b"},
        {"role": "\n"},
        {"incarnation": bytes(15)},
        {"incarnation": bytes(17)},
        {"window_bytes": -1},
        {"window_bytes": 2**63},
        {"known_incarnation": bytes(17)},
        {"known_epoch": -1},
        {"received": [2**63]},
        {"received": ["1"]},
    ],
    ids=str,
)
def test_a_greeting_that_claims_nonsense_is_refused(wrong: dict[str, object]) -> None:
    decode_body_untrusted(FrameKind.HELLO, memoryview(hello_with()))
    with pytest.raises(DecodeError):
        decode_body_untrusted(FrameKind.HELLO, memoryview(hello_with(**wrong)))


@given(st.text(st.characters(codec="ascii") | st.sampled_from("äß\u0660"), max_size=140))
def test_a_name_in_a_greeting_is_one_that_a_certificate_may_carry(name: str) -> None:
    def is_refused_by_certificates() -> bool:
        try:
            check_name(name)
        except ConfigError:
            return True
        return False

    def is_refused_by_greetings() -> bool:
        try:
            decode_body_untrusted(FrameKind.HELLO, memoryview(hello_with(node=name, cluster=name)))
        except DecodeError:
            return True
        return False

    assert is_refused_by_greetings() is is_refused_by_certificates()


def test_subscriptions_are_bounded_in_number_and_length() -> None:
    most = ["x" * 255] * 4096
    assert decode_body_untrusted(FrameKind.SUBSCRIPTIONS, memoryview(pack([1, most]))) == Subscriptions(1, most)
    for prefixes in (["x"] * 4097, ["x" * 256], [1], "x"):
        with pytest.raises(DecodeError):
            decode_body_untrusted(FrameKind.SUBSCRIPTIONS, memoryview(pack([1, prefixes])))


@given(st.integers(0, 2**64 - 1), st.integers(0, 32))
def test_event_numbers_stay_within_what_an_ack_can_carry(first: int, count: int) -> None:
    batch = bytes(32)
    body = memoryview(b"\x01" + first.to_bytes(8, "big") + count.to_bytes(4, "big") + batch)
    if first + count >= 2**63:
        with pytest.raises(DecodeError):
            split_events_untrusted(body)
    else:
        header, rest = split_events_untrusted(body)
        assert (header.delivery, header.first_sequence, header.count, bytes(rest)) == (1, first, count, batch)
        assert encode_frame(Ack([first + count]))


@pytest.mark.parametrize(("count", "size"), [(2**32 - 1, 100), (101, 87), (limits.MAX_BATCH_EVENTS + 1, 2**18)])
def test_a_batch_cannot_announce_more_events_than_it_can_hold(count: int, size: int) -> None:
    with pytest.raises(DecodeError):
        split_events_untrusted(memoryview(bytes(9) + count.to_bytes(4, "big") + bytes(size)))


@given(
    st.one_of(
        st.binary(max_size=40),
        st.builds(
            lambda first, count, batch, tail: pack_events_frame(1, first, count, batch) + tail,
            st.integers(0, 2**64 - 1),
            st.integers(0, 2**32 - 1) | st.integers(0, 20),
            st.binary(max_size=30),
            st.just(b"") | st.binary(max_size=3),
        ),
    ),
    st.integers(0, 60),
)
def test_the_short_way_for_a_lone_batch_finds_what_the_long_one_does(data: bytes, max_bytes: int) -> None:
    sole = FrameReader(max_bytes).sole_batch_untrusted(data)
    if sole is None:
        return
    ((kind, body),) = FrameReader(max_bytes).frames_untrusted(data)
    header, batch = split_events_untrusted(body)
    assert kind is FrameKind.EVENTS
    assert (header.delivery, header.first_sequence, header.count, bytes(batch)) == sole


def test_the_short_way_takes_a_sound_lone_batch_and_leaves_the_rest() -> None:
    frame = pack_events_frame(1, 5, 2, b"\x91batch")
    assert FrameReader().sole_batch_untrusted(frame) == (1, 5, 2, b"\x91batch")
    for other in (frame[:-1], frame + b"x", frame * 2, encode_frame(Ping(1)), b""):
        assert FrameReader().sole_batch_untrusted(other) is None
    assert FrameReader(len(frame) - 5).sole_batch_untrusted(frame) is None  # too large here
    unfinished = FrameReader()
    assert not frames(unfinished, frame[:3])
    assert unfinished.sole_batch_untrusted(frame) is None
    for unsound in (pack_events_frame(0, 2**63 - 1, 1, b"\x91batch"), pack_events_frame(0, 0, 20, b"\x91batch")):
        assert FrameReader().sole_batch_untrusted(unsound) is None


@given(st.binary(max_size=60))
def test_garbage_in_place_of_fixed_bodies_raises_a_decode_error_or_is_one(data: bytes) -> None:
    for split in (split_events_untrusted, split_durable_untrusted, split_store_untrusted):
        try:
            split(memoryview(data))
        except DecodeError:
            pass


@given(st.integers(0, 2**63), st.integers(0, 2**63), st.integers(0, 40), st.binary(max_size=30))
def test_durable_events_continue_and_stay_within_all_numbers(after: int, first: int, count: int, batch: bytes) -> None:
    frame = memoryview(pack_durable_frame(after, first, count, batch))[5:]
    is_sound = count <= len(frame) and first + count < 2**63 and after <= first + max(0, count - 1)
    if not is_sound:
        with pytest.raises(DecodeError):
            split_durable_untrusted(frame)
        return
    header, rest = split_durable_untrusted(frame)
    assert (header.after, header.first_sequence, header.count, bytes(rest)) == (after, first, count, batch)


def test_a_store_frame_names_a_store_and_has_a_message() -> None:
    assert split_store_untrusted(memoryview(pack_store_frame("hosts", b"x"))[5:]) == ("hosts", b"x")
    for store, data in (
        ("", b"x"),
        ("hosts", b""),
        ("no name", b"x"),
        ("h", bytes(limits.MAX_STORE_MESSAGE_BYTES + 1)),
    ):
        with pytest.raises(DecodeError):
            split_store_untrusted(memoryview(pack_store_frame(store, data))[5:])
