"""Two processes with one certificate: the live one stays, a dead one makes way."""

from __future__ import annotations

import time

import pytest

from rapini import Node, PeerState
from tests.integration.node.support import QUICK, SCHEMES, Keys, running
from tests.programs.child import Child

pytestmark = pytest.mark.parametrize("scheme", SCHEMES)


def test_newcomer_is_rejected_while_the_old_one_lives(keys: Keys, scheme: str) -> None:
    """The old one answers the probe: the newcomer hears why, quickly; the old one notices nothing."""
    with running(Node("server", **keys.of("server"))) as (server, seen):
        server.subscribe("tick/")
        url = server.listen(f"{scheme}://127.0.0.1:0")
        options = {**keys.of("twin"), **QUICK}
        with Child("twin", options) as old, Child("twin", options) as new:
            old.call("connect", url=url)
            old.call("publish", first=0, count=10)
            began = time.monotonic()
            reply = new.call("connect", url=url)
            took_s = time.monotonic() - began
            assert reply["error"] == "duplicate_name"
            assert "another live process" in reply["text"]
            assert took_s < 1.5
            old.call("publish", first=10, count=10)
            seen.wait_tick(19)
            new.wait_status("rejected")
    assert seen.states("twin")[:2] == ["up", "rejected"]
    assert seen.ticks() == list(range(20))
    rejected = next(s for s in seen.statuses("twin") if s.state is PeerState.REJECTED)
    assert rejected.code == "duplicate_name"
    assert server.counters().rejected["duplicate_name"] == 1


def test_newcomer_takes_over_from_a_dead_one(keys: Keys, scheme: str) -> None:
    """The old one is stopped: no answer within the probe's second, so it is lost and the newcomer is in."""
    with running(Node("server", **keys.of("server"))) as (server, seen):
        server.subscribe("tick/")
        url = server.listen(f"{scheme}://127.0.0.1:0")
        options = {**keys.of("twin"), **QUICK}
        with Child("twin", options) as old, Child("twin", options) as new:
            old.call("connect", url=url)
            old.call("publish", first=0, count=10)
            seen.wait_tick(9)
            old.freeze()
            began = time.monotonic()
            assert new.call("connect", url=url)["peer"] == "server"
            assert 0.5 < time.monotonic() - began < 2.0
            new.call("publish", first=100, count=10)
            seen.wait_tick(109)
            since = old.count
            old.thaw()  # now it is the newcomer, and the name is taken
            old.wait_status("lost", since=since)
            rejected = old.wait_status("rejected", since=since)
            assert rejected["code"] == "duplicate_name"
            new.call("publish", first=110, count=10)
            seen.wait_tick(119)
    assert seen.states("twin")[:4] == ["up", "lost", "restarted", "rejected"]
    lost = next(s for s in seen.statuses("twin") if s.state is PeerState.LOST)
    assert (lost.code, lost.epoch) == ("superseded", 1)
    assert seen.ticks() == [*range(10), *range(100, 120)]
