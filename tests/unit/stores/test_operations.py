"""Every operation, with the same outcomes whether the table is in memory or in SQLite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapini import limits
from rapini.errors import StoreError
from rapini.storage.sqlite_store import SqliteBackend
from rapini.stores import Backend, Cause, EntryChanged, Key, MasterStore, MemoryBackend, WriteResult, make_operation
from rapini.stores.values import check_blob_untrusted, decode_value, encode_value
from tests.unit.stores.world import table_of

MakeMaster = Callable[..., MasterStore]
SCALAR = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False), st.text(), st.binary()
)
DICT_KEY = st.one_of(st.text(), st.binary(), st.integers(-(2**63), 2**64 - 1))
VALUE = st.recursive(
    SCALAR | st.sets(SCALAR, max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(DICT_KEY, inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(params=["memory", "sqlite"])
def make_master(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeMaster]:
    backends: list[Backend] = []

    def make(**options: int) -> MasterStore:
        backend: Backend = MemoryBackend() if request.param == "memory" else SqliteBackend(tmp_path / "store")
        backends.append(backend)
        return MasterStore(
            "s",
            run=b"r" * 16,
            may_write=lambda peer: True,
            now=0.0,
            wall_now=1e9,
            backend=backend,
            wants_changes=True,
            **options,
        )

    yield make
    for backend in backends:
        backend.close()


def do(master: MasterStore, kind: Cause, key: Key, value: object = None, now: float = 0.0) -> WriteResult:
    return master.apply(make_operation(kind, key, value), now)


def events(master: MasterStore) -> list[tuple[str, Key, bool, bool, object]]:
    master.flush()
    return [
        (change.cause.name, change.key, change.was_present, change.is_present, change.value)
        for change in master.outcomes()
        if isinstance(change, EntryChanged)
    ]


def test_put_and_delete(make_master: MakeMaster) -> None:
    master = make_master()
    assert master.put("k", [1, {"x": None}], 0.0) == WriteResult("ok", 1)
    assert master.put("k", "later", 0.0) == WriteResult("ok", 2)
    assert master.get("k", 0.0) == "later"
    assert do(master, Cause.DELETE, "k") == WriteResult("ok", 3, True)
    assert do(master, Cause.DELETE, "k") == WriteResult("absent", 3, False)
    assert master.get("k", 0.0, "default") == "default"
    assert not master.contains("k", 0.0)
    assert events(master) == [
        ("PUT", "k", False, True, [1, {"x": None}]),
        ("PUT", "k", True, True, "later"),
        ("DELETE", "k", True, False, None),
    ]


def test_put_unique_has_one_winner(make_master: MakeMaster) -> None:
    master = make_master()
    assert master.put_unique("k", 1, 0.0) == WriteResult("ok", 1, True)
    assert master.put_unique("k", 2, 0.0) == WriteResult("exists", 1, False)
    assert do(master, Cause.PUT_UNIQUE, "k", 3) == WriteResult("exists", 1, False)
    assert master.get("k", 0.0) == 1
    results = master.put_unique_many([("a", 1), ("k", 2), ("a", 3)], 0.0)
    assert [(result.code, result.value) for result in results] == [("ok", True), ("exists", False), ("exists", False)]


def test_increment_counts_whole_numbers_and_fractions(make_master: MakeMaster) -> None:
    master = make_master()
    assert do(master, Cause.INCREMENT, "n", 2) == WriteResult("ok", 1, 2)
    assert do(master, Cause.INCREMENT, "n", -5) == WriteResult("ok", 2, -3)
    assert do(master, Cause.INCREMENT, "n", 0.5) == WriteResult("ok", 3, -2.5)
    master.put("n", 2**64 - 1, 0.0)
    assert do(master, Cause.INCREMENT, "n", 1) == WriteResult("out_of_range", 4)
    assert master.get("n", 0.0) == 2**64 - 1


@pytest.mark.parametrize(
    ("present", "kind", "argument"),
    [
        ("text", Cause.INCREMENT, 1),
        (True, Cause.INCREMENT, 1),
        (1, Cause.INCREMENT, True),
        (1, Cause.INCREMENT, "1"),
        (None, Cause.INCREMENT, 1),
        (None, Cause.APPEND, "x"),
        ("text", Cause.APPEND, b"x"),
        ([1], Cause.APPEND, "x"),
        (5, Cause.APPEND, 5),
        ([1], Cause.ADD, 1),
        ({1}, Cause.ADD, [[1]]),
        ({1}, Cause.ADD, {2}),
        ({1}, Cause.ADD, {"a": 1}),
        ({}, Cause.REMOVE, 1),
    ],
)
def test_a_wrong_type_changes_nothing(make_master: MakeMaster, present: object, kind: Cause, argument: object) -> None:
    master = make_master()
    master.put("k", present, 0.0)
    assert do(master, kind, "k", argument) == WriteResult("wrong_type", 1)
    assert master.get("k", 0.0) == present
    assert len(events(master)) == 1


@pytest.mark.parametrize(("first", "more", "both"), [([1], [2, 3], [1, 2, 3]), ("a", "b", "ab"), (b"a", b"b", b"ab")])
def test_append(make_master: MakeMaster, first: object, more: object, both: object) -> None:
    master = make_master()
    assert do(master, Cause.APPEND, "k", first) == WriteResult("ok", 1)
    assert do(master, Cause.APPEND, "k", more) == WriteResult("ok", 2)
    assert master.get("k", 0.0) == both


def test_a_set_knows_whether_an_element_was_there(make_master: MakeMaster) -> None:
    master = make_master()
    assert do(master, Cause.ADD, "k", ("192.0.2.1", 53)) == WriteResult("ok", 1, True)
    assert do(master, Cause.ADD, "k", ("192.0.2.1", 53)) == WriteResult("ok", 1, False)
    assert do(master, Cause.ADD, "k", 7) == WriteResult("ok", 2, True)
    assert do(master, Cause.REMOVE, "k", 8) == WriteResult("ok", 2, False)
    assert do(master, Cause.REMOVE, "k", 7) == WriteResult("ok", 3, True)
    assert master.get("k", 0.0) == {("192.0.2.1", 53)}
    assert do(master, Cause.REMOVE, "absent", 7) == WriteResult("ok", 3, False)
    assert [name for name, *_ in events(master)] == ["ADD", "ADD", "REMOVE"]


def test_clear_is_one_version_and_an_event_for_each_entry(make_master: MakeMaster) -> None:
    master = make_master()
    master.put("a", 1, 0.0, expires_in_s=5.0)
    master.put("b", 1, 0.0)
    events(master)
    assert do(master, Cause.CLEAR, "") == WriteResult("ok", 3, 2)
    assert sorted(events(master)) == [("CLEAR", "a", True, False, None), ("CLEAR", "b", True, False, None)]
    assert do(master, Cause.CLEAR, "") == WriteResult("ok", 3, 0)
    assert len(master) == 0
    assert master.next_timer() is None


def test_an_entry_expires_when_it_is_due_and_not_before(make_master: MakeMaster) -> None:
    master = make_master()
    master.put("k", 1, 10.0, expires_in_s=5.0)
    assert master.next_timer() == 15.0
    assert master.get("k", 14.9) == 1
    assert master.get("k", 15.0) is None
    assert events(master)[-1] == ("EXPIRE", "k", True, False, None)
    assert master.put_unique("k", 2, 15.0).value is True


def test_what_touches_an_expiry(make_master: MakeMaster) -> None:
    master = make_master()
    master.put("k", 1, 0.0, expires_in_s=5.0)
    do(master, Cause.INCREMENT, "k", 1)  # leaves it
    assert master.next_timer() == 5.0
    master.apply(make_operation(Cause.INCREMENT, "k", 1, 7.0), 1.0)
    assert [name for name, *_ in events(master)] == ["PUT", "INCREMENT", "INCREMENT"]
    assert master.get("k", 7.9) == 3
    assert master.apply(make_operation(Cause.TOUCH, "k", None, 10.0), 7.9) == WriteResult("ok", 3, True)
    assert events(master) == []
    assert master.get("k", 17.8) == 3
    master.apply(make_operation(Cause.TOUCH, "k"), 17.8)
    assert master.get("k", 1000.0) == 3
    master.put("k", 1, 1000.0, expires_in_s=5.0)
    master.put("k", 1, 1001.0)
    assert master.get("k", 2000.0) == 1
    assert do(master, Cause.TOUCH, "absent").code == "absent"


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf, 1e12])
def test_an_expiry_that_cannot_be(make_master: MakeMaster, seconds: float) -> None:
    master = make_master()
    assert master.put("k", 1, 0.0, expires_in_s=seconds).code == "bad_expiry"
    assert not master.contains("k", 0.0)


@pytest.mark.parametrize(
    "key", ["", "é", b"", b"\0\xff", 0, -(2**63), 2**64 - 1, (), ("a", 1), ("a\0", b"\0\xff", -1), "x" * 4096]
)
def test_keys_of_every_kind(make_master: MakeMaster, key: Key) -> None:
    master = make_master()
    assert master.put(key, 1, 0.0).code == "ok"
    assert master.get(key, 0.0) == 1
    assert master.flush()
    assert table_of(master) == {key: 1}
    size = master.backend.size_bytes
    assert size > 0
    do(master, Cause.DELETE, key)
    assert master.backend.size_bytes == 0


@pytest.mark.parametrize(
    "key", [None, True, 1.5, 2**64, -(2**63) - 1, "x" * 4097, "\ud800", ("a", None), (("a",),), ("a",) * 65, ["a"]]
)
def test_what_cannot_be_a_key(make_master: MakeMaster, key: Key) -> None:
    master = make_master()
    assert master.put(key, 1, 0.0).code == "bad_key"
    with pytest.raises(StoreError, match="cannot be a key") as caught:
        make_operation(Cause.DELETE, key)
    assert caught.value.code == "bad_key"


@pytest.mark.parametrize(
    "value", [object(), datetime.now(UTC), 2**64, "\ud800", {1.5: 1}, {None: 1}, {True: 1}, {(1,): 1}, 1j]
)
def test_what_cannot_be_a_value(make_master: MakeMaster, value: object) -> None:
    master = make_master()
    assert master.put("k", value, 0.0).code == "not_encodable"
    assert master.put("k", [value], 0.0).code == "not_encodable"
    assert len(master) == 0


def test_nesting_and_size_are_bounded(make_master: MakeMaster) -> None:
    master = make_master()
    nested: object = 1
    for _ in range(limits.MAX_STORE_NESTING):
        nested = [nested]
    assert master.put("k", nested, 0.0).code == "ok"
    assert master.put("k", [nested], 0.0).code == "not_encodable"
    loop: list[object] = []
    loop.append(loop)
    assert master.put("k", loop, 0.0).code == "not_encodable"
    assert master.put("k", b"x" * limits.MAX_STORE_VALUE_BYTES, 0.0).code == "too_large"
    assert master.put("k", [0] * (limits.MAX_STORE_VALUE_ITEMS + 1), 0.0).code == "too_large"
    assert master.put("k", b"x" * (limits.MAX_STORE_VALUE_BYTES - 5), 0.0).code == "ok"
    assert do(master, Cause.APPEND, "k", b"x").code == "too_large"


def test_a_full_store_refuses_and_keeps_what_it_has(make_master: MakeMaster) -> None:
    master = make_master(max_entries=2, max_bytes=100)
    assert master.put("a", 1, 0.0).code == "ok"
    assert master.put("b", "x" * 50, 0.0).code == "ok"
    assert master.put("c", 1, 0.0).code == "store_full"
    assert master.put("b", "x" * 99, 0.0).code == "store_full"
    assert do(master, Cause.APPEND, "b", "y" * 60).code == "store_full"
    assert do(master, Cause.DELETE, "a").code == "ok"
    assert master.put("c", 1, 0.0).code == "ok"
    assert master.get("b", 0.0) == "x" * 50


def test_a_prefix_of_text_of_bytes_and_of_a_tuple(make_master: MakeMaster) -> None:
    master = make_master()
    keys: list[Key] = ["ab", "abc", "b", b"ab", b"a\xff", b"a\xff\xff", ("ab", 1), ("ab", 2, "x"), ("abc",), 5, "a"]
    for key in keys:
        master.put(key, 1, 0.0)

    def found(prefix: Key) -> set[Key]:
        snapshot = master.scan(0.0, prefix)
        part = snapshot.read(10_000, 0)
        assert snapshot.count == len(part)
        snapshot.close()
        return {key for key, _ in part}

    assert found("ab") == {"ab", "abc"}
    assert found("") == {"ab", "abc", "b", "a"}
    assert found(b"a\xff") == {b"a\xff", b"a\xff\xff"}
    assert found(("ab",)) == {("ab", 1), ("ab", 2, "x")}
    assert found(()) == {("ab", 1), ("ab", 2, "x"), ("abc",)}
    assert found(5) == {5}


def test_a_scan_sees_one_moment(make_master: MakeMaster) -> None:
    master = make_master()
    for number in range(20):
        master.put(f"k{number}", number, 0.0)
    snapshot = master.scan(0.0)
    seen = dict(snapshot.read(10, 0))
    do(master, Cause.CLEAR, "")
    master.put("new", 1, 0.0)
    master.flush()
    while part := snapshot.read(10, 0):
        seen.update(part)
    snapshot.close()
    assert {key: decode_value(blob) for key, blob in seen.items()} == {f"k{n}": n for n in range(20)}


def test_nobody_can_change_a_value_in_the_table(make_master: MakeMaster) -> None:
    master = make_master()
    mine = [1]
    master.put("k", mine, 0.0)
    mine.append(2)
    got = master.get("k", 0.0)
    assert isinstance(got, list)
    got.append(3)
    assert master.get("k", 0.0) == [1]


@given(value=VALUE)
def test_a_value_comes_back_as_it_was(value: object) -> None:
    blob = encode_value(value)
    assert decode_value(blob) == value
    assert type(decode_value(blob)) is type(value)
    assert check_blob_untrusted(blob) == value
