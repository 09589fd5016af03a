"""Who turns the loop: the baton goes to a consumer that is there, and never stays with nobody."""

from __future__ import annotations

import threading
import time

import pytest

from rapini.node import baton as baton_module
from rapini.node.baton import Baton

FOREVER_S = 30.0


class IoThread:
    """Stands by once, on a thread of its own."""

    def __init__(self, baton: Baton) -> None:
        self.is_back = threading.Event()
        self._baton = baton
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 5
        while not baton.is_free and not self.is_back.is_set() and time.monotonic() < deadline:
            time.sleep(0.001)

    def _run(self) -> None:
        self._baton.stand_by()
        self.is_back.set()

    def join(self) -> None:
        self._thread.join(5)
        assert not self._thread.is_alive()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> Baton:
    """A baton whose I/O thread stands by for ever, unless told otherwise."""
    monkeypatch.setattr(baton_module, "STAND_BY_S", FOREVER_S)
    return Baton()


def test_it_is_the_io_threads_until_that_stands_by() -> None:
    baton = Baton()
    assert not baton.is_free
    assert not baton.take()


def test_one_consumer_at_a_time(patient: Baton) -> None:
    io = IoThread(patient)
    assert patient.take()
    assert not patient.take()
    patient.leave(to_io=False)
    assert patient.take()
    assert not io.is_back.is_set()
    patient.leave(to_io=True)
    io.join()


def test_what_is_handed_back_is_the_io_threads_at_once(patient: Baton) -> None:
    io = IoThread(patient)
    assert patient.take()
    patient.leave(to_io=True)
    assert not patient.take()  # though the I/O thread may not be awake yet
    assert io.is_back.wait(2.0)
    assert not patient.is_free
    assert patient.may_offer()  # the consumer was there


def test_a_recall_brings_the_io_thread_at_once_if_nobody_leads(patient: Baton) -> None:
    io = IoThread(patient)
    patient.recall()
    assert io.is_back.wait(2.0)
    assert not patient.is_free


def test_a_recall_does_not_take_it_from_a_consumer(patient: Baton) -> None:
    io = IoThread(patient)
    assert patient.take()
    patient.recall()
    assert not io.is_back.wait(0.05)
    patient.leave(to_io=False)
    assert not io.is_back.wait(0.05)  # who recalls a second time is heard
    patient.recall()
    assert io.is_back.wait(2.0)


def test_a_recall_from_before_does_not_count(patient: Baton) -> None:
    patient.recall()
    io = IoThread(patient)
    assert not io.is_back.wait(0.05)
    patient.recall()
    io.join()


def test_nobody_has_it_for_a_moment_only_and_then_no_chance_is_given_for_a_while() -> None:
    baton = Baton()
    assert baton.may_offer()
    began = time.monotonic()
    io = IoThread(baton)
    assert io.is_back.wait(2.0)
    assert time.monotonic() - began >= baton_module.STAND_BY_S
    assert [baton.may_offer() for _ in range(17)] == [False] * 16 + [True]


def test_a_consumer_that_stays_away_loses_it_also_after_a_long_silence() -> None:
    baton = Baton()
    io = IoThread(baton)
    while not baton.take():  # the thread may have been quicker: then it stands by again
        io.join()
        io = IoThread(baton)
    time.sleep(20 * baton_module.STAND_BY_S)  # the I/O thread sleeps without a timeout by now
    assert not io.is_back.is_set()
    baton.leave(to_io=False)
    assert io.is_back.wait(2.0)
    assert not baton.take()


def test_a_consumer_that_comes_back_in_time_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baton_module, "STAND_BY_S", 0.2)
    baton = Baton()
    io = IoThread(baton)
    for _ in range(10):
        assert baton.take()
        time.sleep(0.03)
        baton.leave(to_io=False)
        time.sleep(0.03)
    assert not io.is_back.is_set()
    baton.recall()
    io.join()
