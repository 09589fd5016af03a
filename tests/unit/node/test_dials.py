"""A dial's states: when the next attempt is due, and what a success forgets."""

from __future__ import annotations

import pytest

from rapini.node.dials import Dial, DialState
from rapini.secure.channel import Side
from rapini.session.link import CloseKind, LinkClosed
from rapini.session.redial import Backoff, Reconnect, Redial
from rapini.transport import Endpoint


def dial(policy: Reconnect = Reconnect.AUTO) -> Dial:
    backoff = Backoff(first_s=0.1, max_s=5.0, rejected_s=30.0)
    return Dial(Endpoint.parse("tcp+plain://127.0.0.1:9"), Redial(backoff=backoff, policy=policy, random=lambda: 0.5))


def rejected(retry_after_s: float) -> LinkClosed:
    return LinkClosed(
        kind=CloseKind.REJECTED, code="denied", side=Side.THEIRS, detail="no", retry_after_s=retry_after_s
    )


def test_a_new_dial_is_due_at_once() -> None:
    assert (dial().state, dial().due_at) == (DialState.WAITING, 0.0)


def test_failures_are_remembered_until_it_is_up() -> None:
    attempt = dial()
    for _ in range(3):
        attempt.ended(100.0, "refused", "nobody listens", None, was_rejected=False)
    assert attempt.failure == ("refused", "nobody listens")
    assert (attempt.state, attempt.due_at) == (DialState.WAITING, 100.0 + 0.4 * 0.75)
    attempt.came_up("peer")
    assert not attempt.failure
    assert (attempt.peer, attempt.was_ever_up, attempt.redial.attempts) == ("peer", True, 0)


def test_a_rejection_waits_as_long_as_the_peer_asks() -> None:
    attempt = dial()
    attempt.ended(0.0, "denied", "no", rejected(60.0), was_rejected=True)
    assert attempt.due_at == pytest.approx(67.5)  # an eighth more than was asked: jitter never cuts it short


def test_by_the_other_policies_the_end_is_the_end() -> None:
    for policy in (Reconnect.MANUAL, Reconnect.NEVER):
        attempt = dial(policy)
        attempt.ended(0.0, "refused", "", None, was_rejected=False)
        assert (attempt.state, attempt.due_at) == (DialState.DONE, None)


def test_who_stands_by_dials_when_woken_with_a_clean_slate() -> None:
    attempt = dial()
    attempt.ended(0.0, "denied", "no", rejected(60.0), was_rejected=True)
    attempt.stand_by("peer")
    assert (attempt.state, attempt.due_at, attempt.peer) == (DialState.STANDBY, None, "peer")
    attempt.wake(7.0)
    assert (attempt.state, attempt.due_at, attempt.failure, attempt.closed) == (DialState.WAITING, 7.0, None, None)
