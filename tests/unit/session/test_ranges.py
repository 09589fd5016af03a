"""Range sets do what sets of integers do."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from rapini.session.ranges import RangeSet

STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, 60), st.integers(0, 12)), max_size=40)


@given(STEPS, st.integers(0, 70), st.integers(0, 30), st.integers(1, 5))
def test_a_range_set_is_a_set(steps: list[tuple[bool, int, int]], start: int, size: int, keep: int) -> None:
    ranges, model = RangeSet(), set[int]()
    for is_added, low, length in steps:
        if is_added:
            ranges.add(low, low + length)
            model |= set(range(low, low + length))
        else:
            ranges.discard(low, low + length)
            model -= set(range(low, low + length))
        pairs = list(ranges)
        assert all(low < high for low, high in pairs)
        assert all(before[1] < after[0] for before, after in pairwise(pairs)), "apart and sorted"
        assert {each for low, high in pairs for each in range(low, high)} == model
        assert len(ranges) == len(pairs)
    assert all((each in ranges) == (each in model) for each in range(80))
    holes = {each for low, high in ranges.missing(start, start + size) for each in range(low, high)}
    assert holes == set(range(start, start + size)) - model
    assert ranges.highest_first() == list(ranges)[::-1]
    if len(ranges):
        assert ranges.first() == next(iter(ranges))
    kept = list(ranges)[-keep:]
    ranges.keep_highest(keep)
    assert list(ranges) == kept
