"""A hostile peer costs itself a `ProtocolViolation`, nobody else anything: garbage, and valid transcripts altered."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapini import limits
from rapini.errors import DecodeError
from rapini.stores import Cause, CloneStore, MasterStore, Operation, make_operation
from rapini.stores.messages import (
    Change,
    Chunk,
    Deltas,
    Entry,
    Follow,
    Following,
    FromMaster,
    NoStore,
    Offer,
    Replies,
    Reply,
    Unfollow,
    Write,
    Writes,
    decode_changes_untrusted,
    decode_from_clone_untrusted,
    decode_from_master_untrusted,
    encode,
    encode_changes,
)
from rapini.stores.outcomes import ProtocolViolation
from tests.unit.stores.pair import join, make_clone, make_master, part, talk
from tests.unit.stores.world import small_chunks, table_of

RUN = b"r" * 16


def _transcript() -> tuple[list[bytes], list[bytes]]:
    """What a clone and a master say in a life with everything in it."""
    master, clone = make_master(run=RUN, log_changes=5), make_clone()
    ours: list[bytes] = []
    theirs: list[bytes] = []

    def run() -> None:
        for _ in range(10):
            while (data := clone.next_chunk("m")) is not None:
                ours.append(data)
                master.receive("c", data, 0.0)
            while (data := master.next_chunk("c")) is not None:
                theirs.append(data)
                clone.receive("m", data, 0.0)

    with small_chunks():
        for number in range(8):
            master.put(("k", number), {"set": {number}, "list": [1.5, None]}, 0.0)
        join(master, clone)
        run()
        for kind, value in ((Cause.ADD, 1), (Cause.ADD, 2), (Cause.REMOVE, 1), (Cause.DELETE, None)):
            clone.write(make_operation(kind, "w", value), 0.0)
        run()
        master.apply(make_operation(Cause.CLEAR, None), 0.0)
        master.put(b"x", "y", 0.0, expires_in_s=1.0)
        master.handle_timer(2.0)
        run()
        part(master, clone)
        join(master, clone)
        run()
    return ours, theirs


OURS, THEIRS = _transcript()


@st.composite
def altered(draw: st.DrawFn, transcript: list[bytes]) -> list[bytes]:
    """Messages left out, repeated, swapped, cut, with bytes changed, or of somebody's own making."""
    messages = list(transcript)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(messages) - 1))
        match draw(st.sampled_from(["drop", "repeat", "swap", "cut", "change", "make"])):
            case "drop" if len(messages) > 1:
                del messages[at]
            case "repeat":
                messages.insert(at, messages[draw(st.integers(0, len(messages) - 1))])
            case "swap":
                other = draw(st.integers(0, len(messages) - 1))
                messages[at], messages[other] = messages[other], messages[at]
            case "cut":
                messages[at] = messages[at][: draw(st.integers(0, len(messages[at])))]
            case "change":
                data = bytearray(messages[at] or b"\0")
                data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
                messages[at] = bytes(data)
            case _:
                messages.insert(at, draw(st.binary(max_size=60)))
    return messages


def readable(machine: MasterStore | CloneStore) -> None:
    """Whatever was accepted can be read."""
    table_of(machine)


@given(messages=altered(OURS))
def test_a_hostile_clone_harms_nobody_else(messages: list[bytes]) -> None:
    master, honest = make_master(run=RUN), make_clone(9)
    join(master, honest, "honest")
    talk(master, honest, "honest")
    master.link_up("hostile", 0.0)
    for data in messages:
        master.receive("hostile", data, 0.0)
        while master.next_chunk("hostile") is not None:
            pass
    outcomes = master.outcomes()
    assert {type(outcome) for outcome in outcomes} <= {ProtocolViolation}
    assert len(outcomes) <= 1
    readable(master)
    master.put("after", 1, 0.0)
    talk(master, honest, "honest")
    assert table_of(honest) == table_of(master)
    assert honest.version == master.version


@given(messages=altered(THEIRS))
def test_a_hostile_master_harms_no_reader(messages: list[bytes]) -> None:
    clone = make_clone(max_entries=50)
    clone.link_up("m", 0.0)
    for _ in range(4):
        clone.write(make_operation(Cause.PUT, "w", 1), 0.0, timeout_s=5.0)
    for data in messages:
        clone.receive("m", data, 0.0)
        while clone.next_chunk("m") is not None:
            pass
        readable(clone)
    clone.handle_timer(10.0)
    done = [outcome for outcome in clone.outcomes() if type(outcome).__name__ == "WriteDone"]
    assert len(done) == 4
    clone.link_lost("m", 0.0)
    master = make_master(run=b"q" * 16)  # an honest one takes its place
    master.put("a", 1, 0.0)
    join(master, clone)
    talk(master, clone)
    assert table_of(clone) == {"a": 1}


@given(data=st.binary(max_size=200))
def test_decoders_raise_decode_error_and_nothing_else(data: bytes) -> None:
    for decode in (decode_from_clone_untrusted, decode_from_master_untrusted):
        try:
            decode(data)
        except DecodeError:
            pass
    try:
        decode_changes_untrusted(Deltas(1, len(data) // 2, memoryview(data)))
    except DecodeError:
        pass


def nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\xc0"


BAD_BLOBS = {
    "nothing": b"",
    "cut": b"\xa5abc",
    "more than one": b"\x01\x02",
    "nested": nested(limits.MAX_STORE_NESTING + 1),
    "nested without end": nested(100_000),
    "not UTF-8": b"\xa1\xff",
    "a time": msgspec.msgpack.encode(datetime.now(UTC)),
    "a foreign extension": b"\xd4\x07\x00",
    "a set of lists of lists": b"\xc7\x04\x01\x91\x91\x91\x01",
    "a set of maps": b"\xc7\x02\x01\x91\x80",
    "a map with a key of nil": b"\x81\xc0\x01",
    "a map with a key of an array": b"\x81\x91\x01\x01",
    "many elements": b"\xdd" + (70_000).to_bytes(4, "big") + b"\xc0" * 70_000,
    "a length that lies": b"\xdd\xff\xff\xff\xff\x01",
    "large": b"\xc6" + (230_000).to_bytes(4, "big") + b"x" * 230_000,
}


def follow(clone: CloneStore, message: FromMaster) -> list[ProtocolViolation]:
    """What a clone that follows says to this message."""
    clone.link_up("m", 0.0)
    clone.receive("m", encode(Following(RUN, 0, True, 1, False, False)), 0.0)
    clone.receive("m", encode(message), 0.0)
    return [outcome for outcome in clone.outcomes() if isinstance(outcome, ProtocolViolation)]


@pytest.mark.parametrize("blob", BAD_BLOBS.values(), ids=BAD_BLOBS.keys())
def test_values_that_are_none(blob: bytes) -> None:
    master = make_master()
    master.link_up("c", 0.0)
    master.receive("c", encode(Follow(b"w" * 16, b"", 0)), 0.0)
    master.receive("c", encode(Writes(1, [Write(1, Operation(Cause.PUT, "k", blob))])), 0.0)
    codes = [outcome.code for outcome in master.outcomes() if isinstance(outcome, ProtocolViolation)]
    assert codes == ["bad_value"]
    assert len(master) == 0
    clone = make_clone()
    assert [violation.code for violation in follow(clone, Chunk(0, [Entry("k", blob)], True))] == ["bad_value"]
    assert len(clone) == 0
    clone = make_clone()
    assert follow(clone, Chunk(0, [Entry("k", b"\x01")], True)) == []
    changes = encode_changes([Change(Cause.PUT, "k", blob)])
    clone.receive("m", encode(Deltas(1, 1, memoryview(changes))), 0.0)
    violations = [outcome.code for outcome in clone.outcomes() if isinstance(outcome, ProtocolViolation)]
    assert violations == ["bad_value"]
    assert clone.get("k") == 1


BAD_KEYS = [None, True, 1.5, "x" * 4097, b"x" * 4097, [[1]], ["a"] * 65, [None], {"a": 1}, datetime.now(UTC)]


@pytest.mark.parametrize("key", BAD_KEYS, ids=lambda key: repr(key)[:20])
def test_keys_that_are_none(key: object) -> None:
    clone = make_clone()
    codes = [violation.code for violation in follow(clone, Chunk(0, [Entry(key, b"\x01")], True))]
    assert codes == ["bad_key"]
    if key is None:
        return
    master = make_master()
    master.link_up("c", 0.0)
    master.receive("c", encode(Follow(b"w" * 16, b"", 0)), 0.0)
    master.receive("c", encode(Writes(1, [Write(1, Operation(Cause.PUT, key, b"\x01"))])), 0.0)
    assert [getattr(outcome, "code", "") for outcome in master.outcomes()] == ["bad_key"]


ENTRY = Entry("k", b"\x01")
DELTA = memoryview(encode_changes([Change(Cause.PUT, "k", b"\x01")]))


@pytest.mark.parametrize(
    "message",
    [
        Chunk(1, [ENTRY], True),  # another version than announced
        Chunk(0, [ENTRY, Entry("l", b"\x01")], True),  # more entries
        Chunk(0, [], True),  # fewer
        Chunk(0, [], False),  # nothing, without end
        Deltas(1, 1, DELTA),  # in the middle of a snapshot
        Following(RUN, 0, True, 1, True, True),  # likewise
        Replies([Reply(1, "ok", 0)]),  # to what was not written
    ],
    ids=lambda message: f"{type(message).__name__}",
)
def test_a_master_that_breaks_the_order(message: FromMaster) -> None:
    clone = make_clone()
    assert len(follow(clone, message)) == 1
    assert clone.master is None
    clone.receive("m", encode(Chunk(0, [ENTRY], True)), 0.0)  # ignored from now on
    assert len(clone) == 0
    assert clone.outcomes() == []


@pytest.mark.parametrize(
    ("first", "change", "code"),
    [
        (2, Change(Cause.PUT, "l", b"\x01"), "bad_version"),
        (0, Change(Cause.PUT, "l", b"\x01"), "bad_version"),
        (1, Change(Cause.DELETE, "absent", None), "bad_delta"),
        (1, Change(Cause.DELETE, "k", b"\x01"), "bad_delta"),
        (1, Change(Cause.PUT, "k", None), "bad_delta"),
        (1, Change(Cause.CLEAR, "k", None), "bad_delta"),
        (1, Change(Cause.PUT, None, b"\x01"), "bad_delta"),
        (1, Change(Cause.TOUCH, "k", b"\x01"), "bad_delta"),
    ],
)
def test_deltas_that_do_not_fit(first: int, change: Change, code: str) -> None:
    clone = make_clone()
    follow(clone, Chunk(0, [ENTRY], True))
    clone.receive("m", encode(Deltas(first, 1, memoryview(encode_changes([change])))), 0.0)
    violations = [outcome.code for outcome in clone.outcomes() if isinstance(outcome, ProtocolViolation)]
    assert violations == [code]
    assert table_of(clone) == {"k": 1}


@pytest.mark.parametrize("count", [0, 2, 2**62])
def test_a_count_that_lies(count: int) -> None:
    with pytest.raises(DecodeError, match=r".") as caught:
        decode_changes_untrusted(Deltas(1, count, DELTA))
    assert caught.value.code == "bad_store_message"


def test_a_clone_that_breaks_the_order() -> None:
    for messages in (
        [Writes(1, [])],
        [Follow(b"w" * 16, b"", 0), Follow(b"w" * 16, b"", 0)],
    ):
        master = make_master()
        master.link_up("c", 0.0)
        for message in messages:
            master.receive("c", encode(message), 0.0)
        assert [getattr(outcome, "code", "") for outcome in master.outcomes()] == ["bad_state"]
        assert master.followers == []
        assert master.next_chunk("c") is None


def violations(machine: MasterStore | CloneStore) -> list[str]:
    return [outcome.code for outcome in machine.outcomes() if isinstance(outcome, ProtocolViolation)]


def test_a_clone_that_follows_again_and_again_is_stopped_and_one_that_takes_its_time_is_not() -> None:
    follow_it, leave = encode(Follow(b"w" * 16, b"", 0)), encode(Unfollow())
    for pause_s, expected in ((0.0, ["flood"]), (1.0, [])):
        master = make_master()
        master.link_up("c", 0.0)
        for number in range(100):
            now = number * pause_s
            master.receive("c", follow_it, now)
            while master.next_chunk("c") is not None:
                pass
            master.receive("c", leave, now)
        assert violations(master) == expected


def test_what_waits_for_a_clone_that_does_not_read_is_bounded() -> None:
    master = make_master()
    master.link_up("c", 0.0)
    master.receive("c", encode(Follow(b"w" * 16, b"", 0)), 0.0)
    again = encode(Writes(1, [Write(number, Operation(Cause.DELETE, "k")) for number in range(1, 1001)]))
    for _ in range(100):  # the same writes again: each is answered
        master.receive("c", again, 0.0)
        master.flush()
    assert violations(master) == ["not_reading"]
    assert master.next_chunk("c") is None


def test_what_waits_for_a_master_that_does_not_read_is_bounded() -> None:
    clone = make_clone()
    clone.link_up("m", 0.0)
    for _ in range(limits.MAX_STORE_ANSWERS + 2):
        clone.receive("m", encode(NoStore()), 0.0)
        clone.receive("m", encode(Offer()), 0.0)
    assert violations(clone) == ["not_reading"]
    assert clone.next_chunk("m") is None


def test_a_message_that_is_too_large_is_not_decoded() -> None:
    for decode in (decode_from_clone_untrusted, decode_from_master_untrusted):
        with pytest.raises(DecodeError, match="bytes") as caught:
            decode(bytes(limits.MAX_STORE_MESSAGE_BYTES + 1))
        assert caught.value.code == "too_large"


def test_a_stranger_is_not_heard() -> None:
    master, clone = make_master(), make_clone()
    master.receive("nobody", b"garbage", 0.0)
    clone.receive("nobody", b"garbage", 0.0)
    assert master.outcomes() == []
    assert clone.outcomes() == []
