"""Real nodes that come back: resumed where that is safe, a full handshake or a refusal wherever trust has changed."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rapini import AsyncNode, Node, PeerState
from rapini.errors import ConfigError
from rapini.secure.channel import Side
from rapini.secure.material import TlsMaterial
from rapini.testing.authority import IssuedFiles, ThrowawayAuthority
from tests.integration.node.support import QUICK, SCHEMES, Recorder, eventually, port_of, running
from tests.programs.events import Tick
from tests.programs.proxy import Proxy


@dataclass
class World:
    """Two authorities; nodes trust the first."""

    ours: ThrowawayAuthority
    theirs: ThrowawayAuthority


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Made once: nothing in it changes."""
    return World(
        ThrowawayAuthority(tmp_path_factory.mktemp("ours")), ThrowawayAuthority(tmp_path_factory.mktemp("theirs"))
    )


@dataclass
class Joined:
    """A client that dials a server through a proxy, connected for the first time."""

    server: Node
    at_server: Recorder
    client: Node
    at_client: Recorder
    proxy: Proxy
    files: IssuedFiles
    """The server's."""

    def resumed(self) -> tuple[int, int]:
        """How many handshakes were resumed, as client and server count."""
        return self.client.counters().handshakes_resumed, self.server.counters().handshakes_resumed

    def come_back(self) -> bool:
        """Cut the connection, wait until it is up again; returns whether its handshake was resumed, on both sides."""
        before, since = self.resumed(), self.at_client.count
        channels = self.client.counters().channels_opened
        self.proxy.reset()
        self.at_client.wait_status(PeerState.RESUMED, "server", since=since)
        eventually(lambda: all(peer.is_up for peer in self.server.peers()) and bool(self.server.peers()))
        after = self.resumed()
        assert after[0] - before[0] == after[1] - before[1]
        assert self.client.counters().channels_opened == channels + 1, "one dial, and it was the right one"
        is_resumed = after[0] > before[0]
        assert [peer.is_tls_resumed for peer in (*self.client.peers(), *self.server.peers())] == [is_resumed] * 2
        return is_resumed


@contextmanager
def joined(
    world: World, scheme: str, *, client: dict[str, Any] | None = None, server: dict[str, Any] | None = None
) -> Iterator[Joined]:
    files = world.ours.issue("server")
    client = client or _options(world.ours.issue("client"))
    with (
        running(Node("server", **_options(files), **(server or {}))) as (listener, at_server),
        running(Node("client", **client, **QUICK)) as (dialler, at_client),
    ):
        url = listener.listen(f"{scheme}://127.0.0.1:0")
        with Proxy(port_of(url)) as proxy:
            dialler.subscribe("")
            dialler.connect(f"{scheme}://127.0.0.1:{proxy.port}")
            listener.wait_for("client")
            yield Joined(listener, at_server, dialler, at_client, proxy, files)


def _options(files: IssuedFiles) -> dict[str, Any]:
    return {"certificate": str(files.certificate_path), "key": str(files.key_path), "trust": str(files.trust_path)}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_each_return_is_resumed_and_the_session_goes_on(world: World, scheme: str) -> None:
    with joined(world, scheme) as nodes:
        assert nodes.resumed() == (0, 0)
        for number in range(1, 4):
            assert nodes.come_back()
            nodes.server.publish(Tick(sender="server", number=number))
            nodes.at_client.wait_tick(number)
        assert nodes.resumed() == (3, 3)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("side", ["server", "client"])
def test_switched_off_on_one_side(world: World, scheme: str, side: str) -> None:
    options = {"resume_tls": False}
    if side == "client":
        options = _options(world.ours.issue("client")) | options
    with joined(world, scheme, **{side: options}) as nodes:
        assert [nodes.come_back(), nodes.come_back()] == [False, False]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("side", ["server", "client"])
def test_after_the_keys_were_reloaded_the_next_handshake_is_a_full_one(world: World, scheme: str, side: str) -> None:
    with joined(world, scheme) as nodes:
        assert nodes.come_back()
        material = nodes.client._channels._material
        assert material is not None
        assert material.tickets is not None
        assert len(material.tickets) == 1
        getattr(nodes, side).reload_keys()
        assert len(material.tickets) == int(side == "server"), "dropped at once, not with the last old connection"
        assert len(nodes.client.peers()) == 1, "the connection itself goes on"
        assert [nodes.come_back(), nodes.come_back()] == [False, True]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("by", ["name", "fingerprint"])
def test_who_is_denied_is_cut_off_at_once_and_its_ticket_opens_nothing(world: World, scheme: str, by: str) -> None:
    with joined(world, scheme) as nodes:
        assert nodes.come_back()
        before = nodes.resumed()
        (peer,) = nodes.server.peers()
        began = time.monotonic()
        nodes.server.reload_keys(denied=["client" if by == "name" else peer.fingerprint_sha256])
        nodes.at_client.wait(lambda item: getattr(item, "code", "") == "certificate_revoked")
        ended, status = nodes.at_server.wait(lambda item: getattr(item, "code", "") == "certificate_revoked")
        assert ended - began < 1.0
        assert (status.state, status.side) == (PeerState.LOST, Side.OURS)
        eventually(lambda: nodes.server.counters().rejected.get("certificate_revoked", 0) >= 2)
        assert nodes.resumed() == before
        assert not nodes.server.peers()
        nodes.server.reload_keys(denied=[])
        nodes.server.wait_for("client")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_denied_server_is_left_alone_by_the_client(world: World, scheme: str) -> None:
    with joined(world, scheme) as nodes:
        nodes.client.reload_keys(denied=["server"])
        eventually(lambda: nodes.client.counters().rejected.get("certificate_revoked", 0) >= 1)
        assert not nodes.client.peers()
        assert nodes.resumed() == (0, 0)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_ticket_of_an_authority_that_is_trusted_no_more(world: World, scheme: str) -> None:
    with joined(world, scheme) as nodes:
        assert nodes.come_back()
        before = nodes.resumed()
        nodes.files.trust_path.write_bytes(world.theirs.trust_pem)
        nodes.server.reload_keys()
        nodes.proxy.reset()
        eventually(lambda: nodes.server.counters().rejected.get("unknown_ca", 0) >= 2)
        assert nodes.client.counters().rejected["peer_refused_unknown_ca"] >= 1
        assert nodes.resumed() == before
        assert not nodes.server.peers()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_certificate_that_ended_since_the_ticket_was_issued(world: World, scheme: str) -> None:
    ends = datetime.now(UTC) + timedelta(seconds=2)
    with joined(world, scheme, client=_options(world.ours.issue("client", not_after=ends))) as nodes:
        time.sleep(max(0.0, (ends - datetime.now(UTC)).total_seconds()) + 1.0)  # its last second counts in full
        nodes.proxy.reset()
        eventually(lambda: nodes.server.counters().rejected.get("certificate_expired", 0) >= 1)
        assert nodes.resumed() == (0, 0)
        assert not nodes.server.peers()


def test_a_reload_that_fails_changes_nothing(world: World, tmp_path: Path) -> None:
    with joined(world, "tcp+tls") as nodes:
        good = nodes.files.trust_path.read_bytes()
        nodes.files.trust_path.write_bytes(b"garbage")
        for denied in (None, ["client"], ["not a name"]):
            with pytest.raises(ConfigError):
                nodes.server.reload_keys(denied=denied)
        foreign = ThrowawayAuthority(tmp_path, "elsewhere").issue("server")
        nodes.files.trust_path.write_bytes(good)
        for path in ("certificate_path", "key_path"):
            getattr(nodes.files, path).write_bytes(getattr(foreign, path).read_bytes())
        with pytest.raises(ConfigError) as caught:
            nodes.server.reload_keys()
        assert caught.value.code == "wrong_cluster"
        assert nodes.come_back(), "with the tickets of before"


def test_a_handshake_under_way_when_the_trust_changes_begins_anew(world: World) -> None:
    """Its certificate would be judged by the old trust, after `reload_keys` has returned."""
    files = world.ours.issue("client")
    channel = TlsMaterial.load(files.certificate_path, files.key_path, files.trust_path).initiator(check_host=None)
    with running(Node("server", **_options(world.ours.issue("server")))) as (server, at_server):
        port = port_of(server.listen("tcp+tls://127.0.0.1:0"))
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            channel.start(0.0)
            connection.sendall(channel.data_to_send())
            while not channel.is_established:
                channel.receive(connection.recv(16_384), 0.0)
            server.reload_keys()
            connection.sendall(channel.data_to_send())  # its certificate, which the old trust would have taken
            eventually(lambda: server.counters().rejected.get("keys_changed", 0) == 1)
        assert server.counters().channels_opened == 0
        assert at_server.states("client") == []


def test_a_node_without_keys_has_none_to_reload() -> None:
    with running(Node("alone")) as (node, _), pytest.raises(ConfigError) as caught:
        node.reload_keys()
    assert caught.value.code == "no_keys"


def test_asyncio_reloads_too(world: World) -> None:
    async def main() -> None:
        async with AsyncNode("server", **_options(world.ours.issue("server"))) as node:
            await node.reload_keys()
            with pytest.raises(ConfigError) as caught:
                await node.reload_keys(denied=["not a name"])
            assert caught.value.code == "bad_name"

    asyncio.run(main())


def test_the_deny_list_is_a_setting_too(world: World) -> None:
    with joined(world, "tcp+tls", server={"denied": ["somebody-else"]}) as nodes:
        nodes.server.reload_keys()
        assert not nodes.come_back()
    with pytest.raises(ConfigError) as caught:
        Node("server", **_options(world.ours.issue("server")), denied=["-"])
    assert caught.value.code == "bad_name"
