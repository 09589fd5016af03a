"""Threads start, drain and end in order; failures are data; a hung thread costs its time and no more."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from rapini.errors import LocalError, LogError
from rapini.threads import (
    LockedQueue,
    MessageThread,
    Overflow,
    Thread,
    ThreadManager,
    ThreadState,
)


class Adder(MessageThread[int]):
    """Adds up what it gets; holds while `gate` is closed, raises when it meets a -13."""

    def __init__(self, name: str = "adder", *, items: int = 1_000_000, gate: bool = True) -> None:
        queue = LockedQueue[int](max_items=items, max_bytes=10**9, overflow=Overflow.DROP_NEWEST)
        super().__init__(name, queue, max_batch_items=10, heartbeat_interval_s=0.01)
        self.gate = threading.Event()
        if gate:
            self.gate.set()
        self.total = 0
        self.calls: list[str] = []

    def on_start(self) -> None:
        self.calls.append("start")

    def on_batch(self, batch: list[int]) -> None:
        self.gate.wait(60)
        for item in batch:
            if item == -13:
                raise LogError("unlucky", "met a -13")
            self.total += item
            self.settle(1)

    def on_flush(self) -> None:
        self.calls.append("flush")

    def on_finish(self) -> None:
        self.calls.append("finish")


class Beater(Thread):
    def run(self) -> None:
        while not self.wait_for_stop_signal(0.005):
            self.beat()


def test_a_stop_works_off_everything_that_was_put_before_it() -> None:
    thread = Adder()
    thread.start()
    for _ in range(100):
        thread.put_batch(range(1, 11), 1)
    thread.signal_stop()
    assert thread.wait_stop(10)
    assert thread.total == 100 * 55
    assert thread.calls == ["start", "finish"]
    statistics = thread.statistics()
    assert (statistics.state, statistics.handled, statistics.lost) == (ThreadState.STOPPED, 1000, 0)
    assert thread.put_batch([1], 1) == 0
    assert thread.statistics().queue.refused == 1


def test_states_are_named_in_order() -> None:
    thread = Beater("beater")
    seen = [thread.state]
    assert thread.wait_stop(0)
    thread.start()
    seen.append(thread.state)
    with pytest.raises(LocalError) as raised:
        thread.start()
    assert raised.value.code == "already_started"
    thread.signal_stop()
    assert thread.wait_stop(10)
    assert [*seen, thread.state] == [ThreadState.NEW, ThreadState.RUNNING, ThreadState.STOPPED]


def test_a_heartbeat_ages_only_when_the_loop_is_stuck() -> None:
    manager = ThreadManager()
    lively, stuck = manager.adopt(Beater("lively")), manager.adopt(Adder("stuck", gate=False))
    stuck.put_batch([1], 1)
    time.sleep(0.4)
    assert manager.stalled(0.3) == ("stuck",)
    assert set(manager.heartbeats()) == {"lively", "stuck"}
    assert lively.heartbeat > stuck.heartbeat
    stuck.gate.set()
    assert manager.stop(10).is_clean


def test_a_failure_is_data_and_what_it_costs_is_exact() -> None:
    thread = Adder(gate=False)
    thread.start()
    thread.put_batch([1, 2, -13, 4, 5], 1)
    thread.put_batch([6] * 20, 1)
    thread.gate.set()
    assert thread.wait_stop(10)
    assert thread.failure is not None
    assert (thread.failure.code, thread.failure.detail) == ("unlucky", "met a -13")
    assert thread.state is ThreadState.FAILED
    assert thread.calls == ["start"]
    assert thread.put_batch([7, 8], 1) == 0
    statistics = thread.statistics()
    assert statistics.handled == 2
    assert statistics.lost == 23 + 2
    assert not thread.flush(5)


def test_a_foreign_exception_is_called_internal() -> None:
    class Broken(Thread):
        def run(self) -> None:
            raise ZeroDivisionError("oops")

    thread = Broken("broken")
    thread.start()
    assert thread.wait_stop(10)
    assert thread.failure is not None
    assert (thread.failure.code, thread.failure.detail) == ("internal", "ZeroDivisionError: oops")


def test_flush_waits_for_what_was_put_before_it() -> None:
    thread = Adder(gate=False)
    thread.start()
    thread.put_batch(range(1, 101), 1)
    assert not thread.flush(0.05)
    thread.gate.set()
    assert thread.flush(10)
    assert thread.total == 5050
    assert "flush" in thread.calls
    assert thread.flush(10)  # with nothing to do, and from sleep
    thread.signal_stop()
    assert thread.wait_stop(10)


def test_stages_are_stopped_in_order_and_drain_into_each_other() -> None:
    class Feeder(Adder):
        def on_finish(self) -> None:
            sink.put_batch([self.total], 1)

    manager = ThreadManager()
    sink = manager.adopt(Adder("sink"), stage=1)
    feeder = manager.adopt(Feeder("feeder"), stage=0)
    feeder.put_batch(range(1000), 1)
    report = manager.stop(10)
    assert report.is_clean
    assert set(report.stopped) == {"sink", "feeder"}
    assert sink.total == sum(range(1000))


def test_a_hung_thread_costs_its_share_of_the_deadline_and_the_others_drain() -> None:
    manager = ThreadManager()
    hung = manager.adopt(Adder("hung", gate=False), stage=0)
    good = manager.adopt(Adder("good"), stage=1)
    hung.put_batch(range(25), 1)
    good.put_batch(range(1000), 1)
    began = time.monotonic()
    report = manager.stop(0.6)
    assert time.monotonic() - began < 3
    assert (report.hung, report.stopped) == (("hung",), ("good",))
    assert report.abandoned == {"hung": 25}
    assert good.total == sum(range(1000))
    assert hung.statistics().lost == 25
    # It comes back too late: what was counted as lost is not counted as done as well.
    hung.gate.set()
    assert hung.wait_stop(10)
    assert hung.statistics().handled + hung.statistics().lost == 25
    assert "finish" not in hung.calls


def test_names_are_unique_among_the_living_and_nobody_joins_a_stop() -> None:
    manager = ThreadManager()
    first = manager.adopt(Adder("one"))
    with pytest.raises(LocalError) as raised:
        manager.adopt(Adder("one"))
    assert raised.value.code == "duplicate_thread"
    first.signal_stop()
    assert first.wait_stop(10)
    manager.adopt(Adder("one"))
    manager.stop(10)
    with pytest.raises(LocalError) as raised:
        manager.adopt(Adder("two"))
    assert raised.value.code == "stopping"


def test_a_hung_thread_does_not_keep_the_process() -> None:
    program = (
        "import threading\n"
        "from rapini.threads import Thread, ThreadManager\n"
        "class Hung(Thread):\n"
        "    def run(self): threading.Event().wait()\n"
        "manager = ThreadManager()\n"
        "manager.adopt(Hung('hung'))\n"
        "print(manager.stop(0.2).hung)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "('hung',)\n", "")
