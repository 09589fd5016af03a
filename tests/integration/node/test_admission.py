"""The admission hook: asked about a verified peer before any of its bytes reach the application; it fails closed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from rapini import Node, PeerInfo, PeerState
from rapini.errors import HandshakeError, RejectedError
from tests.integration.node.support import QUICK, SCHEMES, Keys, eventually, running
from tests.programs.events import Tick

pytestmark = pytest.mark.parametrize("scheme", SCHEMES)


def _raises(_peer: PeerInfo) -> bool:
    raise RuntimeError("the application's own mistake")


def _exits(_peer: PeerInfo) -> bool:
    raise SystemExit(0)


def test_true_admits_and_the_hook_sees_who_it_is(keys: Keys, scheme: str) -> None:
    """What the hook is told was proved, not claimed."""
    asked: list[PeerInfo] = []

    def admit(peer: PeerInfo) -> bool:
        asked.append(peer)
        return True

    with (
        running(Node("server", **keys.of("server"), admit=admit)) as (server, _),
        running(Node("client", **keys.of("client"))) as (client, _),
    ):
        assert client.connect(server.listen(f"{scheme}://127.0.0.1:0")) == "server"
        (peer,) = asked
        assert (peer.name, peer.is_verified, peer.mechanism, peer.is_up) == ("client", True, "tls", False)
        assert len(peer.fingerprint_sha256) == 64
        assert peer.address.startswith("127.0.0.1:")


@pytest.mark.parametrize(
    "answer",
    [lambda _: False, lambda _: None, lambda _: 1, lambda _: "yes", lambda _: [True], _raises, _exits],
    ids=["False", "None", "1", "yes", "list", "exception", "exit"],
)
def test_anything_but_true_denies(keys: Keys, scheme: str, answer: Callable[[PeerInfo], bool]) -> None:
    """No session, a typed reason for the peer, and no event of it."""
    with (
        running(Node("server", **keys.of("server"), admit=answer)) as (server, seen),
        running(Node("client", **keys.of("client"), **QUICK)) as (client, _),
    ):
        server.subscribe("")
        url = server.listen(f"{scheme}://127.0.0.1:0")
        with pytest.raises(RejectedError) as caught:
            client.connect(url)
        assert caught.value.code == "denied"
        client.publish(Tick(sender="client", number=1))
        _, status = seen.wait_status(PeerState.REJECTED, "client")
        assert status.code == "denied"
        assert not server.peers()
        assert seen.ticks() == []
        assert server.counters().total_received == 0


def test_dialling_side_asks_too(keys: Keys, scheme: str) -> None:
    """The hook is about peers, whoever dialled."""
    with (
        running(Node("server", **keys.of("server"))) as (server, _),
        running(Node("client", **keys.of("client"), admit=lambda _: False)) as (client, _),
    ):
        with pytest.raises(RejectedError) as caught:
            client.connect(server.listen(f"{scheme}://127.0.0.1:0"))
        assert caught.value.code == "denied"
        assert "we refused" in str(caught.value)
        eventually(lambda: not server.peers())


def test_slow_hook_delays_that_peer_alone(keys: Keys, scheme: str) -> None:
    """While the hook thinks about one peer, others come in; one that it never answers for is not let in."""
    answer = threading.Event()

    def admit(peer: PeerInfo) -> bool:
        return peer.name != "slow" or answer.wait(30)

    with (
        running(Node("server", **keys.of("server"), admit=admit, handshake_timeout_s=2.0)) as (server, seen),
        running(Node("slow", **keys.of("slow"), handshake_timeout_s=2.0)) as (slow, _),
    ):
        server.subscribe("tick/")
        url = server.listen(f"{scheme}://127.0.0.1:0")
        slow.connect(url, wait_s=0)
        for index in range(5):
            with running(Node(f"c{index}", **keys.of(f"c{index}"))) as (node, _):
                began = time.monotonic()
                node.connect(url)
                node.publish(Tick(sender=node.name, number=index))
                seen.wait_tick(index)
                assert time.monotonic() - began < 1.0
        _, status = seen.wait_status(PeerState.REJECTED, "slow")
        assert status.code == "greeting_timeout"
        answer.set()


def test_slow_answer_within_the_deadline_admits(keys: Keys, scheme: str) -> None:
    """A hook may take a second."""

    def admit(_peer: PeerInfo) -> bool:
        time.sleep(1.0)
        return True

    with (
        running(Node("server", **keys.of("server"), admit=admit)) as (server, _),
        running(Node("client", **keys.of("client"))) as (client, _),
    ):
        try:
            assert client.connect(server.listen(f"{scheme}://127.0.0.1:0")) == "server"
        except HandshakeError as exc:
            pytest.fail(str(exc))
