"""Who connects to whom: every combination of listening and dialling, and the three policies of reconnecting."""

from __future__ import annotations

import itertools
import socket
import threading
import time

import pytest

from rapini import Node, PeerState
from rapini.errors import LocalError, PeerTimeoutError
from tests.integration.node.support import QUICK, SCHEMES, Keys, Recorder, eventually, port_of, running
from tests.programs.events import Tick
from tests.programs.proxy import Proxy

MODES = ("listen", "connect", "both")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize(("left_mode", "right_mode"), list(itertools.product(MODES, MODES)))
@pytest.mark.parametrize("scheme", SCHEMES)
def test_nine_combinations(keys: Keys, scheme: str, left_mode: str, right_mode: str) -> None:
    """Those that can connect do, with exactly one session; dialling each other at the same moment included."""
    can_connect = (left_mode != "connect" and right_mode != "listen") or (
        right_mode != "connect" and left_mode != "listen"
    )
    urls = {name: f"{scheme}://127.0.0.1:{_free_port()}" for name in ("left", "right")}
    with (
        running(Node("left", **keys.of("left"), **QUICK)) as (left, at_left),
        running(Node("right", **keys.of("right"), **QUICK)) as (right, at_right),
    ):
        for node, mode in ((left, left_mode), (right, right_mode)):
            node.subscribe("tick/")
            if mode != "connect":
                node.listen(urls[node.name])
        barrier = threading.Barrier(2)

        def dial(node: Node, peer: str) -> None:
            barrier.wait(5)
            node.connect(urls[peer], wait_s=0)

        dialling = [
            threading.Thread(target=dial, args=(node, peer))
            for node, peer, mode in ((left, "right", left_mode), (right, "left", right_mode))
            if mode != "listen"
        ]
        if len(dialling) == 1:
            barrier = threading.Barrier(1)
        for thread in dialling:
            thread.start()
        for thread in dialling:
            thread.join(5)
        if not can_connect:
            with pytest.raises(PeerTimeoutError):
                left.wait_for("right", timeout_s=0.5)
            assert not right.peers()
            return
        left.wait_for("right")
        right.wait_for("left")
        left.publish(Tick(sender="left", number=1))
        right.publish(Tick(sender="right", number=2))
        at_right.wait_tick(1)
        at_left.wait_tick(2)
        # Dials that met an existing session stand by: nothing more comes up, nothing flaps.
        time.sleep(0.4)
        assert [peer.is_up for peer in left.peers()] == [True]
        assert [peer.is_up for peer in right.peers()] == [True]
        assert at_left.states("right") == ["up"]
        assert at_right.states("left") == ["up"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_simultaneous_dialling_again_and_again(keys: Keys, scheme: str) -> None:
    """Both dial at once, each time anew: whatever the race, one session, and it carries events both ways."""
    for _ in range(8):
        urls = {name: f"{scheme}://127.0.0.1:{_free_port()}" for name in ("left", "right")}
        with (
            running(Node("left", **keys.of("left"), **QUICK, listen=[urls["left"]])) as (left, at_left),
            running(Node("right", **keys.of("right"), **QUICK, listen=[urls["right"]])) as (right, at_right),
        ):
            left.subscribe("")
            right.subscribe("")
            threads = [
                threading.Thread(target=left.connect, args=(urls["right"],), kwargs={"wait_s": 0}),
                threading.Thread(target=right.connect, args=(urls["left"],), kwargs={"wait_s": 0}),
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(5)
            left.wait_for("right")
            right.wait_for("left")
            left.publish(Tick(sender="left", number=1))
            right.publish(Tick(sender="right", number=2))
            at_right.wait_tick(1)
            at_left.wait_tick(2)
            assert (at_left.states("right"), at_right.states("left")) == (["up"], ["up"])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_standby_dial_takes_over(keys: Keys, scheme: str) -> None:
    """Two addresses of one peer: the second dial stands by, and connects when the first one's way is gone."""
    with (
        running(Node("server", **keys.of("server"))) as (server, _),
        running(Node("client", **keys.of("client"), **QUICK)) as (client, seen),
    ):
        url = server.listen(f"{scheme}://127.0.0.1:0")
        with Proxy(port_of(url)) as proxy:
            assert client.connect(f"{scheme}://127.0.0.1:{proxy.port}") == "server"
            assert client.connect(url) == "server"
            assert len([peer for peer in client.peers() if peer.is_up]) == 1
            proxy.refuses = True
            proxy.reset()
            _, status = seen.wait_status(PeerState.RESUMED, "server")
            assert status.endpoint == url
    assert seen.states("server")[:3] == ["up", "lost", "resumed"]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("policy", ["auto", "manual", "never"])
def test_reconnect_policies(keys: Keys, scheme: str, policy: str) -> None:
    """`auto` comes back by itself, `manual` when told, `never` not at all."""
    with (
        running(Node("server", **keys.of("server"))) as (server, _),
        running(Node("client", **keys.of("client"), **QUICK, reconnect=policy)) as (client, seen),
        Proxy(port_of(server.listen(f"{scheme}://127.0.0.1:0"))) as proxy,
    ):
        url = f"{scheme}://127.0.0.1:{proxy.port}"
        client.connect(url)
        proxy.reset()
        seen.wait_status(PeerState.LOST, "server")
        if policy != "auto":
            time.sleep(0.5)  # several back-offs
            assert proxy.accepted == 1
        if policy == "never":
            with pytest.raises(LocalError) as caught:
                client.reconnect(url)
            assert caught.value.code == "never"
            return
        if policy == "manual":
            assert client.reconnect(url) == "server"
        seen.wait_status(PeerState.RESUMED, "server")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_manual_reconnect_may_be_tried_again(keys: Keys, scheme: str) -> None:
    """A `reconnect()` that finds nobody says so, and a later one works."""
    with running(Node("client", **keys.of("client"), **QUICK, reconnect="manual", connect_timeout_s=1)) as (client, _):
        with running(Node("server", **keys.of("server"))) as (server, _):
            url = server.listen(f"{scheme}://127.0.0.1:0")
            client.connect(url)
        eventually(lambda: not client.peers())
        with pytest.raises(PeerTimeoutError) as caught:
            client.reconnect(url, wait_s=2.0)
        assert caught.value.code == "refused"
        with running(Node("server", **keys.of("server"), listen=[url])):
            assert client.reconnect(url) == "server"


def test_connect_that_timed_out_leaves_nothing_behind(keys: Keys) -> None:
    """Who gave up waiting does not get a session later by surprise."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        with running(Node("client", **keys.of("client"), **QUICK)) as (client, seen):
            with pytest.raises(PeerTimeoutError) as caught:
                client.connect(f"tcp+tls://127.0.0.1:{port}", wait_s=0.3)
            assert caught.value.code == "timeout"
            connection, _ = mute.accept()
            with connection:
                connection.settimeout(5)
                while connection.recv(4096):
                    pass  # the ClientHello, then the end: it was not left hanging
            assert not seen.states("server")


def test_several_listeners_and_transports_at_once(keys: Keys) -> None:
    """One node, both transports, several peers."""
    with running(Node("server", **keys.of("server"))) as (server, seen):
        server.subscribe("")
        urls = [server.listen(f"{scheme}://127.0.0.1:0") for scheme in (*SCHEMES, *SCHEMES)]
        recorders: list[Recorder] = []
        nodes = [Node(f"c{i}", **keys.of(f"c{i}")) for i in range(len(urls))]
        try:
            for i, (node, url) in enumerate(zip(nodes, urls, strict=True)):
                recorders.append(Recorder(node))
                assert node.connect(url) == "server"
                node.publish(Tick(sender=node.name, number=i))
                seen.wait_tick(i)
        finally:
            for node in nodes:
                node.close()
        for i in range(len(urls)):
            seen.wait_status(PeerState.LEFT, f"c{i}")
