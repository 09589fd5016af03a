"""The loop of a node's I/O thread: when it turns, and what a turn ends with."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from rapini.node import baton as baton_module
from rapini.node.baton import FEW_EVENTS
from rapini.node.loop import Loop
from rapini.node.signals import GUARD
from rapini.threads import ThreadFailure


class Engine:
    """What a loop drives: notes its turns, and does in each what the test wants."""

    def __init__(self) -> None:
        self.stalls: list[float] = []
        self.failures: list[ThreadFailure] = []
        self.loop = Loop("test", self.turn, self.stalls.append, self.failures.append, hand_over=self.hand_over)
        self.turns: list[float] = []
        self.turners: list[int] = []
        """The threads that took them."""
        self.brings = 0
        """How many events the next turn brings to a consumer that sleeps or leads."""
        self.waiting = 0
        """Events that wait for the consumer."""
        self.insists = False
        """Whether it wants each turn whole."""
        self.in_turn: Callable[[], object] = lambda: None
        self.wakes = 0
        """How many turns, from now on, ask for another in the middle."""
        self.more = 0
        """How many, from now on, end with more to do."""
        self.fired: list[float] = []
        self.timer_in_s: float | None = None
        self.timer_set_at = 0.0
        self.handed_over_in_turn: list[bool] = []

    def turn(self, now: float) -> None:
        self.turns.append(now)
        self.turners.append(threading.get_ident())
        self.in_turn()
        if self.brings:
            is_led = self.turners[-1] != self.loop._thread.ident
            self.loop.delivered(self.brings, woke=not is_led)
            self.waiting, self.brings = self.waiting + self.brings, 0
            if self.insists:
                self.loop.has_brought = False
        if self.wakes:
            self.wakes -= 1
            self.loop.wake()
        if self.timer_in_s is not None:
            self.loop.call_at(now + self.timer_in_s, self.fired.append)
            self.timer_in_s = None
            self.timer_set_at = now

    def hand_over(self) -> bool:
        self.handed_over_in_turn.append(len(self.turns) == len(self.handed_over_in_turn) + 1)
        self.more -= bool(self.more)
        return bool(self.more)

    def bring(self, count: int = 1) -> None:
        """Events come in, as far as the loop can tell."""
        with self.loop.lock:
            self.brings = count
            self.loop.wake()

    def lead(self, timeout_s: float | None = None) -> int:
        """Consume: wait by leading if that is possible; returns the events that came."""
        self.loop.lead(lambda: not self.waiting, None if timeout_s is None else time.monotonic() + timeout_s)
        count, self.waiting = self.waiting, 0
        return count

    def offer(self) -> None:
        """An event comes for a sleeping consumer: the I/O thread stands by for it."""
        self.bring()
        deadline = time.monotonic() + 5
        while not self.loop._baton.is_free:
            assert time.monotonic() < deadline
            time.sleep(0.0005)
        self.waiting = 0

    def wait_until_asleep(self) -> int:
        """Wait until no turn has come for a while; returns how many there were."""
        while True:
            count = len(self.turns)
            time.sleep(0.1)
            if len(self.turns) == count:
                return count


@contextmanager
def running() -> Iterator[Engine]:
    engine = Engine()
    engine.loop.start()
    try:
        engine.wait_until_asleep()
        yield engine
    finally:
        engine.loop.signal_stop()
        assert engine.loop.wait_stop(5.0)
        engine.loop.close()


def test_a_wake_up_during_a_turn_brings_another_at_once() -> None:
    with running() as engine:
        before = len(engine.turns)
        with engine.loop.lock:
            engine.wakes = 3
            engine.loop.wake()
        assert engine.wait_until_asleep() == before + 4
        with engine.loop.lock:
            engine.loop.wake()  # it can be woken from outside afterwards
        assert engine.wait_until_asleep() == before + 5


def test_more_to_do_at_the_end_of_a_turn_brings_another_at_once() -> None:
    with running() as engine:
        before = len(engine.turns)
        with engine.loop.lock:
            engine.more = 4
            engine.loop.wake()
        assert engine.wait_until_asleep() == before + 4
        assert all(engine.handed_over_in_turn)


def test_a_timer_set_during_a_turn_is_kept() -> None:
    with running() as engine:
        with engine.loop.lock:
            engine.timer_in_s = 0.15
            engine.loop.wake()
        engine.wait_until_asleep()
        time.sleep(0.3)
        assert len(engine.fired) == 1
        assert 0.15 <= engine.fired[0] - engine.timer_set_at < 0.3


def test_a_timer_set_by_another_thread_is_kept_though_the_loop_sleeps_for_longer() -> None:
    with running() as engine:
        fired = threading.Event()
        start = time.monotonic()
        with engine.loop.lock:
            assert not engine.loop.is_in_turn
            engine.loop.call_at(start + 0.05, lambda now: fired.set())
        assert fired.wait(2.0)
        assert time.monotonic() - start >= 0.05


# -- a consumer takes the turns ---------------------------------------------------------------------------------------


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """A loop whose I/O thread stands by until it is told otherwise."""
    monkeypatch.setattr(baton_module, "STAND_BY_S", 30.0)
    with running() as engine:
        yield engine


@pytest.fixture
def interrupted(patient: Engine) -> Iterator[Engine]:
    """The same; signal handlers are as before when the test is over."""
    GUARD.retain()
    yield patient
    GUARD.release()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@contextmanager
def later(delay_s: float, act: Callable[[], object]) -> Iterator[None]:
    """Do something soon on another thread."""
    timer = threading.Timer(delay_s, act)
    timer.start()
    yield
    timer.join()


def test_a_consumer_leads_only_where_the_io_thread_lets_it() -> None:
    with running() as engine:
        began = time.monotonic()
        assert engine.lead() == 0  # the I/O thread waits in select(), so this returns at once
        assert time.monotonic() - began < 1.0
        assert engine.loop.leads == 0


def test_what_comes_while_a_consumer_leads_is_its_own_turns_work(patient: Engine) -> None:
    patient.offer()
    with later(0.05, patient.bring):
        assert patient.lead(5.0) == 1
    assert patient.turners[-1] == threading.get_ident()
    assert patient.loop.leads == 1


def test_much_at_once_gives_the_turns_back(patient: Engine) -> None:
    patient.offer()
    with later(0.05, lambda: patient.bring(FEW_EVENTS)):
        assert patient.lead(5.0) == FEW_EVENTS
    assert patient.lead() == 0  # at once: the I/O thread has them
    assert patient.loop.leads == 1
    patient.bring(FEW_EVENTS)
    patient.wait_until_asleep()
    assert patient.turners[-1] == patient.loop._thread.ident
    assert not patient.loop._baton.is_free  # no chance for a consumer then


def test_the_rest_of_a_turn_that_brought_something_is_made_up_for(patient: Engine) -> None:
    """The consumer has its events at once; before it waits again, what was left undone is done."""
    patient.offer()
    with later(0.05, patient.bring):
        assert patient.lead(5.0) == 1
    turns, handed_over = len(patient.turns), len(patient.handed_over_in_turn)
    assert handed_over < turns
    assert patient.lead(0.05) == 0
    assert patient.turners[turns] == threading.get_ident()
    assert len(patient.handed_over_in_turn) > handed_over


def test_an_engine_may_insist_on_the_whole_turn(patient: Engine) -> None:
    patient.offer()
    handed_over = len(patient.handed_over_in_turn)
    with later(0.05, patient.bring):
        patient.insists = True
        assert patient.lead(5.0) == 1
    assert len(patient.handed_over_in_turn) == handed_over + 1


def test_a_timer_set_before_the_rest_of_a_turn_is_kept(patient: Engine) -> None:
    """Nobody has a plan then, and the consumer does not come back; the I/O thread would stand by for half a minute."""
    patient.offer()
    with later(0.05, patient.bring):
        assert patient.lead(5.0) == 1
    fired = threading.Event()
    call_soon(patient, time.monotonic() + 0.001, lambda now: fired.set())
    assert fired.wait(2.0)


def test_the_lead_ends_in_time(patient: Engine) -> None:
    patient.offer()
    began = time.monotonic()
    assert patient.lead(0.1) == 0
    assert 0.1 <= time.monotonic() - began < 0.3


def test_timers_are_kept_whoever_leads() -> None:
    with running() as engine:
        fired: list[tuple[float, int]] = []

        def timer(now: float) -> None:
            fired.append((now, threading.get_ident()))

        engine.offer()
        start = time.monotonic()
        with engine.loop.lock:
            engine.loop.call_at(start + 0.05, timer)  # nobody waits in select() now, or the I/O thread does again
        time.sleep(0.15)
        engine.loop._baton._skips = 0
        engine.offer()
        with later(0.05, lambda: call_soon(engine, start + 0.3, timer)):
            engine.lead(max(0.0, start + 0.5 - time.monotonic()))
        assert len(fired) == 2
        assert 0.05 <= fired[0][0] - start < 0.15
        assert 0.3 <= fired[1][0] - start < 0.45
        assert fired[1][1] == threading.get_ident()


def call_soon(engine: Engine, when: float, timer: Callable[[float], None]) -> None:
    with engine.loop.lock:
        engine.loop.call_at(when, timer)


def test_a_wake_up_while_nobody_leads_is_heard_at_once(patient: Engine) -> None:
    """The I/O thread would stand by for half a minute."""
    patient.offer()
    before = len(patient.turns)
    with patient.loop.lock:
        patient.loop.wake()
    assert patient.wait_until_asleep() > before
    assert patient.turners[-1] == patient.loop._thread.ident


def test_a_wake_up_that_a_leaving_consumer_has_not_answered_is_the_io_threads(patient: Engine) -> None:
    patient.offer()
    before = len(patient.turns)

    def is_empty() -> bool:
        with patient.loop.lock:
            patient.loop.wake()  # whoever calls sees a leader, which then leaves without another turn
        return False

    patient.loop.lead(is_empty, None)
    assert patient.wait_until_asleep() > before
    assert patient.turners[-1] == patient.loop._thread.ident


def test_stopping_ends_the_lead(patient: Engine) -> None:
    patient.offer()
    with later(0.05, patient.loop.signal_stop):
        began = time.monotonic()
        assert patient.lead(10.0) == 0
        assert time.monotonic() - began < 1.0
    assert patient.loop.wait_stop(5.0)
    assert patient.lead() == 0  # nobody leads a loop that is over


def test_stopping_while_nobody_leads(patient: Engine) -> None:
    patient.offer()
    patient.loop.signal_stop()
    assert patient.loop.wait_stop(5.0)


def test_a_standstill_is_noticed_whoever_leads(patient: Engine) -> None:
    patient.offer()

    def is_empty() -> bool:
        patient.loop._sleeps_until = time.monotonic() - 3.0  # as if the process had been stopped here
        return not patient.waiting

    with later(0.05, patient.bring):
        patient.loop.lead(is_empty, time.monotonic() + 5)
    assert [round(pause_s) for pause_s in patient.stalls][:1] == [3]


def test_an_exception_in_a_consumers_turn_ends_the_loop_and_not_the_consumer(patient: Engine) -> None:
    patient.offer()

    def fail() -> None:
        raise ZeroDivisionError("a mistake")

    patient.in_turn = fail
    with later(0.05, patient.bring):
        assert patient.lead(5.0) == 0
    assert patient.turners[-1] == threading.get_ident()
    assert patient.loop.wait_stop(5.0)
    assert [type(failure.error) for failure in patient.failures] == [ZeroDivisionError]
    assert patient.loop.failure is patient.failures[0]


def test_a_signal_ends_the_lead_and_breaks_no_turn(interrupted: Engine) -> None:
    """Ctrl-C in the middle of a turn of the main thread's: the turn is finished, and the loop unharmed."""
    interrupted.offer()
    finished: list[bool] = []

    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass
        finished.append(True)

    interrupted.in_turn = interrupt
    with later(0.05, interrupted.bring), pytest.raises(KeyboardInterrupt):
        interrupted.lead(5.0)
    interrupted.in_turn = lambda: None
    assert finished == [True]
    assert interrupted.failures == []
    before = interrupted.wait_until_asleep()
    with interrupted.loop.lock:
        interrupted.loop.wake()
    assert interrupted.wait_until_asleep() > before


def test_a_signal_ends_an_idle_wait(interrupted: Engine) -> None:
    interrupted.offer()
    sent: list[float] = []

    def interrupt() -> None:
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    with later(0.1, interrupt), pytest.raises(KeyboardInterrupt):
        interrupted.lead(10.0)
    assert time.monotonic() - sent[0] < 0.2
