"""Relays between real nodes over TLS: everything arrives once, from whom it came first, and no loop turns for ever."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from rapini import EventRun, Gap, Node, Origin, UnknownEvent
from rapini.codec import Codec, join_runs
from rapini.errors import ConfigError
from rapini.events.delivery import Delivery
from tests.integration.node.support import QUICK, SCHEMES, Keys, Recorder, eventually
from tests.programs.events import Canary, Tick


class Net:
    """Nodes by name, each with a recorder; links between them."""

    def __init__(self, keys: Keys, scheme: str) -> None:
        self._keys = keys
        self._scheme = scheme
        self._stack = ExitStack()
        self.nodes: dict[str, Node] = {}
        self.seen: dict[str, Recorder] = {}
        self._urls: dict[str, str] = {}

    def add(self, *names: str, **options: Any) -> None:
        """New nodes."""
        for name in names:
            node = Node(name, **self._keys.of(name), **QUICK, **options)
            self._stack.callback(node.close, drain_timeout_s=0.5)
            self.nodes[name] = node
            self.seen[name] = Recorder(node)
            self._urls[name] = node.listen(f"{self._scheme}://127.0.0.1:0")

    def link(self, *path: str) -> None:
        """Each dials the next."""
        for one, other in pairwise(path):
            self.nodes[one].connect(self._urls[other])

    def close(self) -> None:
        for recorder in self.seen.values():
            recorder.resume()
        self._stack.close()
        for recorder in self.seen.values():
            recorder.join()

    def publish(self, name: str, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.nodes[name].publish(Tick(name, number))

    def origin(self, name: str) -> Origin:
        """Of the first event that a node saw."""
        _, (_, origin) = self.seen[name].wait(lambda item: isinstance(item, tuple))
        assert isinstance(origin, Origin)
        return origin


@contextmanager
def net(keys: Keys, scheme: str = "tcp+tls") -> Iterator[Net]:
    made = Net(keys, scheme)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_chain_of_relays(keys: Keys, scheme: str) -> None:
    with net(keys, scheme) as n:
        n.add("sensor", "logger")
        n.add("m1", "m2", relay=["tick/"])
        n.nodes["logger"].subscribe("tick/", "canary")
        n.link("sensor", "m1", "m2", "logger")
        n.publish("sensor", range(500))
        n.nodes["sensor"].publish(Canary("logger", 1))
        n.seen["logger"].wait_tick(499)
        assert n.seen["logger"].ticks() == list(range(500))
        origin = n.origin("logger")
        assert (origin.node, origin.peer, origin.hops, origin.topic) == ("sensor", "m2", 2, "tick/main")
        assert str(origin) == "sensor"
        for name in ("m1", "m2"):
            counters = n.nodes[name].counters()
            assert counters.relayed == {"tick/main": 500}
            assert counters.relay_cut == {}
            assert counters.encode_calls == 0  # neither decoded nor encoded
            assert n.seen[name].ticks() == []  # it did not ask for them itself
        assert n.nodes["sensor"].counters().unrouted == {"canary": 1}


def test_an_event_keeps_its_name_for_good(keys: Keys) -> None:
    """(origin, stream, number) is the same by every way."""
    with net(keys) as n:
        n.add("m1", relay=["tick/"])
        with (
            Node("sensor", **keys.of("sensor")) as sensor,
            Node("near", **keys.of("near")) as near,
            Node("far", **keys.of("far")) as far,
        ):
            near.subscribe("tick/")
            far.subscribe("tick/")
            sensor.connect(near.listen("tcp+tls://127.0.0.1:0"))
            sensor.connect(n._urls["m1"])
            n.nodes["m1"].connect(far.listen("tcp+tls://127.0.0.1:0"))
            sensor.publish(Canary("nobody", 1))
            for number in range(100):
                sensor.publish(Tick("sensor", number))
            names = []
            for node in (near, far):
                got: dict[int, tuple[str, bytes, int]] = {}
                for run in node.items(timeout_s=5):
                    if not isinstance(run, EventRun):
                        continue
                    for at, event in enumerate(run.events):
                        assert isinstance(event, Tick)
                        got[event.number] = (run.origin.node, run.stream, run.first_sequence + at)
                    if 99 in got:
                        break
                names.append(got)
            assert names[0] == names[1]
            assert [name[2] for name in names[0].values()] == list(range(1, 101))
            assert {name[:2] for name in names[0].values()} == {("sensor", bytes(sensor._core.peers.incarnation))}


def test_two_ways_bring_everything_once(keys: Keys) -> None:
    with net(keys) as n:
        n.add("sensor", "logger")
        n.add("left", "right", relay=["tick/"])
        n.nodes["logger"].subscribe("tick/")
        n.link("sensor", "left", "logger")
        n.link("sensor", "right", "logger")
        n.link("sensor", "logger")  # and a third, the direct one
        n.publish("sensor", range(2000))
        n.nodes["sensor"].flush()
        logger = n.nodes["logger"]
        eventually(lambda: logger.counters().total_received == 6000)
        eventually(lambda: sum(logger.counters().repeated.values()) == 4000)
        assert sorted(n.seen["logger"].ticks()) == list(range(2000))
        assert n.nodes["left"].counters().relay_cut == {}


def test_one_way_may_break(keys: Keys) -> None:
    with net(keys) as n:
        n.add("sensor", "logger")
        n.add("left", "right", relay=["tick/"], delivery={"tick/": "reliable"})
        n.nodes["logger"].subscribe("tick/")
        n.link("sensor", "left", "logger")
        n.link("sensor", "right", "logger")
        n.publish("sensor", range(100))
        n.seen["logger"].wait_tick(99)
        n.nodes["left"].close(drain_timeout_s=0)
        n.publish("sensor", range(100, 200))
        n.seen["logger"].wait_tick(199)
        assert n.seen["logger"].ticks() == list(range(200))


def test_a_ring_does_not_turn(keys: Keys) -> None:
    with net(keys) as n:
        n.add("sensor")
        n.add("r1", "r2", "r3", relay=["tick/"])
        for name in ("r1", "r2", "r3"):
            n.nodes[name].subscribe("tick/")
        n.link("r1", "r2", "r3", "r1")
        n.link("sensor", "r1")
        n.publish("sensor", range(50))
        n.publish("r2", range(50))
        for name, senders in (("r1", ("sensor", "r2")), ("r2", ("sensor",)), ("r3", ("sensor", "r2"))):
            for sender in senders:
                n.seen[name].wait_tick(49, sender)
        relays = [n.nodes[name] for name in ("r1", "r2", "r3")]
        for relay in relays:
            relay.flush()
        settled = [relay.counters().received for relay in relays]
        eventually(lambda: settled == [relay.counters().received for relay in relays])
        for name, senders in (("r1", ("sensor", "r2")), ("r2", ("sensor",)), ("r3", ("sensor", "r2"))):
            for sender in senders:
                assert n.seen[name].ticks(sender) == list(range(50)), (name, sender)
        assert n.seen["r2"].ticks("r2") == []
        cut = [relay.counters().relay_cut for relay in relays]
        assert sum(each.get("duplicate", 0) for each in cut) > 0
        assert all(set(each) <= {"duplicate"} for each in cut)
        assert sum(sum(relay.counters().received.values()) for relay in relays) <= 50 * (
            7 + 6
        )  # by each link once each way


def test_own_events_that_come_back_are_dropped(keys: Keys) -> None:
    """A relay that is told to send everything back would; the publisher does not take it."""
    with net(keys) as n:
        n.add("r1", "r2", relay=["tick/"])
        n.nodes["r1"].subscribe("tick/")
        n.link("r1", "r2")
        r2 = n.nodes["r2"]
        run = r2._core.publisher.codec.split_batch_untrusted(_batch(r2, "r1", 7))[0][0]
        with r2._lock:
            session = r2._core.peers.sessions["r1"]
            encoded = r2._core.publisher.codec.forward_run(run)
            r2._core.publisher.relay([(encoded, (session,))], Delivery.BEST_EFFORT, 0.0)
        eventually(lambda: n.nodes["r1"].counters().relay_cut == {"own": 1})
        eventually(lambda: n.nodes["r1"].counters().repeated == {"r2": 1})
        assert n.seen["r1"].ticks() == []


def _batch(node: Node, origin: str, first: int) -> bytes:
    """A relayed batch of one tick, as another node would have made it."""
    del node
    codec = Codec()
    runs, _ = codec.encode_run("tick/main", [Tick(origin, first)], first)
    (run,), _ = codec.split_batch_untrusted(join_runs(runs))
    return join_runs([codec.forward_run(msgspec.structs.replace(run, origin=origin, stream=bytes(16), hops=1))])


def test_the_hop_limit_ends_a_long_way(keys: Keys) -> None:
    with net(keys) as n:
        n.add("sensor", "logger")
        n.add("m1", "m2", "m3", relay=["tick/"], hop_limit=2)
        n.nodes["m3"].subscribe("tick/")
        n.nodes["logger"].subscribe("tick/")
        n.link("sensor", "m1", "m2", "m3", "logger")
        n.publish("sensor", range(10))
        n.seen["m3"].wait_tick(9)
        assert n.origin("m3").hops == 2
        assert n.nodes["m3"].counters().relay_cut == {"hop_limit": 10}
        assert n.seen["logger"].ticks() == []


def test_the_class_goes_with_the_event(keys: Keys) -> None:
    """Reliable at the sensor, so reliable everywhere: a relay that knows nothing of it resumes without a loss."""
    with net(keys) as n:
        n.add("sensor", delivery={"tick/": "reliable"})
        n.add("m1", relay=["tick/"])
        n.add("logger")
        n.nodes["logger"].subscribe("tick/")
        n.link("sensor", "m1", "logger")
        for round_ in range(5):
            n.publish("sensor", range(round_ * 100, round_ * 100 + 100))
            with n.nodes["m1"]._lock:
                for record in list(n.nodes["m1"]._core.peers.records.values()):
                    record.connection.abort()
        n.seen["logger"].wait_tick(499)
        assert n.seen["logger"].ticks() == list(range(500))
        assert n.nodes["m1"].counters().dropped.get("logger", {}) == {}


def test_a_full_relay_tells_the_gap_downstream(keys: Keys) -> None:
    with net(keys) as n:
        n.add("sensor", max_batch_events=4)
        n.add("m1", relay=["tick/"], send_queue_bytes=20_000)
        n.add("logger", window_bytes=10_000)
        n.nodes["logger"].subscribe("tick/")
        n.link("sensor", "m1", "logger")
        n.seen["logger"].pause()
        for number in range(300):
            n.nodes["sensor"].publish(Tick("sensor", number, bytes(1000)))
        n.nodes["sensor"].flush()
        eventually(lambda: n.nodes["m1"].counters().relayed.get("tick/main", 0) == 300)
        n.seen["logger"].resume()
        n.publish("sensor", [300])
        n.seen["logger"].wait_tick(300)
        gaps = [item for _, item in n.seen["logger"].items if isinstance(item, Gap)]
        assert {(gap.peer, gap.reason) for gap in gaps} == {("m1", "queue_full")}
        assert sum(gap.count for gap in gaps) + len(n.seen["logger"].ticks()) == 301
        assert n.nodes["sensor"].counters().total_dropped == 0


def test_what_was_lost_upstream_is_told_on(keys: Keys) -> None:
    with net(keys) as n:
        n.add("sensor", send_queue_bytes=4_000, max_batch_events=4)
        n.add("m1", "m2", relay=["tick/"])
        n.add("logger")
        n.nodes["logger"].subscribe("tick/")
        n.link("sensor", "m1", "m2", "logger")
        sensor = n.nodes["sensor"]
        for number in range(300):
            sensor.publish(Tick("sensor", number, bytes(2000)))
        sensor.flush()
        dropped = sensor.counters().total_dropped
        assert dropped > 0
        eventually(lambda: len(n.seen["logger"].ticks()) == 300 - dropped)
        eventually(lambda: n.nodes["logger"].counters().gaps.get("m2", {}) == {"upstream_2": dropped})
        assert n.nodes["m1"].counters().gaps == {"sensor": {"queue_full": dropped}}
        assert n.nodes["m2"].counters().gaps == {"m1": {"upstream_1": dropped}}


def test_a_relay_joins_and_everybody_behind_it_hears(keys: Keys) -> None:
    """It subscribes by itself, whenever and in whichever direction the connections come."""
    with net(keys) as n:
        n.add("sensor", "logger")
        n.add("m1", relay=["tick/"])
        n.link("sensor", "m1")
        assert [peer.subscriptions for peer in n.nodes["sensor"].peers()] == [("tick/",)]
        n.nodes["m1"].subscribe("canary")
        assert [peer.subscriptions for peer in n.nodes["sensor"].peers()] == [("tick/", "canary")]
        n.nodes["m1"].unsubscribe("canary")
        assert [peer.subscriptions for peer in n.nodes["sensor"].peers()] == [("tick/",)]
        n.link("logger", "m1")
        n.nodes["logger"].subscribe("tick/")
        n.publish("sensor", range(10))
        n.seen["logger"].wait_tick(9)


def test_what_does_not_fit_its_type_is_found_by_the_receiver_alone(keys: Keys) -> None:
    """The relay never looks."""
    with net(keys) as n:
        n.add("sensor", "logger")
        n.add("m1", relay=["odd/"])
        n.nodes["logger"].subscribe("odd/")
        n.link("sensor", "m1", "logger")
        n.nodes["sensor"].publish(UnknownEvent("Tick", b"\x91\xc3"), topic="odd/x")
        n.nodes["sensor"].publish(UnknownEvent("No.Such", b"\x91\xc3"), topic="odd/y")
        _, (event, origin) = n.seen["logger"].wait(lambda item: isinstance(item, tuple))
        assert (event, origin.node) == (UnknownEvent("No.Such", b"\x91\xc3"), "sensor")
        assert sum(n.nodes["logger"].counters().bad_events.values()) == 1
        assert n.nodes["m1"].counters().bad_events == {}


@pytest.mark.parametrize("options", [{"relay": ["a\nb"]}, {"relay": ["x" * 300]}, {"hop_limit": 0}])
def test_settings_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Node("n", **options)
