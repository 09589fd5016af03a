"""Publishing and subscribing: nothing missing at the start, order kept, queues bounded, encoded once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from rapini import Event, Node, PeerState, PeerStatus, RawEvent, UnknownEvent
from rapini.errors import EventError, LocalError
from tests.integration.node.support import QUICK, SCHEMES, Keys, Recorder, eventually, running
from tests.programs.child import Child
from tests.programs.events import Tick


@contextmanager
def _pair(keys: Keys, scheme: str, **sender_options: object) -> Iterator[tuple[Node, Node, Recorder]]:
    """A connected sender and receiver."""
    options: dict[str, object] = {**keys.of("sender"), **QUICK, **sender_options}
    with (
        running(Node("receiver", **keys.of("receiver"))) as (receiver, seen),
        running(Node("sender", **options)) as (sender, _),  # type: ignore[arg-type]
    ):
        sender.connect(receiver.listen(f"{scheme}://127.0.0.1:0"))
        receiver.wait_for("sender")
        yield sender, receiver, seen


@pytest.mark.parametrize("scheme", SCHEMES)
def test_subscription_is_in_force_when_subscribe_returns(keys: Keys, scheme: str) -> None:
    """No slow joiner: what is published at the next moment arrives, 200 times in a row."""
    with _pair(keys, scheme) as (sender, receiver, seen):
        for number in range(200):
            receiver.subscribe(f"round/{number}/")
            sender.publish(Tick(sender="sender", number=number), f"round/{number}/")
        seen.wait_tick(199)
        assert seen.ticks() == list(range(200))
        assert not sender.counters().unrouted


@pytest.mark.parametrize("scheme", SCHEMES)
def test_unsubscribed_topics_stop(keys: Keys, scheme: str) -> None:
    """After `unsubscribe` returns nothing of it comes any more, and the sender counts it as unrouted."""
    with _pair(keys, scheme) as (sender, receiver, seen):
        receiver.subscribe("a/", "b/")
        sender.publish(Tick(sender="sender", number=1), "a/x")
        seen.wait_tick(1)
        receiver.unsubscribe("a/")
        sender.publish(Tick(sender="sender", number=2), "a/x")
        sender.publish(Tick(sender="sender", number=3), "b/x")
        seen.wait_tick(3)
        assert seen.ticks() == [1, 3]
        assert sender.counters().unrouted == {"a/x": 1}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_eight_threads_publish_and_nothing_is_lost(keys: Keys, scheme: str) -> None:
    """With `overflow="block"` through a small queue: each thread's order is kept, and every event arrives."""
    count = 4000
    with _pair(keys, scheme, overflow="block", send_queue_bytes=64 * 1024) as (sender, receiver, seen):
        receiver.subscribe("thread/")

        def publish(thread: int) -> None:
            for number in range(count):
                sender.publish(Tick(sender=str(thread), number=number, pad=bytes(50)), f"thread/{thread}")

        threads = [threading.Thread(target=publish, args=(thread,)) for thread in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(50)
            assert not thread.is_alive()
        assert sender.flush(20)
        eventually(lambda: len(seen.ticks()) == 8 * count)
        for index in range(8):
            assert seen.ticks(str(index)) == list(range(count))
        assert sender.counters().total_dropped == 0
        assert sender.counters().acknowledged == {"receiver": 8 * count}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_stopped_peer_delays_nobody_and_its_queue_is_bounded(keys: Keys, scheme: str) -> None:
    """One of two subscribers is SIGSTOPped: its queue stays within its bound, drops are counted, the other flies."""
    bound = 256 * 1024
    with (
        running(Node("sender", **keys.of("sender"), send_queue_bytes=bound)) as (sender, _),
        running(Node("quick", **keys.of("quick"))) as (quick, seen),
    ):
        url = sender.listen(f"{scheme}://127.0.0.1:0")
        quick.subscribe("tick/")
        quick.connect(url)
        with Child("stopped", {**keys.of("stopped"), **QUICK, "connect": [url]}, ["tick/"]) as stopped:
            sender.wait_for("stopped", "quick")
            stopped.freeze()
            end = time.monotonic() + 2.0
            largest, number, delays = 0, 0, []
            while time.monotonic() < end:
                at = time.monotonic()
                for _ in range(50):
                    sender.publish(Tick(sender="sender", number=number, pad=bytes(200)))
                    number += 1
                delays.append(seen.wait_tick(number - 1, since=max(0, seen.count - 100)) - at)
                largest = max([largest, *(p.queued_bytes for p in sender.peers() if p.name == "stopped")])
            delays.sort()
            assert bound * 0.8 < largest <= bound
            assert delays[len(delays) // 2] < 0.05, delays[len(delays) // 2]
            dropped = sender.counters().dropped
            assert dropped["stopped"]["queue_full"]["tick/main"] > 0
            assert not dropped.get("quick")
        assert seen.ticks() == list(range(number))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_slow_reader_holds_no_more_than_its_credit(keys: Keys, scheme: str) -> None:
    """A receiver that does not consume: no more is under way to it than its window; then everything arrives."""
    window = 32 * 1024
    with (
        running(Node("receiver", **keys.of("receiver"), window_bytes=window)) as (receiver, seen),
        running(Node("sender", **keys.of("sender"))) as (sender, _),
    ):
        receiver.subscribe("tick/")
        sender.connect(receiver.listen(f"{scheme}://127.0.0.1:0"))
        seen.pause()
        for number in range(2000):
            sender.publish(Tick(sender="sender", number=number, pad=bytes(100)))
        assert not sender.flush(0.5)
        received = receiver.counters().total_received
        assert 0 < received * 110 < 2 * window
        seen.resume()
        assert sender.flush(10)
        eventually(lambda: len(seen.ticks()) == 2000)
        assert seen.ticks() == list(range(2000))
        assert sender.counters().total_dropped == 0


def test_encoded_once_for_ten_subscribers(keys: Keys) -> None:
    """The number of encodings does not depend on the number of receivers."""
    calls: dict[int, int] = {}
    for count in (1, 10):
        with running(Node("sender", **keys.of("sender"))) as (sender, _), ExitStack() as stack:
            url = sender.listen("tcp+tls://127.0.0.1:0")
            recorders = []
            for index in range(count):
                name = f"c{index}"
                node, seen = stack.enter_context(running(Node(name, **keys.of(name))))
                node.subscribe("tick/")
                node.connect(url)
                recorders.append(seen)
            sender.wait_for(*(f"c{index}" for index in range(count)))
            for number in range(20):
                sender.publish(Tick(sender="sender", number=number))
                sender.flush()
            for seen in recorders:
                seen.wait_tick(19)
                assert seen.ticks() == list(range(20))
            calls[count] = sender.counters().encode_calls
    assert calls == {1: 20, 10: 20}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_many_topics_of_one_publisher(keys: Keys, scheme: str) -> None:
    """Thousands of topics, some of them wanted: exactly those arrive, in order."""
    with _pair(keys, scheme) as (sender, receiver, seen):
        receiver.subscribe("t/1", "t/25")
        for number in range(3000):
            sender.publish(Tick(sender="sender", number=number), f"t/{number}")
        sender.publish(Tick(sender="sender", number=9999), "t/1")
        seen.wait_tick(9999)
        wanted = [n for n in range(3000) if str(n).startswith(("1", "25"))]
        assert seen.ticks() == [*wanted, 9999]
        assert sum(sender.counters().unrouted.values()) == 3000 - len(wanted)


def test_events_of_unknown_types_and_raw_bytes_pass_through(keys: Keys) -> None:
    """A relay that does not know a type hands it on intact."""
    with (
        running(Node("relay", **keys.of("relay"))) as (relay, at_relay),
        running(Node("source", **keys.of("source"))) as (source, _),
        running(Node("sink", **keys.of("sink"))) as (sink, at_sink),
    ):
        url = relay.listen("zmq+tls://127.0.0.1:0")
        relay.subscribe("in/")
        sink.subscribe("out/")
        source.connect(url)
        sink.connect(url)
        relay.wait_for("source", "sink")
        unknown = UnknownEvent(type_name="NobodyKnows", encoded=b"\x93\x01\xa1x\xc4\x02\x00\xff")
        raw = RawEvent(data=bytes(range(256)))
        for event in (unknown, raw):
            source.publish(event, "in/x")
            _, item = at_relay.wait(lambda i, event=event: not isinstance(i, PeerStatus) and i[0] == event)  # type: ignore[misc]
            relay.publish(item[0], "out/x")
            at_sink.wait(lambda i, event=event: not isinstance(i, PeerStatus) and i[0] == event)  # type: ignore[misc]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_large_and_oversize_events(keys: Keys, scheme: str) -> None:
    """Seven megabytes cross; what is larger than half a frame costs that event, counted, and not the connection."""
    with _pair(keys, scheme, send_queue_bytes=64 * 1024 * 1024) as (sender, receiver, seen):
        receiver.subscribe("tick/")
        sender.publish(Tick(sender="sender", number=1, pad=bytes(7 * 1024 * 1024)))
        seen.wait_tick(1)
        sender.publish(Tick(sender="sender", number=2, pad=bytes(9 * 1024 * 1024)))
        sender.publish(Tick(sender="sender", number=3))
        seen.wait_tick(3)
        assert seen.ticks() == [1, 3]
        assert sender.counters().not_encodable == {"tick/main": 1}
        assert seen.states("sender") == ["up"]


def test_wrong_use_is_an_error_at_once(keys: Keys) -> None:
    """No topic, a bad topic, not an event, a wrong field in development mode, a closed node."""

    class Homeless(Event):
        x: int

    with running(Node("sender", **keys.of("sender"), debug=True)) as (sender, _):
        for code, kind, event, topic in (
            ("no_topic", LocalError, Homeless(1), None),
            ("bad_topic", EventError, Homeless(1), "a\nb"),
            ("not_an_event", LocalError, "text", "a/"),
            ("wrong_type", EventError, Tick(sender="x", number="seven"), None),  # type: ignore[arg-type]
        ):
            with pytest.raises(kind) as caught:
                sender.publish(event, topic)  # type: ignore[arg-type]
            assert caught.value.code == code
        sender.publish(Tick(sender="x", number=7))
    with pytest.raises(LocalError) as closed:
        sender.publish(Tick(sender="x", number=7))
    assert closed.value.code == "closed"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_callbacks_and_iterator_side_by_side(keys: Keys, scheme: str) -> None:
    """A callback that fails harms nobody; statuses come in order with the events."""
    got: list[int] = []
    states: list[PeerState] = []
    with (
        Node("receiver", **keys.of("receiver"), on_status=lambda status: states.append(status.state)) as receiver,
        running(Node("sender", **keys.of("sender"))) as (sender, _),
    ):

        def callback(event: Event, _origin: object) -> None:
            assert isinstance(event, Tick)
            got.append(event.number)
            if event.number == 3:
                raise ValueError("the application's own mistake")

        receiver.subscribe("tick/", callback=callback)
        sender.connect(receiver.listen(f"{scheme}://127.0.0.1:0"))
        for number in range(10):
            sender.publish(Tick(sender="sender", number=number))
        eventually(lambda: len(got) == 10)
        assert got == list(range(10))
        assert states[-1] is PeerState.UP
