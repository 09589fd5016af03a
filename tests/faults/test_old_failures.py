"""The three failures that once made people give up on TLS over 0MQ, as regression tests.

Each was caused by a reconnect that 0MQ hid: a restarted client's ClientHello was fed into its old TLS session; a record
lost at a reconnect made every later one unreadable; messages vanished after a reconnect that had succeeded. Each now
ends in a fresh handshake, with nothing corrupt, and what was lost counted on both sides alike.
"""

from __future__ import annotations

import time

import pytest

from rapini import Gap, Node, PeerState, PeerStatus
from tests.integration.node.support import QUICK, SCHEMES, Keys, Recorder, eventually, port_of, running
from tests.programs.child import Child
from tests.programs.events import Tick
from tests.programs.proxy import Proxy


@pytest.mark.parametrize("scheme", SCHEMES)
def test_restarted_client_meets_its_old_tls_session(keys: Keys, scheme: str) -> None:
    """The server cannot know that the old client is gone (a cut cable), and the new one is there at once."""
    with running(Node("server", **keys.of("server"))) as (server, seen):
        server.subscribe("tick/")
        url = server.listen(f"{scheme}://127.0.0.1:0")
        with Proxy(port_of(url)) as proxy:
            options = {**keys.of("client"), **QUICK, "connect": [f"{scheme}://127.0.0.1:{proxy.port}"]}
            with Child("client", options) as old:
                old.wait_status("up")
                old.call("publish", first=0, count=10)
                seen.wait_tick(9)
                proxy.deafen()
                old.kill()
            with Child("client", options) as new:
                new.wait_status("up")
                new.call("publish", first=100, count=100)
                seen.wait_tick(199)
    assert seen.ticks() == [*range(10), *range(100, 200)]
    assert seen.states("client")[:3] == ["up", "lost", "restarted"]
    assert {s.code for s in seen.statuses("client") if s.state is PeerState.LOST} <= {"superseded", "silent", "closed"}
    assert not server.counters().bad_events
    _check_epochs(seen)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_client_killed_in_full_flight_and_restarted(keys: Keys, scheme: str) -> None:
    """A new process under the same name each time, with events in flight when the old one is killed."""
    with running(Node("server", **keys.of("server"))) as (server, seen):
        server.subscribe("tick/")
        url = server.listen(f"{scheme}://127.0.0.1:0")
        options = {**keys.of("client"), **QUICK, "connect": [url]}
        for life in range(4):
            with Child("client", options) as client:
                since = seen.count
                client.wait_status("up")
                client.tell("publish", first=life * 1_000_000, count=200_000, pad=100)
                seen.wait_tick(life * 1_000_000 + 500, since=since)
                client.kill()
            seen.wait_status(PeerState.LOST, "client", since=since)
    assert seen.states("client") == ["up", "lost", "restarted", "lost", "restarted", "lost", "restarted", "lost"]
    assert not server.counters().bad_events
    ticks = seen.ticks()
    assert ticks == sorted(set(ticks)), "out of order, or twice"
    _check_epochs(seen)


@pytest.mark.parametrize("sender_dials", [True, False], ids=["sender-dials", "sender-listens"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_connection_cut_within_a_record(keys: Keys, scheme: str, sender_dials: bool) -> None:
    """Bytes are dropped in the middle of a TLS record, several times; both sides count the same loss, exactly."""
    sender_node = Node("sender", **keys.of("sender"), **QUICK)
    receiver_node = Node("receiver", **keys.of("receiver"), **QUICK)
    with running(sender_node) as (sender, told), running(receiver_node) as (receiver, seen):
        receiver.subscribe("tick/")
        dialling, listening = (sender, receiver) if sender_dials else (receiver, sender)
        url = listening.listen(f"{scheme}://127.0.0.1:0")
        with Proxy(port_of(url)) as proxy:
            dialling.connect(f"{scheme}://127.0.0.1:{proxy.port}")
            sender.wait_for("receiver")
            number = 0
            for size in (30_011, 100_003, 250_007, 77_777):
                since = told.count
                proxy.cut_after(size, "client" if sender_dials else "server")
                cuts = proxy.cuts
                while proxy.cuts == cuts:
                    number = _publish(sender, number, 20)
                told.wait_status(PeerState.LOST, "receiver", since=since)
                number = _publish(sender, number, 20)  # some while it is away, or coming back
                told.wait_status(PeerState.RESUMED, "receiver", since=since)
                seen.wait_status(PeerState.RESUMED, "sender")
            _publish(sender, 10_000_000, 1)
            seen.wait_tick(10_000_000)
            assert sender.flush()
    sent, got = sender.counters(), receiver.counters()
    ticks = seen.ticks()
    assert ticks == sorted(set(ticks)), "out of order, or twice"
    assert not got.bad_events
    assert sent.total_published == number + 1
    assert sent.total_published == got.total_received + sent.total_dropped + sum(sent.unrouted.values())
    causes = sent.dropped["receiver"]
    assert set(causes) <= {"lost_in_transit", "peer_lost"}
    in_transit = sum(causes["lost_in_transit"].values())
    assert in_transit > 0, "the cuts hit nothing: the test tests nothing"
    told_of = {cause: sum(topics.values()) for cause, topics in causes.items()}
    assert got.gaps == {"sender": told_of}, "every loss is told to the receiver, and no other"
    assert told.states("receiver")[:9] == ["up", *["lost", "resumed"] * 4]
    assert seen.states("sender")[:9] == ["up", *["lost", "resumed"] * 4]
    _check_epochs(seen)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nothing_vanishes_after_a_reconnect_that_the_bound_side_slept_through(keys: Keys, scheme: str) -> None:
    """The link bounces while the listening node does not look at its sockets; then all that is sent arrives."""
    with (
        running(Node("bound", **keys.of("bound"))) as (bound, seen),
        running(Node("dialler", **keys.of("dialler"), **QUICK)) as (dialler, told),
    ):
        bound.subscribe("tick/")
        dialler.subscribe("tick/")
        url = bound.listen(f"{scheme}://127.0.0.1:0")
        with Proxy(port_of(url)) as proxy:
            dialler.connect(f"{scheme}://127.0.0.1:{proxy.port}")
            bound.wait_for("dialler")
            for bounce in range(1, 6):
                since, since_told = seen.count, told.count
                with bound._lock:  # libzmq's own threads, and the kernel, go on accepting meanwhile
                    for _ in range(3):
                        before = proxy.accepted
                        proxy.reset()
                        eventually(lambda before=before: proxy.accepted > before)  # type: ignore[misc]
                        time.sleep(0.02)
                told.wait_status(PeerState.RESUMED, "bound", since=since_told)
                seen.wait_status(PeerState.RESUMED, "dialler", since=since)
                _publish(dialler, bounce * 1000, 100)
                _publish(bound, bounce * 1000, 100)
                seen.wait_tick(bounce * 1000 + 99, since=since)
                told.wait_tick(bounce * 1000 + 99, since=since_told)
                assert bound.flush()
                assert dialler.flush()
    wanted = [bounce * 1000 + i for bounce in range(1, 6) for i in range(100)]
    assert seen.ticks() == wanted
    assert told.ticks() == wanted
    for counters in (bound.counters(), dialler.counters()):
        assert not counters.missed
        assert counters.total_dropped == 0
        assert not counters.bad_events


def _publish(node: Node, first: int, count: int) -> int:
    for number in range(first, first + count):
        node.publish(Tick(sender=node.name, number=number, pad=bytes(150)))
    return first + count


def _check_epochs(seen: Recorder) -> None:
    """`lost` of an epoch comes after all its events and before anything of the next."""
    lost: set[int] = set()
    newest = 0
    for _, item in seen.items:
        if isinstance(item, PeerStatus):
            if item.state is PeerState.LOST:
                lost.add(item.epoch)
            continue
        if isinstance(item, Gap):
            assert item.epoch not in lost
            continue
        epoch = item[1].epoch
        assert epoch not in lost, f"an event of epoch {epoch} came after its end"
        assert epoch >= newest
        assert set(range(1, epoch)) <= lost, f"an event of epoch {epoch} came before the end of an earlier one"
        newest = epoch
