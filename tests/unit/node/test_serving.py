"""The threads that serve requests: few, fair, and they end."""

from __future__ import annotations

import threading

from rapini import limits
from rapini.node.serving import Servants

SOON_S = 10.0


def test_threads_are_started_as_needed_and_no_more_than_allowed() -> None:
    servants = Servants("t", 3)
    before = threading.active_count()
    release, running = threading.Event(), threading.Semaphore(0)

    def job() -> None:
        running.release()
        release.wait(SOON_S)

    assert threading.active_count() == before
    for number in range(10):
        assert servants.put(f"p{number}", job)
    for _ in range(3):
        assert running.acquire(timeout=SOON_S)
    assert not running.acquire(timeout=0.05)
    assert threading.active_count() == before + 3
    release.set()
    assert servants.close(SOON_S)
    assert all(running.acquire(blocking=False) for _ in range(7))  # what was put is done, though it was closed
    assert threading.active_count() == before
    assert not servants.put("p", job)


def test_peers_take_turns() -> None:
    servants = Servants("t", 1)
    release = threading.Event()
    order: list[str] = []
    servants.put("a", lambda: order.append("a") if release.wait(SOON_S) else None)
    for _ in range(3):
        servants.put("a", lambda: order.append("a"))
    for _ in range(2):
        servants.put("b", lambda: order.append("b"))
    release.set()
    assert servants.close(SOON_S)
    assert order in (["a", "a", "b", "a", "b", "a"], ["a", "b", "a", "b", "a", "a"])


def test_a_fault_of_our_own_costs_one_job() -> None:
    servants = Servants("t", 1)
    done = threading.Event()
    servants.put("a", lambda: print(1 // 0))
    servants.put("a", done.set)
    assert done.wait(SOON_S)
    assert servants.close(SOON_S)


def test_what_waits_is_bounded() -> None:
    servants = Servants("t", 1)
    release, running = threading.Event(), threading.Event()

    def job() -> None:
        running.set()
        release.wait(SOON_S)

    servants.put("a", job)
    assert running.wait(SOON_S)
    assert sum(servants.put("a", job) for _ in range(2 * limits.MAX_WAITING_REQUESTS)) == (limits.MAX_WAITING_REQUESTS)
    release.set()
    assert servants.close(SOON_S)


def test_a_handler_that_hangs_does_not_hold_up_the_end() -> None:
    servants = Servants("t", 1)
    release = threading.Event()
    servants.put("a", lambda: print(release.wait(SOON_S)))
    assert not servants.close(0.05)
    release.set()
    assert servants.close(SOON_S)
