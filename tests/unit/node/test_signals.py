"""Signal handlers wait while the main thread leads; what the application has set is what it finds afterwards."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import pytest

from rapini.node.signals import SignalGuard, is_main_thread


class SignalledError(Exception):
    """What a handler of the application's raises."""


class Application:
    """Handlers that note what came."""

    def __init__(self) -> None:
        self.heard: list[int] = []
        self.wakes = 0

    def hear(self, number: int, _frame: FrameType | None) -> None:
        self.heard.append(number)

    def shout(self, number: int, _frame: FrameType | None) -> None:
        self.heard.append(number)
        raise SignalledError(number)

    def wake(self) -> None:
        self.wakes += 1


@pytest.fixture
def application() -> Iterator[Application]:
    """With SIGUSR1 and SIGUSR2 as they were before."""
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    yield Application()
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def test_the_thread_that_runs_handlers_is_the_main_one() -> None:
    assert is_main_thread()
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(is_main_thread()))
    thread.start()
    thread.join(5)
    assert found == [False]


def test_a_handler_is_put_off_until_it_can_break_nothing(application: Application) -> None:
    guard = SignalGuard()
    signal.signal(signal.SIGUSR1, application.shout)
    guard.retain()
    guard.close(application.wake)
    send(signal.SIGUSR1)
    assert (application.heard, application.wakes, guard.is_asked) == ([], 1, True)
    with pytest.raises(SignalledError):
        guard.open()
    assert application.heard == [signal.SIGUSR1]
    assert not guard.is_asked
    guard.open()  # once is enough
    assert application.heard == [signal.SIGUSR1]
    guard.release()


def test_between_two_events_handlers_run_at_once(application: Application) -> None:
    guard = SignalGuard()
    signal.signal(signal.SIGUSR1, application.shout)
    guard.retain()
    guard.close(application.wake)
    guard.open()
    with pytest.raises(SignalledError):
        send(signal.SIGUSR1)
    assert application.wakes == 0
    guard.release()


def test_all_handlers_run_though_one_raises(application: Application) -> None:
    guard = SignalGuard()
    signal.signal(signal.SIGUSR1, application.shout)
    signal.signal(signal.SIGUSR2, application.shout)
    guard.retain()
    guard.close(application.wake)
    send(signal.SIGUSR1)
    send(signal.SIGUSR2)
    with pytest.raises(SignalledError):
        guard.open()
    assert application.heard == [signal.SIGUSR1, signal.SIGUSR2]
    guard.release()


def test_ctrl_c_is_a_handler_like_others(application: Application) -> None:
    guard = SignalGuard()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    guard.retain()
    guard.close(application.wake)
    send(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        guard.open()
    guard.release()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_last_user_puts_everything_back(application: Application) -> None:
    guard = SignalGuard()
    signal.signal(signal.SIGUSR1, application.hear)
    before = [signal.getsignal(number) for number in sorted(signal.valid_signals())]
    guard.retain()
    guard.retain()
    guard.close(application.wake)
    guard.open()
    assert signal.getsignal(signal.SIGUSR1) != application.hear
    guard.release()
    assert signal.getsignal(signal.SIGUSR1) != application.hear
    guard.release()
    assert [signal.getsignal(number) for number in sorted(signal.valid_signals())] == before


def test_signals_without_a_handler_in_python_are_left_alone(application: Application) -> None:
    guard = SignalGuard()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    guard.retain()
    guard.close(application.wake)
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    guard.open()
    guard.release()
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN


def test_a_handler_set_meanwhile_is_put_off_too_and_kept(application: Application) -> None:
    guard = SignalGuard()
    guard.retain()
    guard.close(application.wake)
    guard.open()
    signal.signal(signal.SIGUSR1, application.hear)  # where there was none
    signal.signal(signal.SIGINT, application.hear)  # in the place of one
    try:
        guard.close(application.wake)
        send(signal.SIGUSR1)
        send(signal.SIGINT)
        assert application.heard == []
        guard.open()
        assert sorted(application.heard) == [signal.SIGINT, signal.SIGUSR1]
        guard.release()
        assert signal.getsignal(signal.SIGUSR1) == application.hear
        assert signal.getsignal(signal.SIGINT) == application.hear
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_handler_that_calls_the_one_before_it(application: Application) -> None:
    """The one before it is ours: it must reach the application's first one, once, and not itself."""
    guard = SignalGuard()
    signal.signal(signal.SIGUSR1, application.hear)
    guard.retain()
    guard.close(application.wake)
    guard.open()
    previous = signal.getsignal(signal.SIGUSR1)
    assert callable(previous)

    def chained(number: int, frame: FrameType | None) -> None:
        application.heard.append(-number)
        previous(number, frame)

    signal.signal(signal.SIGUSR1, chained)
    guard.close(application.wake)
    send(signal.SIGUSR1)
    assert application.heard == []
    guard.open()
    assert application.heard == [-signal.SIGUSR1, signal.SIGUSR1]
    guard.release()
    assert signal.getsignal(signal.SIGUSR1) is chained
    send(signal.SIGUSR1)
    assert application.heard[2:] == [-signal.SIGUSR1, signal.SIGUSR1]


def test_an_iterator_that_is_collected_on_another_thread_leaves_it_to_the_next(application: Application) -> None:
    guard = SignalGuard()
    signal.signal(signal.SIGUSR1, application.hear)
    guard.retain()
    guard.close(application.wake)
    guard.open()
    thread = threading.Thread(target=guard.release)
    thread.start()
    thread.join(5)
    send(signal.SIGUSR1)
    assert application.heard == [signal.SIGUSR1]
    guard.retain()
    guard.release()
    assert signal.getsignal(signal.SIGUSR1) == application.hear
