"""Real processes are killed, stopped and continued: the right status, in time, in order."""

from __future__ import annotations

import time

import pytest

from rapini import Node, PeerState
from tests.integration.node.support import QUICK, SCHEMES, Keys, running
from tests.programs.child import Child
from tests.programs.events import Tick

pytestmark = pytest.mark.parametrize("scheme", SCHEMES)

SILENT_S = 3.5
"""A peer is lost at most this long after it froze."""


def test_killed_is_lost_at_once_and_restarted_is_new(keys: Keys, scheme: str) -> None:
    """SIGKILL: the kernel closes the connection, so nothing has to time out."""
    with running(Node("server", **keys.of("server"))) as (server, seen):
        server.subscribe("tick/")
        url = server.listen(f"{scheme}://127.0.0.1:0")
        options = {**keys.of("client"), **QUICK, "connect": [url]}
        with Child("client", options) as client:
            client.wait_status("up")
            client.call("publish", first=0, count=50)
            seen.wait_tick(49)
            began = time.monotonic()
            client.kill()
            at, status = seen.wait_status(PeerState.LOST, "client")
            assert at - began < 1.0
            assert status.epoch == 1
            assert status.code in {"closed", "reset"}
        with Child("client", options) as client:
            client.wait_status("up")
            client.call("publish", first=50, count=50)
            seen.wait_tick(99)
    assert seen.states("client")[:3] == ["up", "lost", "restarted"]
    assert seen.ticks() == list(range(100))
    epochs = [item[1].epoch for _, item in seen.items if isinstance(item, tuple)]
    assert epochs == [1] * 50 + [2] * 50


def test_frozen_is_lost_in_time_and_resumed_when_it_goes_on(keys: Keys, scheme: str) -> None:
    """SIGSTOP: nothing closes, so only silence tells; the same process comes back, and both sides say so."""
    with running(Node("server", **keys.of("server"))) as (server, seen):
        server.subscribe("tick/")
        url = server.listen(f"{scheme}://127.0.0.1:0")
        with Child("client", {**keys.of("client"), **QUICK, "connect": [url]}) as client:
            client.wait_status("up")
            client.call("publish", first=0, count=10)
            seen.wait_tick(9)
            frozen_at = client.freeze()
            at, status = seen.wait_status(PeerState.LOST, "client")
            assert status.code == "silent"
            assert 1.9 < at - frozen_at <= SILENT_S
            since, thawed_at = seen.count, time.monotonic()
            client.thaw()
            at, status = seen.wait_status(PeerState.RESUMED, "client", since=since)
            assert status.epoch == 2
            assert at - thawed_at < 3
            client.wait_status("resumed")
            client.call("publish", first=10, count=10)
            seen.wait_tick(19)
            told = [line["status"] for line in client.lines if line.get("status") in {"up", "lost", "resumed"}]
            assert told == ["up", "lost", "resumed"]
    assert seen.states("client")[:3] == ["up", "lost", "resumed"]
    assert seen.ticks() == list(range(20))


def test_frozen_server_is_lost_in_time(keys: Keys, scheme: str) -> None:
    """The same, seen from the side that dialled; its dials go on meanwhile and meet a process that does not answer."""
    with (
        Child("server", {**keys.of("server"), "listen": [f"{scheme}://127.0.0.1:0"]}, ["tick/"]) as server,
        running(Node("client", **keys.of("client"), **QUICK)) as (client, seen),
    ):
        client.connect(server.call("listen", url=f"{scheme}://127.0.0.1:0")["url"])
        frozen_at = server.freeze()
        at, status = seen.wait_status(PeerState.LOST, "server")
        assert status.code == "silent"
        assert 1.9 < at - frozen_at <= SILENT_S
        server.thaw()
        seen.wait_status(PeerState.RESUMED, "server")
        client.publish(Tick(sender="client", number=7))
        server.wait_event(7)


def test_goodbye_is_no_loss(keys: Keys, scheme: str) -> None:
    """A node that closes is `left`; what it published before has arrived."""
    with running(Node("server", **keys.of("server"))) as (server, seen):
        server.subscribe("tick/")
        url = server.listen(f"{scheme}://127.0.0.1:0")
        options = {**keys.of("client"), **QUICK, "connect": [url]}
        for life in range(2):
            with Child("client", options) as client:
                since = seen.count
                client.wait_status("up")
                client.call("publish", first=life * 1000, count=1000)
                client.call("leave")
                seen.wait_status(PeerState.LEFT, "client", since=since)
    assert seen.states("client") == ["up", "left", "restarted", "left"]
    assert seen.ticks() == list(range(2000))
    counters = server.counters()
    assert (counters.peers_left, counters.peers_lost) == (2, 0)


def test_our_own_standstill_is_not_blamed_on_the_peers(keys: Keys, scheme: str) -> None:
    """We are stopped for longer than our patience; the peers, more patient, have not given us up: nobody is lost."""
    with running(Node("server", **keys.of("server"), heartbeat_timeout_s=30.0)) as (server, seen):
        url = server.listen(f"{scheme}://127.0.0.1:0")
        with Child("client", {**keys.of("client"), **QUICK, "connect": [url]}, ["tick/"]) as client:
            client.wait_status("up")
            client.freeze()
            time.sleep(4.0)  # the fault itself
            client.thaw()
            time.sleep(0.2)
            for number in range(3):  # over more than one heartbeat
                server.publish(Tick(sender="server", number=number))
                client.wait_event(number)
                time.sleep(0.5)
            assert [line["status"] for line in client.lines if line.get("status") == "lost"] == []
    assert "lost" not in seen.states("client")[:1]
    assert server.counters().peers_lost <= 1  # the child's end by SIGKILL, if it was seen before the node closed
