"""Invariant: a name that was proven belongs to whoever can prove it; nobody gets another's session, epoch or place."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from rapini import Node, PeerState
from tests.integration.node.support import QUICK, Keys, Recorder, eventually, port_of, running
from tests.programs.events import Tick
from tests.security.raw import (
    ACK,
    HELLO,
    MAX_COUNT,
    PING,
    READY,
    REJECT,
    SUBSCRIBED,
    SUBSCRIPTIONS,
    WELCOME,
    RawPeer,
    batch_of,
    events_frame,
    frame,
)


@dataclass
class Scene:
    """A server that listens both ways: with certificates, and in clear text."""

    keys: Keys
    server: Node
    seen: Recorder
    tls_url: str
    plain_port: int

    def claimant(self, name: str) -> RawPeer:
        peer = RawPeer(name, self.plain_port)
        peer.cluster = "test"
        return peer


@pytest.fixture
def scene(keys: Keys) -> Iterator[Scene]:
    with running(Node("server", **keys.of("server"), probe_timeout_s=0.3)) as (server, seen):
        server.subscribe("")
        tls_url = server.listen("tcp+tls://127.0.0.1:0")
        yield Scene(keys, server, seen, tls_url, port_of(server.listen("tcp+plain://127.0.0.1:0")))
        assert server.failure is None


def test_a_claim_does_not_take_a_proven_name(scene: Scene) -> None:
    """Neither from a live peer, nor after it is gone; and the peer's session goes on where it was."""
    with running(Node("sensor", **scene.keys.of("sensor"), **QUICK)) as (sensor, at_sensor):
        sensor.connect(scene.tls_url)
        for number in range(3):
            with scene.claimant("sensor") as claimant:
                claimant.hello(known_epoch=2**62 - 1)
                assert claimant.hear(REJECT)[0] == "unverified_name"
            sensor.publish(Tick(sender="sensor", number=number))
            assert sensor.flush(2.0)
        assert scene.seen.states("sensor")[0] == "up"
        assert "lost" not in scene.seen.states("sensor")
        assert at_sensor.states("server") == ["up"]
    eventually(lambda: not scene.server.peers())
    with scene.claimant("sensor") as claimant:
        claimant.hello()
        assert claimant.hear(REJECT)[0] == "unverified_name"
    assert scene.server.counters().received["sensor"] == 3


def test_the_owner_of_a_name_displaces_who_only_claimed_it(scene: Scene) -> None:
    """The squatter was there first, alive, with a poisoned epoch; the owner gets its name, and nothing of that."""
    with scene.claimant("sensor") as squatter:
        squatter.come_up("", known_epoch=2**62 - 1)
        squatter.say(events_frame(0, 1, batch_of("No.Such", "x", 1, b"\x91\x90")))
        with running(Node("sensor", **scene.keys.of("sensor"), **QUICK)) as (sensor, at_sensor):
            began = time.monotonic()
            sensor.connect(scene.tls_url)
            assert time.monotonic() - began < 1.0
            assert squatter.ended()
            sensor.publish(Tick(sender="sensor", number=1))
            scene.seen.wait_tick(1, "sensor")
            (peer,) = scene.server.peers()
            assert (peer.is_verified, peer.epoch) == (True, 1)
            assert at_sensor.states("server") == ["up"]
        states = [status.state for status in scene.seen.statuses("sensor") if status.is_up]
        assert states == [PeerState.UP, PeerState.UP], "the owner is not the squatter come back"
        assert scene.server.counters().missed.get("sensor", 0) == 0


def test_we_dial_the_owner_of_a_name_that_another_claims(scene: Scene) -> None:
    """A squatter does not keep us from our own connection to the real one."""
    with (
        running(Node("sensor", **scene.keys.of("sensor"))) as (sensor, _),
        scene.claimant("sensor") as squatter,
    ):
        squatter.come_up("")
        assert scene.server.connect(sensor.listen("tcp+tls://127.0.0.1:0")) == "sensor"
        assert squatter.ended()
        (peer,) = scene.server.peers()
        assert peer.is_verified


def test_a_certificate_is_for_one_name(scene: Scene) -> None:
    """Whatever it says, and whatever it overheard, a peer gets its own session."""
    with running(Node("sensor", **scene.keys.of("sensor"))) as (sensor, _):
        sensor.connect(scene.tls_url)
        with RawPeer("evil", port_of(scene.tls_url), scene.keys.of("evil")) as evil:
            evil.say(frame(HELLO, 2, 2, evil.greeting(node="sensor")))
            assert evil.hear(REJECT)[0] == "identity_mismatch"
        # The incarnations of others are known to every peer of theirs.
        with RawPeer("evil", port_of(scene.tls_url), scene.keys.of("evil")) as evil:
            evil.incarnation = sensor._core.peers.incarnation  # as any peer of its knows it
            evil.come_up("", known_incarnation=b"x" * 16, received=[10**6])
            welcome = next(body for kind, body in evil.heard if kind == WELCOME)
            assert welcome[2][5:] == [b"", 0, 0, [0, 0]], "nothing of another's session is told"
        assert scene.seen.states("sensor") == ["up"]
        _, status = scene.seen.wait_status(PeerState.UP, "evil")
        assert status.epoch == 1


def test_our_own_name(scene: Scene) -> None:
    """A second holder of our certificate is told so; it becomes no peer."""
    with RawPeer("server", port_of(scene.tls_url), scene.keys.of("server")) as double:
        double.hello()
        assert double.hear(REJECT)[0] == "duplicate_name"
    assert not scene.server.peers()


def test_two_holders_of_one_certificate(scene: Scene) -> None:
    """The first stays as long as it answers; any number of doubles, at any time, cannot wear it out."""
    with running(Node("sensor", **scene.keys.of("sensor"))) as (sensor, at_sensor):
        sensor.connect(scene.tls_url)
        for _ in range(3):
            with RawPeer("sensor", port_of(scene.tls_url), scene.keys.of("sensor")) as double:
                double.hello(known_epoch=2**61)
                assert double.hear(REJECT)[0] == "duplicate_name"
        assert at_sensor.states("server") == ["up"]
        assert scene.seen.states("sensor")[0] == "up"
        assert {peer.epoch for peer in scene.server.peers()} == {1}


def test_resuming_with_more_than_was_sent(scene: Scene) -> None:
    """A peer that comes back as itself cannot acknowledge what it never got; its next honest try is served."""
    port, options = port_of(scene.tls_url), scene.keys.of("evil")
    with RawPeer("evil", port, options) as evil:
        evil.come_up("")
        ours = next(body for kind, body in evil.heard if kind == WELCOME)[2][3]
        incarnation = evil.incarnation
    scene.seen.wait_status(PeerState.LOST, "evil")
    for received in (1, MAX_COUNT):
        with RawPeer("evil", port, options) as evil:
            evil.incarnation = incarnation
            evil.hello(known_incarnation=ours, received=[received], known_epoch=1)
            assert evil.hear(REJECT)[0] == "protocol_error"
    with RawPeer("evil", port, options) as evil:
        evil.incarnation = incarnation
        evil.come_up("", known_incarnation=ours, known_epoch=1)
        evil.say(frame(PING, 1), frame(ACK, [0]), frame(SUBSCRIPTIONS, 1, ["x"]), frame(SUBSCRIBED, 0))
        assert evil.hear(SUBSCRIBED)
        assert READY in [kind for kind, _ in evil.heard]
    assert scene.server.failure is None
