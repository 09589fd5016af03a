"""What has been here already: the same as a plain set of numbers says, as long as nothing had to be forgotten."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from rapini.session.seen import Ranges, Seen

RUN = st.tuples(st.integers(0, 60), st.integers(1, 12))
ORIGINS = st.sampled_from([("a", b"1"), ("a", b"2"), ("b", b"1")])


def numbers(ranges: list[tuple[int, int]]) -> list[int]:
    return [number for first, after in ranges for number in range(first, after)]


@given(st.lists(RUN, max_size=60))
def test_ranges_are_a_set(runs: list[tuple[int, int]]) -> None:
    ranges, model = Ranges(), set[int]()
    for first, count in runs:
        asked = set(range(first, first + count))
        new = ranges.add(first, first + count)
        assert numbers(new) == sorted(asked - model)
        assert all(before[1] < after[0] for before, after in itertools.pairwise(new))
        model |= asked
        assert [number for number in range(80) if number in ranges] == sorted(model)
        borders = sum(number - 1 not in model for number in model)
        assert len(ranges) == borders, "ranges neither overlap nor touch"


@given(st.lists(st.tuples(ORIGINS, RUN), max_size=80))
def test_streams_are_apart(runs: list[tuple[tuple[str, bytes], tuple[int, int]]]) -> None:
    seen, model = Seen(), dict[tuple[str, bytes], set[int]]()
    for (origin, stream), (first, count) in runs:
        known = model.setdefault((origin, stream), set())
        asked = set(range(first, first + count))
        if seen.follows(origin, stream, first, count):
            assert asked.isdisjoint(known)
        else:
            assert numbers(seen.add(origin, stream, first, count)) == sorted(asked - known)
        known |= asked


@given(
    st.lists(st.tuples(st.integers(0, 9), RUN), max_size=120),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(1, 10),
)
def test_bounds_hold_and_nothing_new_is_ever_cut(
    runs: list[tuple[int, tuple[int, int]]], max_ranges: int, max_streams: int, max_all: int
) -> None:
    seen = Seen(max_ranges=max_ranges, max_streams=max_streams, max_all_ranges=max_all)
    model = dict[int, set[int]]()
    for origin, (first, count) in runs:
        known = model.setdefault(origin, set())
        asked = set(range(first, first + count))
        if seen.follows(str(origin), b"", first, count):
            new = asked
        else:
            new = set(numbers(seen.add(str(origin), b"", first, count)))
        assert asked - known <= new <= asked
        known |= asked
        assert len(seen) <= max_all
        assert len(seen._streams) <= max_streams
        assert all(len(ranges) <= max_ranges for ranges in seen._streams.values())
        assert len(seen) == sum(map(len, seen._streams.values()))


def test_a_stream_in_order_is_one_range() -> None:
    seen = Seen()
    for first in range(0, 100_000, 100):
        assert seen.add("a", b"", first, 100) == [(first, first + 100)]
    assert len(seen) == 1
    assert seen.add("a", b"", 500, 100) == []


def test_the_oldest_streams_are_forgotten_first() -> None:
    seen = Seen(max_streams=2)
    for name in ("a", "b", "a", "c"):
        seen.add(name, b"", 0, 1)
    assert seen.add("a", b"", 0, 1) == []
    assert seen.add("b", b"", 0, 1) == [(0, 1)]
