"""The end of a node, in every way; and the same node for asyncio programs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from rapini import AsyncNode, Event, Node, Origin, PeerState, PeerStatus
from rapini.errors import LocalError, PeerTimeoutError
from tests.integration.node.support import QUICK, SCHEMES, Keys, eventually, running
from tests.programs.child import ROOT
from tests.programs.events import Tick


def test_close_is_idempotent_and_leaves_nothing(keys: Keys) -> None:
    """Threads and descriptors are gone afterwards; closing again, from several threads at once, is nothing."""
    fds, threads = len(os.listdir("/proc/self/fd")), threading.active_count()  # noqa: PTH208
    for _ in range(5):
        node = Node("n", **keys.of("n"))
        for scheme in SCHEMES:
            node.listen(f"{scheme}://127.0.0.1:0")
        closing = [threading.Thread(target=node.close) for _ in range(3)]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join(10)
            assert not thread.is_alive()
        node.close()
        with pytest.raises(LocalError) as caught:
            node.listen("tcp+tls://127.0.0.1:0")
        assert caught.value.code == "closed"
        with pytest.raises(LocalError):
            node.subscribe("x")
    eventually(lambda: threading.active_count() <= threads, what="the end of its threads")
    assert len(os.listdir("/proc/self/fd")) <= fds  # noqa: PTH208


@pytest.mark.parametrize("overflow", ["drop_newest", "block"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_close_while_others_publish(keys: Keys, scheme: str, overflow: str) -> None:
    """Publishers get `closed`, none hangs, and every event is in the account."""
    with running(Node("receiver", **keys.of("receiver"))) as (receiver, seen):
        receiver.subscribe("tick/")
        options = {**keys.of("sender"), "overflow": overflow, "send_queue_bytes": 64 * 1024}
        sender = Node("sender", **options)
        sender.connect(receiver.listen(f"{scheme}://127.0.0.1:0"))
        published = [0] * 4
        codes: set[str] = set()

        def publish(index: int) -> None:
            while True:
                try:
                    sender.publish(Tick(sender=str(index), number=published[index]))
                except LocalError as exc:
                    codes.add(exc.code)
                    return
                published[index] += 1

        threads = [threading.Thread(target=publish, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        seen.wait(lambda item: not isinstance(item, PeerStatus))
        sender.close()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
        assert codes == {"closed"}
        counters = sender.counters()
        assert counters.total_published == sum(published)
        assert counters.total_published == sum(counters.acknowledged.values()) + counters.total_dropped + sum(
            counters.unrouted.values()
        )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_close_with_a_peer_that_reads_nothing(keys: Keys, scheme: str) -> None:
    """Even where publishing blocks, the end comes in bounded time, and what was not taken is counted."""
    with running(Node("receiver", **keys.of("receiver"), window_bytes=4096)) as (receiver, seen):
        receiver.subscribe("tick/")
        sender = Node("sender", **keys.of("sender"), overflow="block", send_queue_bytes=16 * 1024)
        sender.connect(receiver.listen(f"{scheme}://127.0.0.1:0"))
        seen.pause()
        count = 0

        def publish() -> None:
            nonlocal count
            try:
                while True:
                    sender.publish(Tick(sender="sender", number=count, pad=bytes(100)))
                    count += 1
            except LocalError:
                pass

        thread = threading.Thread(target=publish)
        thread.start()
        time.sleep(0.3)
        began = time.monotonic()
        sender.close(drain_timeout_s=0.5)
        assert time.monotonic() - began < 4.0
        thread.join(5)
        assert not thread.is_alive()
        counters = sender.counters()
        assert counters.total_dropped > 0
        accounted = sum(counters.acknowledged.values()) + counters.total_dropped + sum(counters.unrouted.values())
        assert counters.total_published == accounted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_a_waiting_program(keys: Keys, number: signal.Signals) -> None:
    """Ctrl-C reaches a program that waits in `events()`, and its peers hear a goodbye (SIGTERM: a loss)."""
    program = (
        "import sys, json\nfrom rapini import Node\n"
        "with Node('client', **json.loads(sys.argv[1])) as node:\n"
        "    node.subscribe('tick/')\n    print('ready', flush=True)\n"
        "    for event, origin in node.events(): pass\n"
    )
    with running(Node("server", **keys.of("server"))) as (server, seen):
        url = server.listen("zmq+tls://127.0.0.1:0")
        process = subprocess.Popen(
            [sys.executable, "-c", program, json.dumps({**keys.of("client"), "connect": [url]})],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            server.wait_for("client")
            process.send_signal(number)
            _, errors = process.communicate(timeout=10)
        finally:
            if process.poll() is None:
                process.kill()
        if number is signal.SIGINT:
            assert b"KeyboardInterrupt" in errors
            seen.wait_status(PeerState.LEFT, "client")
        else:
            seen.wait_status(PeerState.LOST, "client")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_async_node(keys: Keys, scheme: str) -> None:
    """The same over asyncio: connect, subscribe, publish, statuses in order, stop, close; the loop stays free."""

    async def story() -> tuple[list[int], list[str], int]:
        beats = 0

        async def heart() -> None:
            nonlocal beats
            while True:
                await asyncio.sleep(0.01)
                beats += 1

        beating = asyncio.create_task(heart())
        got: list[int] = []
        states: list[str] = []
        async with (
            AsyncNode("server", **keys.of("server")) as server,
            AsyncNode("client", **keys.of("client")) as client,
        ):
            await server.subscribe("tick/")
            url = server.listen(f"{scheme}://127.0.0.1:0")
            assert await client.connect(url) == "server"
            await server.wait_for("client")
            for number in range(500):
                client.publish(Tick(sender="client", number=number))
            await client.publish_async(Tick(sender="client", number=500))
            assert not await client.flush(0.1)  # nobody has taken them yet
            async for item in server.items():
                if isinstance(item, PeerStatus):
                    states.append(item.state.value)
                    continue
                assert isinstance(item, tuple)
                event = item[0]
                assert isinstance(event, Tick)
                got.append(event.number)
                if event.number == 500:
                    break
            with pytest.raises(PeerTimeoutError):
                await client.wait_for("nobody", timeout_s=0.2)
            assert [peer.name for peer in server.peers()] == ["client"]
            assert server.counters().total_received == 501
            await client.close()
            async for item in server.items():
                if isinstance(item, PeerStatus):
                    states.append(item.state.value)
                    if item.state is PeerState.LEFT:
                        break
        beating.cancel()
        return got, states, beats

    got, states, beats = asyncio.run(asyncio.wait_for(story(), 30))
    assert got == list(range(501))
    assert states == ["syncing", "up", "left"]
    assert beats > 10


@pytest.mark.parametrize("scheme", SCHEMES)
def test_async_iteration_ends_when_the_node_stops(keys: Keys, scheme: str) -> None:
    """`stop()` lets what has come run out, then the iteration ends; cancelling it ends it too."""

    async def story() -> int:
        async with (
            AsyncNode("server", **keys.of("server")) as server,
            AsyncNode("client", **keys.of("client")) as client,
        ):
            await server.subscribe("tick/")
            await client.connect(server.listen(f"{scheme}://127.0.0.1:0"))

            async def consume() -> int:
                return len([item async for item in server.events()])

            task = asyncio.create_task(consume())
            for number in range(100):
                client.publish(Tick(sender="client", number=number))
            assert await client.flush()
            await server.stop()
            count = await asyncio.wait_for(task, 5)

            async def consume_one() -> object:
                return await anext(client.events())

            never = asyncio.create_task(consume_one())
            await asyncio.sleep(0.05)
            never.cancel()
            with pytest.raises(asyncio.CancelledError):
                await never
            return count

    assert asyncio.run(asyncio.wait_for(story(), 20)) == 100


def test_peer_that_stays_away_is_counted(keys: Keys) -> None:
    """What is published while a subscriber is away is counted by topic as `peer_lost`."""
    with running(Node("server", **keys.of("server"))) as (server, seen):
        url = server.listen("tcp+tls://127.0.0.1:0")
        with running(Node("client", **keys.of("client"), **QUICK)) as (client, _):
            client.subscribe("tick/")
            client.connect(url)
            server.wait_for("client")
            (peer,) = server.peers()
            assert peer.subscriptions == ("tick/",)
            server.publish(Tick(sender="server", number=0))
            assert server.flush()
        seen.wait_status(PeerState.LEFT, "client")
        server.publish(Tick(sender="server", number=1))  # it left on purpose: nothing is owed to it
    counters = server.counters()
    assert counters.unrouted == {"tick/main": 1}
    assert counters.acknowledged == {"client": 1}


def test_a_callback_may_close_its_node(keys: Keys) -> None:
    """`close()` on the callback thread does not wait for that thread."""
    closed = threading.Event()
    with Node("server", **keys.of("server")) as server, Node("client", **keys.of("client")) as client:

        def close(event: Event, origin: Origin) -> None:
            server.close()
            closed.set()

        server.subscribe("tick/", callback=close)
        client.connect(server.listen("tcp+tls://127.0.0.1:0"))
        client.publish(Tick(sender="client", number=1))
        assert closed.wait(10)
