"""Leases with real processes: who is back in time is resumed, who is late hears a gap, who stays away costs nothing.

The deadline itself, to the tick, is the simulation's; here a real process is stopped and continued a second before and
after it, and hundreds vanish for good.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any, Final

import pytest

from rapini import Node, PeerState
from tests.integration.node.support import QUICK, SCHEMES, Keys, eventually, running
from tests.programs.child import ROOT, Child
from tests.programs.events import Tick

LEASE_S: Final = 2.0
PATIENCE: Final[dict[str, Any]] = {"heartbeat_interval_s": 0.3, "heartbeat_timeout_s": 0.8}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_frozen_peer_returns_a_second_before_and_a_second_after_its_lease_ends(keys: Keys, scheme: str) -> None:
    options: dict[str, Any] = {**keys.of("sender"), **PATIENCE, "lease_s": LEASE_S, "delivery": {"tick/": "reliable"}}
    with running(Node("sender", **options)) as (sender, told):
        url = sender.listen(f"{scheme}://127.0.0.1:0")
        with Child("receiver", {**keys.of("receiver"), **QUICK, "connect": [url]}, ["tick/"]) as receiver:
            told.wait_status(PeerState.UP, "receiver")
            number = 0

            def publish(count: int) -> None:
                nonlocal number
                for _ in range(count):
                    sender.publish(Tick(sender="sender", number=number))
                    number += 1

            def away(seconds: float) -> int:
                """Stop the receiver until so long after it was lost; what was told before it went on."""
                since = told.count
                receiver.freeze()
                publish(100)  # it may have them in its socket's buffer
                lost_at, lost = told.wait_status(PeerState.LOST, "receiver", since=since)
                assert lost.code == "silent"
                publish(100)
                time.sleep(max(0.0, lost_at + seconds - time.monotonic()))
                since = told.count
                receiver.thaw()
                return since

            publish(100)
            receiver.wait_event(99)
            since = away(LEASE_S - 1.0)
            told.wait_status(PeerState.RESUMED, "receiver", since=since)
            assert sender.flush()
            receiver.wait_event(number - 1)
            assert receiver.events() == list(range(number))
            assert not [line for line in receiver.lines if "gap" in line]
            assert PeerState.RELEASED not in {status.state for status in told.statuses("receiver")}

            in_time = number
            since = away(LEASE_S + 1.0)
            assert [s.state for s in told.statuses("receiver")].count(PeerState.RELEASED) == 1, "not released in time"
            told.wait_status(PeerState.RESUMED, "receiver", since=since)
            late = number
            publish(100)
            assert sender.flush()
            receiver.wait_event(number - 1)
            gap = receiver.wait(lambda line: "gap" in line)
            dropped = sender.counters().dropped["receiver"]["lease_expired"]["tick/main"]
            arrived = [number for number in receiver.events() if in_time <= number < late]
            assert (gap["peer"], gap["delivery"], gap["reason"]) == ("sender", "reliable", "lease_expired")
            assert gap["gap"] == late - in_time - len(arrived) <= dropped
            assert gap["gap"] >= 100, "what was published while it was lost"
            assert arrived == list(range(in_time, in_time + len(arrived))), "the first ones, from the socket's buffer"
            assert receiver.events() == [*range(in_time + len(arrived)), *range(late, number)]
            assert sum("gap" in line for line in receiver.lines) == 1


CLIENTS: Final = 75
ROUNDS: Final = 4
KEPT_BYTES: Final = 256 * 1024
"""For each client: so many are published for it when it has just vanished."""
REMEMBERED_BYTES: Final = 32 * 1024
"""Of resident memory, for each client that is gone; 6 KiB of it are objects (`tracemalloc`)."""


def test_the_memory_of_hundreds_of_vanished_clients_comes_back(keys: Keys) -> None:
    """Each round other clients vanish, with much kept for them. What stays is a name, an account and a certificate.

    Those are bounded, too: of 1024 peers that are gone, and the proofs of as many certificates, is anything remembered.
    """
    options = {**keys.of("server"), "lease_s": 1.0, "delivery": {"canary/": "reliable"}}
    names = [f"swarm-{i:03}" for i in range(CLIENTS * ROUNDS)]
    with Child("server", options) as server:
        url = server.call("listen", url="zmq+tls://127.0.0.1:0")["url"]
        rest, peaks = [], []
        for number in range(ROUNDS):
            group = names[number * CLIENTS : (number + 1) * CLIENTS]
            since = server.count
            with _swarm(url, {name: keys.of(name) for name in group}) as swarm:
                assert swarm.stdout is not None
                assert json.loads(swarm.stdout.readline())["up"] == CLIENTS
                swarm.kill()
                swarm.wait(10)
            lost = (number + 1) * CLIENTS
            eventually(lambda lost=lost: server.call("counters")["peers_lost"] == lost)  # type: ignore[misc]
            for name in group:
                server.call("publish", first=0, count=4, topic=f"canary/{name}/", pad=KEPT_BYTES // 4)
            peaks.append(server.call("usage")["rss"])
            for name in group:
                server.wait_status("released", name, since=since)
            rest.append(server.call("usage"))
        dropped = server.call("counters")["dropped"]
    assert {name: dropped[name] for name in names} == {name: {"lease_expired": 4} for name in names}
    sizes = [usage["rss"] for usage in rest]
    print(json.dumps({"kept_bytes": CLIENTS * KEPT_BYTES, "peaks": peaks, "rest": sizes}))
    assert min(peaks) - sizes[0] > 0.5 * CLIENTS * KEPT_BYTES, "little was kept: the test tests nothing"
    assert (sizes[-1] - sizes[0]) / (CLIENTS * (ROUNDS - 1)) < REMEMBERED_BYTES
    for what in ("fds", "threads"):
        assert rest[-1][what] <= rest[0][what], what


def _swarm(url: str, clients: dict[str, Any]) -> subprocess.Popen[str]:
    start = json.dumps({"url": url, "clients": clients, "seconds": 60, "churn": 0.0})
    return subprocess.Popen(
        [sys.executable, "-m", "tests.programs.swarm", start], stdout=subprocess.PIPE, cwd=ROOT, text=True
    )
