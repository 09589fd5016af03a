"""A consumer that waits takes the loop's turns: nothing breaks that the I/O thread would have kept whole.

Signals are real ones, sent to processes whose main thread consumes.
"""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rapini import Node, PeerState
from rapini.errors import LocalError
from tests.integration.node.support import QUICK, SCHEMES, Keys, Recorder, eventually, running
from tests.programs.child import Child
from tests.programs.events import Tick

PROMPT_S = 0.2


def are_prompt(delays_s: list[float]) -> bool:
    """Whether signals were answered at once, but for what a busy machine may have held up."""
    return sorted(delays_s)[len(delays_s) // 2] < PROMPT_S / 4 and max(delays_s) < 5 * PROMPT_S


@contextmanager
def publishing(node: Node, interval_s: float = 0.002, count: int = 1) -> Iterator[None]:
    """Publish ticks with ever greater numbers, a few at a time, on a thread."""
    is_over = threading.Event()

    def run() -> None:
        for number in itertools.count(0, count):
            if is_over.wait(interval_s):
                return
            node.publish_many([Tick(sender=node.name, number=number + at) for at in range(count)])

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(10)
        assert not thread.is_alive()


@contextmanager
def pair(keys: Keys, scheme: str, **options: Any) -> Iterator[tuple[Node, Node]]:
    """A publisher, and a subscriber that nobody consumes from yet."""
    with Node("source", **keys.of("source")) as source, Node("sink", **keys.of("sink"), **options) as sink:
        sink.subscribe("tick/")
        sink.connect(source.listen(f"{scheme}://127.0.0.1:0"))
        yield source, sink


def turners(node: Node) -> list[int]:
    """The threads that take the node's turns, from now on, in order."""
    loop, taken = node._core.loop, []
    inner = loop._turn

    def turn(now: float) -> float | None:
        taken.append(threading.get_ident())
        return inner(now)

    with loop.lock:
        loop._turn = turn
    return taken


@contextmanager
def child(keys: Keys, server: Node, scheme: str, **more: Any) -> Iterator[Child]:
    """A process whose main thread consumes what `server` publishes."""
    url = server.listen(f"{scheme}://127.0.0.1:0")
    options = {**keys.of("sink"), **QUICK}
    program = "tests.programs.leading_child"
    with Child("sink", options, ["tick/"], program=program, more={"connect": [url], **more}) as process:
        yield process


# -- who leads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
def test_while_events_are_few_their_consumer_takes_the_turns(keys: Keys, scheme: str) -> None:
    """All of them arrive, in order; nearly all turns are the consumer's."""
    with pair(keys, scheme) as (source, sink):
        taken = turners(sink)
        recorder = Recorder(sink)
        with publishing(source):
            recorder.wait_tick(500)
        source.flush()
        consumer = recorder._thread.ident
        assert taken.count(consumer or 0) > len(taken) / 2
        numbers = recorder.ticks()
        assert numbers == list(range(len(numbers)))


def test_under_load_the_io_thread_takes_the_turns(keys: Keys) -> None:
    """Then two threads do more than one."""
    with pair(keys, "tcp+tls") as (source, sink):
        recorder = Recorder(sink)
        with publishing(source):
            recorder.wait_tick(20)
        taken = turners(sink)
        for _ in range(20):
            source.publish_many([Tick(sender="source", number=1_000_000 + number) for number in range(2_000)])
        assert source.flush(20)
        assert taken.count(recorder._thread.ident or 0) < len(taken) / 2


def test_a_consumer_that_is_slow_delays_nothing_else(keys: Keys) -> None:
    """Heartbeats, newcomers and subscriptions do not wait for the application to come back."""
    with pair(keys, "zmq+tls", heartbeat_interval_s=0.2, heartbeat_timeout_s=1.0) as (source, sink):
        url = sink.listen("zmq+tls://127.0.0.1:0")
        recorder = Recorder(sink)
        with publishing(source):
            recorder.wait_tick(50)  # it leads by now
            recorder.pause()
            time.sleep(2.5)
            with Node("third", **keys.of("third")) as third:
                third.connect(url, wait_s=2)
                began = time.monotonic()
                sink.subscribe("other/", timeout_s=2)
                assert time.monotonic() - began < 1.0
            recorder.resume()
            recorder.wait_status(PeerState.LEFT, "third")
        assert recorder.states("source") == ["up"]


def test_a_node_that_is_idle_does_not_wake(keys: Keys) -> None:
    """After events have flowed the consumer leads, and the I/O thread sleeps until it leaves."""
    with pair(keys, "tcp+tls") as (source, sink):
        recorder = Recorder(sink)
        with publishing(source):
            recorder.wait_tick(100)
        source.flush()
        time.sleep(0.5)  # acknowledgements are told
        threads = [sink._core.loop._thread.native_id, recorder._thread.native_id]
        before = sum(switches(thread) for thread in threads)
        time.sleep(2.0)
        # A heartbeat a second in each direction, and what answers it.
        assert sum(switches(thread) for thread in threads) - before < 60


def switches(thread: int | None) -> int:
    """How often a thread has gone to sleep so far."""
    status = Path(f"/proc/self/task/{thread}/status").read_text()
    return int(status.partition("voluntary_ctxt_switches:")[2].split()[0])


def test_two_consumers_share_what_comes(keys: Keys) -> None:
    """One at a time is the rule; who breaks it loses nothing."""
    with pair(keys, "zmq+tls") as (source, sink):
        recorders = [Recorder(sink), Recorder(sink)]
        with publishing(source):
            eventually(lambda: max([*recorders[0].ticks(), *recorders[1].ticks(), 0]) > 300)
        source.flush()
        numbers = eventually_sorted(lambda: recorders[0].ticks() + recorders[1].ticks())
        assert numbers == list(range(len(numbers)))


def eventually_sorted(get: Callable[[], list[int]]) -> list[int]:
    """What there is once it grows no more."""
    count = -1
    while len(get()) != count:
        count = len(get())
        time.sleep(0.1)
    return sorted(get())


# -- the end of the wait ----------------------------------------------------------------------------------------------


def leading(source: Node, sink: Node) -> tuple[Recorder, list[int]]:
    """A recorder that leads and waits."""
    taken = turners(sink)
    recorder = Recorder(sink)
    with publishing(source):
        recorder.wait_tick(50)
        eventually(lambda: taken[-3:].count(recorder._thread.ident or 0) == 3)
    source.flush()
    eventually(lambda: not sink._core.loop._baton.is_free)
    return recorder, taken


@pytest.mark.parametrize("end", ["stop", "close"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_stop_and_close_end_the_wait_of_a_leader(keys: Keys, scheme: str, end: str) -> None:
    with pair(keys, scheme) as (source, sink):
        recorder, _ = leading(source, sink)
        with running(source):
            began = time.monotonic()
            getattr(sink, end)()
            recorder.join()
            assert time.monotonic() - began < 1.0


def test_a_timeout_ends_in_time(keys: Keys) -> None:
    with pair(keys, "zmq+tls") as (source, sink):
        with publishing(source):
            for _ in range(20):
                assert next(iter(sink.events(timeout_s=5.0)))
        source.flush()
        list(sink.events(timeout_s=0.1))
        for timeout_s in (0.0, 0.05, 0.3):
            began = time.monotonic()
            assert list(sink.events(timeout_s=timeout_s)) == []
            assert timeout_s <= time.monotonic() - began < timeout_s + 0.15


def test_a_status_that_comes_outside_a_turn_reaches_a_leader(keys: Keys) -> None:
    """Another thread reports it while the leader waits in `select()`."""
    with pair(keys, "zmq+tls") as (source, sink):
        recorder, _ = leading(source, sink)
        since, began = recorder.count, time.monotonic()
        sink.connect("tcp+tls://127.0.0.1:9", wait_s=0)
        at, _ = recorder.wait_status(PeerState.CONNECTING, since=since)
        assert at - began < 1.0


# -- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_a_fault_in_a_leaders_turn_is_the_end_of_the_node(
    keys: Keys, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """As on the I/O thread: the node has failed, the log says why, and the consumer is told with an error of ours."""
    with pair(keys, "tcp+tls") as (source, sink), running(source) as (_, at_source):
        caught: list[BaseException] = []
        by: list[int] = []

        def consume() -> None:
            try:
                for _ in sink.events():
                    pass
            except BaseException as failure:  # noqa: BLE001 - looked at below
                caught.append(failure)

        def timer(_now: float) -> None:
            by.append(threading.get_ident())
            raise error("a mistake")

        taken = turners(sink)
        consumer = threading.Thread(target=consume)
        consumer.start()
        with publishing(source):
            eventually(lambda: taken[-5:].count(consumer.ident or 0) == 5)
        eventually(lambda: not sink._core.loop._baton.is_free)
        with sink._core.lock:
            sink._core.loop.call_at(0.0, timer)
        consumer.join(5)
        assert by == [consumer.ident]
        assert [getattr(failure, "code", failure) for failure in caught] == ["node_failed"]
        assert sink.failure is not None
        assert error.__name__ in str(sink.failure)
        assert sink._core.loop.failure is not None
        assert isinstance(sink._core.loop.failure.error, error)
        assert any(record.message == "thread_failed" and record.exc_info for record in caplog.records)
        at_source.wait_status(PeerState.LOST, "sink", timeout_s=2.0)
        with pytest.raises(LocalError):
            sink.publish(Tick(sender="sink", number=1))


# -- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
def test_ctrl_c_ends_an_idle_wait_at_once_and_leaves_the_node_whole(keys: Keys, scheme: str) -> None:
    with running(Node("server", **keys.of("server"))) as (server, seen), child(keys, server, scheme) as sink:
        server.subscribe("tick/")
        with publishing(server):
            sink.wait_event(100)
        server.flush()
        delays: list[float] = []
        for _ in range(3):
            time.sleep(0.1)
            since, sent_at = sink.count, time.monotonic()
            sink.signal(signal.SIGINT)
            line = sink.wait(lambda line: "interrupted" in line, 5, since)
            delays.append(line["at"] - sent_at)
            assert (line["interrupted"], line["failure"]) == ("KeyboardInterrupt", "")
        assert are_prompt(delays)
        server.publish(Tick(sender="server", number=1_000_000))
        sink.wait_event(1_000_000)
        sink.call("leave")
        ended = sink.wait(lambda line: "ended" in line, 5)
        assert (ended["interruptions"], ended["is_handler_back"]) == (3, True)
        seen.wait_tick(-1, "sink")  # published after all that
        seen.wait_status(PeerState.LEFT, "sink")
    assert seen.states("sink") == ["up", "left"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_handlers_that_raise_again_and_again_break_no_turn(keys: Keys, scheme: str) -> None:
    """Three hundred times, anywhere in a stream of events: not one TLS record is cut, no peer is lost."""
    with (
        running(Node("server", **keys.of("server"))) as (server, seen),
        child(keys, server, scheme, handler="raise", says_events=False) as sink,
    ):
        server.subscribe("tick/")
        with publishing(server, interval_s=0.0005, count=2):
            delays: list[float] = []
            for number in range(300):
                since, sent_at = sink.count, time.monotonic()
                sink.signal(signal.SIGTERM if number % 2 else signal.SIGINT)
                line = sink.wait(lambda line: "interrupted" in line, 5, since)
                delays.append(line["at"] - sent_at)
                assert line["failure"] == ""
                time.sleep(0.001 * (number % 7))
            assert are_prompt(delays)
            usage = sink.call("usage")
            assert usage["leads"] > 200  # it did lead; else this shows nothing
            count = usage["count"]
            eventually(lambda: sink.call("usage")["count"] > count + 100)
        sink.call("leave")
        ended = sink.wait(lambda line: "ended" in line, 5)
        assert ended["interruptions"] == 300
        seen.wait_tick(-1, "sink")
        seen.wait_status(PeerState.LEFT, "sink")
    assert seen.states("sink") == ["up", "left"]
    assert [line["status"] for line in sink.lines if line.get("status") in {"lost", "rejected"}] == []


def test_a_handler_may_stop_the_node(keys: Keys) -> None:
    """It needs turns to be taken while it waits; they are, by the I/O thread."""
    with (
        running(Node("server", **keys.of("server"))) as (server, seen),
        child(keys, server, "zmq+tls", handler="stop") as sink,
    ):
        server.subscribe("tick/")
        with publishing(server):
            sink.wait_event(100)
            sink.signal(signal.SIGTERM)
            line = sink.wait(lambda line: "stopped_in" in line, 5)
            assert line["stopped_in"] < 1.0
        sink.wait(lambda line: "closed" in line, 5)
        seen.wait_status(PeerState.LEFT, "sink")
    assert seen.states("sink") == ["up", "left"]
