"""The loop of a node's I/O thread: when it turns, and what a turn ends with."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rapini.node.loop import Loop


class Engine:
    """What a loop drives: notes its turns, and does in each what the test wants."""

    def __init__(self) -> None:
        self.loop = Loop("test", self.turn, lambda pause_s: None, hand_over=self.hand_over)
        self.turns: list[float] = []
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
