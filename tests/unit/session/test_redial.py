"""When to dial again: bounded, jittered, by policy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapini.session.redial import MAX_RETRY_AFTER_S, Backoff, Reconnect, Redial

BACKOFF = Backoff(first_s=0.1, max_s=5.0, rejected_s=30.0)
draws = st.floats(0, 1, exclude_max=True)


def redial(draw: float = 0.0, policy: Reconnect = Reconnect.AUTO) -> Redial:
    return Redial(backoff=BACKOFF, policy=policy, random=lambda: draw)


@given(draws, st.integers(1, 2000))
def test_the_pause_doubles_to_its_bound_and_is_drawn_from_its_upper_half(draw: float, attempts: int) -> None:
    machine = redial(draw)
    for number in range(attempts):
        due = machine.next_attempt_at(100.0)
        ceiling = min(5.0, 0.1 * 2 ** min(number, 40))
        assert due is not None
        assert ceiling / 2 <= due - 100.0 + 1e-9
        assert due - 100.0 <= ceiling + 1e-9
    assert machine.attempts == attempts


def test_after_a_success_the_first_pause_is_short_again() -> None:
    machine = redial()
    pauses = [machine.next_attempt_at(0.0) for _ in range(10)]
    machine.succeeded()
    assert machine.next_attempt_at(0.0) == pauses[0] == pytest.approx(0.05)
    assert pauses[-1] == pytest.approx(2.5)


@given(draws, st.floats(0, 1e12))
def test_a_rejection_waits_for_what_the_peer_asked_within_bounds(draw: float, asked_s: float) -> None:
    due = redial(draw).next_attempt_at(0.0, was_rejected=True, retry_after_s=asked_s)
    assert due is not None
    wanted = min(asked_s or BACKOFF.rejected_s, MAX_RETRY_AFTER_S)
    assert wanted <= due <= max(0.1, wanted * 1.25)


def test_what_a_peer_asks_for_counts_only_with_a_rejection() -> None:
    assert redial().next_attempt_at(0.0, retry_after_s=1000.0) == pytest.approx(0.05)


@pytest.mark.parametrize("policy", [Reconnect.MANUAL, Reconnect.NEVER])
@pytest.mark.parametrize("was_rejected", [False, True])
def test_the_other_policies_never_dial_by_themselves(policy: Reconnect, was_rejected: bool) -> None:
    machine = redial(policy=policy)
    assert [machine.next_attempt_at(0.0, was_rejected=was_rejected) for _ in range(3)] == [None] * 3
    assert machine.attempts == 3
