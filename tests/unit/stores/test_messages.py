"""The stores' messages byte by byte: other implementations read these, and so does the next version of ours."""

from __future__ import annotations

import pytest

from rapini.stores import Cause, make_operation
from rapini.stores.messages import (
    Change,
    Chunk,
    Deltas,
    Entry,
    Follow,
    Following,
    FromClone,
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
from rapini.stores.values import encode_value

RUN = bytes(range(16))
PUT_HEX = "92 05 94 01 a16b c403 9201c0 cb4004000000000000"  # write 5: put "k", to expire after 2.5 s
CLEAR_HEX = "92 06 94 08 c0 c400 c0"
ADDED_HEX = "94 06 92a16101 c404 d5019107 a16e"  # an element was added to the set of the key ("a", 1), by n
CLEARED_HEX = "94 08 c0 c0 a0"
RUN_HEX = "c410" + RUN.hex()
CHANGES = [Change(Cause.ADD, ("a", 1), encode_value({7}), "n"), Change(Cause.CLEAR, None, None)]

FROM_CLONE: list[tuple[FromClone, str]] = [
    (Follow(RUN, b"", 0), f"94 01 {RUN_HEX} c400 00"),
    (Follow(RUN, RUN, 300), f"94 01 {RUN_HEX} {RUN_HEX} cd012c"),
    (
        Writes(
            4, [Write(5, make_operation(Cause.PUT, "k", [1, None], 2.5)), Write(6, make_operation(Cause.CLEAR, None))]
        ),
        f"93 02 04 92 {PUT_HEX} {CLEAR_HEX}",
    ),
    (Unfollow(), "91 03"),
]
FROM_MASTER: list[tuple[FromMaster, str]] = [
    (Offer(), "91 0a"),
    (Following(RUN, 9, True, 2, False, True), f"97 0b {RUN_HEX} 09 c3 02 c2 c3"),
    (Chunk(9, [Entry(b"\x01", b"\x05"), Entry(-1, b"\xa1x")], True), "94 0c 09 92 92 c40101 c40105 92 ff c402a178 c3"),
    (
        Deltas(10, 2, memoryview(encode_changes(CHANGES))),
        f"94 0d 0a 02 c413 {ADDED_HEX} {CLEARED_HEX}",
    ),
    (
        Replies([Reply(5, "ok", 10, b"\xc3"), Reply(6, "exists", 10)]),
        "92 0e 92 94 05 a26f6b 0a c401c3 94 06 a6657869737473 0a c401c0",
    ),
    (NoStore(), "91 0f"),
]


@pytest.mark.parametrize(("message", "hexadecimal"), FROM_CLONE, ids=lambda value: type(value).__name__)
def test_what_a_clone_says(message: FromClone, hexadecimal: str) -> None:
    data = bytes.fromhex(hexadecimal)
    assert encode(message).hex() == data.hex()
    assert decode_from_clone_untrusted(data) == message


@pytest.mark.parametrize(("message", "hexadecimal"), FROM_MASTER, ids=lambda value: type(value).__name__)
def test_what_a_master_says(message: FromMaster, hexadecimal: str) -> None:
    data = bytes.fromhex(hexadecimal)
    assert encode(message).hex() == data.hex()
    assert decode_from_master_untrusted(data) == message


def test_changes_are_read_whatever_their_number() -> None:
    for count in (1, 15, 16, 17, 70_000):
        changes = [CHANGES[number % 2] for number in range(count)]
        deltas = Deltas(1, count, memoryview(encode_changes(changes)))
        assert decode_changes_untrusted(deltas) == changes


def test_fields_that_a_later_version_appends_are_skipped() -> None:
    assert decode_from_clone_untrusted(bytes.fromhex("92 03 a56c61746572")) == Unfollow()
    assert decode_from_master_untrusted(bytes.fromhex("92 0a 01")) == Offer()
