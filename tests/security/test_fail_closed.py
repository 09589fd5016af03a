"""Invariant: what goes wrong inside ends one connection, or the whole node loudly; it never opens a door or hangs.

Faults are put where a mechanism of somebody else would have them: in a channel that misbehaves, and in a timer.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rapini import AsyncNode, Event, Node, Origin, PeerInfo, PeerState, PeerStatus
from rapini.errors import LocalError, RapiniError
from rapini.node.channels import ChannelFactory
from rapini.secure.channel import Channel
from rapini.transport import Endpoint
from tests.integration.node.support import QUICK, Keys, Recorder, eventually, port_of, running
from tests.programs.events import Tick
from tests.security.raw import HELLO, REJECT, RawPeer, frame


class Grenade:
    """A channel that works until one of its methods is told not to."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.fails_in = ""

    def __getattr__(self, name: str) -> Any:
        if name == self.fails_in:
            raise ZeroDivisionError(f"a mistake in {name}")
        return getattr(self._channel, name)


class GrenadeFactory(ChannelFactory):
    """Gives them to whoever dials."""

    made: list[Grenade]

    def responder(self, endpoint: Endpoint) -> Any:
        grenade = Grenade(super().responder(endpoint))
        self.made.append(grenade)
        return grenade


@pytest.fixture
def grenades(monkeypatch: pytest.MonkeyPatch) -> list[Grenade]:
    """Those of the nodes made by the test, in the order of connections."""
    GrenadeFactory.made = []
    monkeypatch.setattr("rapini.node.node.ChannelFactory", GrenadeFactory)
    return GrenadeFactory.made


# -- a fault in one connection ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["receive", "outcomes", "send", "data_to_send", "is_established"])
@pytest.mark.parametrize("scheme", ["zmq+tls", "tcp+tls"])
def test_a_fault_costs_one_connection(keys: Keys, grenades: list[Grenade], scheme: str, where: str) -> None:
    """Lost with a code of its own, counted, and back by itself; the other peer and the loop notice nothing."""
    with (
        running(Node("server", **keys.of("server"))) as (server, seen),
        running(Node("honest", **keys.of("honest"))) as (honest, at_honest),
        running(Node("unlucky", **keys.of("unlucky"), **QUICK)) as (unlucky, _),
    ):
        server.subscribe("tick/")
        url = server.listen(f"{scheme}://127.0.0.1:0")
        for node in (honest, unlucky):
            node.subscribe("")
            node.connect(url)
        grenades[-1].fails_in = where
        for number in range(3):
            server.publish(Tick(sender="server", number=number))
            unlucky.publish(Tick(sender="unlucky", number=number))
            honest.publish(Tick(sender="honest", number=number))
            seen.wait_tick(number, "honest")
            at_honest.wait_tick(number, "server")
        _, status = seen.wait_status(PeerState.LOST, "unlucky")
        assert status.code == "internal_error"
        assert "ZeroDivisionError" in status.detail
        assert server.counters().rejected["internal_error"] == 1
        seen.wait_status(PeerState.RESUMED, "unlucky")
        eventually(lambda: any(peer.is_up and peer.epoch > 1 for peer in unlucky.peers()))
        unlucky.publish(Tick(sender="unlucky", number=99))
        seen.wait_tick(99, "unlucky")
        assert seen.states("honest") == ["up"]
        assert server.failure is None


@pytest.mark.parametrize("where", ["start", "receive", "outcomes", "data_to_send", "next_timer"])
def test_a_fault_in_every_handshake(keys: Keys, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Nobody comes in, the node stays, and what it has goes on."""

    class AllBad(GrenadeFactory):
        def responder(self, endpoint: Endpoint) -> Any:
            grenade = super().responder(endpoint)
            grenade.fails_in = where
            return grenade

    AllBad.made = []
    monkeypatch.setattr("rapini.node.node.ChannelFactory", AllBad)
    with running(Node("server", **keys.of("server"))) as (server, _), running(Node("c", **keys.of("c"))) as (client, _):
        port = port_of(server.listen("tcp+tls://127.0.0.1:0"))
        for _ in range(2):
            with pytest.raises(RapiniError):
                client.connect(f"tcp+tls://127.0.0.1:{port}", wait_s=2)
        assert server.failure is None
        assert server.counters().rejected["internal_error"] >= 2
        assert not server.peers()


# -- a fault in the loop ----------------------------------------------------------------------------------------------


def break_loop(node: Node) -> None:
    """Make the I/O thread run into an exception that belongs to no connection."""

    def timer(now: float) -> None:
        raise ZeroDivisionError(f"a mistake at {now:.0f}")

    loop = node._core.loop
    with loop.lock:
        loop.call_at(0.0, timer)


@pytest.fixture
def broken(keys: Keys) -> Iterator[tuple[Node, Node, Recorder]]:
    """A node with a peer, before its loop breaks."""
    with running(Node("other", **keys.of("other"))) as (other, at_other):
        node = Node("node", **keys.of("node"))
        try:
            node.connect(other.listen("zmq+tls://127.0.0.1:0"))
            yield node, other, at_other
        finally:
            began = time.monotonic()
            node.close()
            assert time.monotonic() - began < 1.0
            with pytest.raises(LocalError):
                node.publish(Tick(sender="node", number=1))


WAITERS: dict[str, Callable[[Node], object]] = {
    "events": lambda node: list(node.events()),
    "items": lambda node: list(node.items()),
    "wait_for": lambda node: node.wait_for("nobody", timeout_s=20),
    "connect": lambda node: node.connect("tcp+tls://127.0.0.1:9", wait_s=20),
}


@pytest.mark.parametrize("call", WAITERS)
def test_whoever_waits_is_told(broken: tuple[Node, Node, Recorder], call: str) -> None:
    """At once, with the error; not at the end of a timeout, or never."""
    node, _, _ = broken
    threading.Timer(0.2, break_loop, (node,)).start()
    began = time.monotonic()
    with pytest.raises(LocalError) as caught:
        WAITERS[call](node)
    assert time.monotonic() - began < 2.0
    assert caught.value.code == "node_failed"
    assert "ZeroDivisionError" in str(caught.value)


def test_a_failed_node_says_so_everywhere(broken: tuple[Node, Node, Recorder]) -> None:
    """Every call raises, the peer was reported lost, and it noticed at once too."""
    node, _, at_other = broken
    break_loop(node)
    eventually(lambda: node.failure is not None)
    assert at_other.wait_status(PeerState.LOST, "node", timeout_s=2.0)
    calls: list[Callable[[], object]] = [
        lambda: node.publish(Tick(sender="node", number=1)),
        lambda: node.subscribe("x"),
        lambda: node.unsubscribe("x"),
        node.flush,
        lambda: node.listen("tcp+tls://127.0.0.1:0"),
        lambda: node.connect("tcp+tls://127.0.0.1:9"),
        lambda: node.wait_for("other"),
    ]
    for call in calls:
        with pytest.raises(LocalError) as caught:
            call()
        assert caught.value.code == "node_failed"
    assert node.peers() == []
    items: list[object] = []
    with pytest.raises(LocalError):
        items.extend(node.events(with_status=True))
    last = items[-1]
    assert isinstance(last, PeerStatus)
    assert (last.state, last.peer, last.code) == (PeerState.LOST, "other", "node_failed")
    with pytest.raises(LocalError):
        list(node.events())


def test_a_blocked_publisher_is_told(keys: Keys) -> None:
    """Its peer takes nothing, so it waits for room that will never come."""
    with (
        running(Node("other", **keys.of("other"), window_bytes=1024)) as (other, at_other),
        Node("node", **keys.of("node"), overflow="block", send_queue_bytes=4096) as node,
    ):
        other.subscribe("tick/")
        at_other.pause()
        node.connect(other.listen("tcp+tls://127.0.0.1:0"))
        node.wait_for("other")
        threading.Timer(0.5, break_loop, (node,)).start()
        began = time.monotonic()
        ticks = [Tick(sender="node", number=number, pad=bytes(500)) for number in range(10_000)]
        with pytest.raises(LocalError) as caught:
            node.publish_many(ticks)
        assert caught.value.code == "node_failed"
        assert 0.3 < time.monotonic() - began < 3.0


def test_callbacks_and_asyncio_are_told(keys: Keys) -> None:
    """The status callback hears of the lost peers; the async iterator raises."""
    told: list[PeerStatus] = []

    async def play() -> None:
        async with AsyncNode("node", **keys.of("node"), on_status=told.append) as node:
            await node.connect(url)
            asyncio.get_running_loop().call_later(0.2, break_loop, node.node)
            with pytest.raises(LocalError):
                await anext(node.events())

    with running(Node("other", **keys.of("other"))) as (other, _):
        url = other.listen("tcp+tls://127.0.0.1:0")
        asyncio.run(asyncio.wait_for(play(), 10))
    assert (told[-1].state, told[-1].code) == (PeerState.LOST, "node_failed")


# -- the application's own mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_callbacks_that_raise(keys: Keys, error: type[BaseException]) -> None:
    """Whatever a callback raises, the next ones are called, and the next event comes."""
    heard: list[int] = []
    states: list[PeerState] = []

    def bad(event: Event, origin: Origin) -> None:
        raise error

    def good(event: Event, origin: Origin) -> None:
        assert isinstance(event, Tick)
        heard.append(event.number)

    def on_status(status: PeerStatus) -> None:
        states.append(status.state)
        raise error

    with (
        Node("server", **keys.of("server"), on_status=on_status) as server,
        Node("client", **keys.of("client")) as client,
    ):
        server.subscribe("tick/", callback=bad)
        server.subscribe("tick/", callback=good)
        client.connect(server.listen("tcp+tls://127.0.0.1:0"))
        for number in range(3):
            client.publish(Tick(sender="client", number=number))
            assert client.flush(2.0)
        eventually(lambda: heard == [0, 1, 2])
        assert PeerState.UP in states
    assert server.failure is None


def test_a_peer_that_comes_and_goes_does_not_occupy_the_hook(keys: Keys) -> None:
    """Nobody is asked about who is gone: a hundred impatient connections do not make an honest one wait for them."""
    asked: list[str] = []

    def admit(peer: PeerInfo) -> bool:
        asked.append(peer.name)
        time.sleep(0.5 if peer.name == "evil" else 0.0)
        return True

    with running(Node("server", **keys.of("server"), admit=admit)) as (server, _):
        url = server.listen("tcp+tls://127.0.0.1:0")
        for _ in range(100):
            with RawPeer("evil", port_of(url), keys.of("evil")) as evil:
                evil.hello()
        with running(Node("honest", **keys.of("honest"))) as (honest, _):
            began = time.monotonic()
            honest.connect(url)
            assert time.monotonic() - began < 2.0
        assert asked.count("evil") < 50


def test_an_answer_that_comes_too_late(keys: Keys) -> None:
    """The hook says yes after the peer is gone, and after the node is closed: nobody comes in, nothing breaks."""
    answer = threading.Event()
    asked = threading.Event()

    def admit(_peer: PeerInfo) -> bool:
        asked.set()
        return answer.wait(10)

    with running(Node("server", **keys.of("server"), admit=admit, handshake_timeout_s=0.5)) as (server, seen):
        port = port_of(server.listen("tcp+tls://127.0.0.1:0"))
        with RawPeer("late", port, keys.of("late")) as late:
            late.say(frame(HELLO, 2, 2, late.greeting()))
            assert asked.wait(5)
            _, status = seen.wait_status(PeerState.REJECTED, "late")
            assert status.code == "greeting_timeout"
            assert not any(kind != REJECT for kind, _ in late.heard)
            answer.set()
            time.sleep(0.2)
        assert not server.peers()
        assert "up" not in seen.states("late")
        assert server.failure is None
    asked.clear()
    answer.clear()
    with Node("server", **keys.of("server"), admit=admit) as server:
        port = port_of(server.listen("tcp+tls://127.0.0.1:0"))
        late = RawPeer("late", port, keys.of("late")).hello()
        assert asked.wait(5)
    answer.set()
    with late:
        assert late.ended()
    assert server.failure is None
