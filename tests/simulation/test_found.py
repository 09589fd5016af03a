"""Faults that the simulation found in the real code, each in the smallest world that shows it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from rapini.events.delivery import DeliveryName
from rapini.node.dials import DialState
from rapini.node.settings import NodeSettings
from rapini.testing.simulation.events import SimEvent
from rapini.testing.simulation.network import SimNetwork
from rapini.testing.simulation.node import SimNode
from rapini.testing.simulation.observer import Observer
from rapini.testing.simulation.plan import NodePlan, SpoolPlan, StorePlan
from rapini.testing.simulation.process import Process
from rapini.testing.simulation.world import World


def _world(*plans: NodePlan) -> tuple[World, dict[str, SimNode]]:
    world = World(1)
    network = SimNetwork(world)
    nodes: dict[str, SimNode] = {}
    observer = Observer(network, nodes)
    for plan in plans:
        nodes[plan.name] = SimNode(plan, network, observer)
    return world, nodes


def _start(node: SimNode) -> Process:
    node.start()
    assert node.process is not None
    return node.process


def _plan(name: str, *dials: str, prefixes: tuple[str, ...] = (), settings: NodeSettings | None = None) -> NodePlan:
    settings = settings or NodeSettings(name=name)
    return NodePlan(name=name, settings=settings, does_listen=True, dials=dials, prefixes=prefixes, filler_bytes=100)


def test_a_node_that_leaves_while_a_dial_waits_does_not_spin() -> None:
    """Its loop planned the next turn for the dial's time, which had passed, and did not dial any more."""
    world, nodes = _world(_plan("alpha", "beta"), _plan("beta"))
    process = _start(nodes["alpha"])  # beta is not running: every dial is refused
    world.run(5.0)
    before = world.actions
    process.leave()
    world.run(60.0)
    assert world.actions - before < 200  # housekeeping twice a second, and what was due


def test_a_peer_that_left_is_owed_nothing_until_it_is_up_again() -> None:
    """Its old subscriptions stayed in force, so events were counted as lost for it while it was coming back."""
    world, nodes = _world(_plan("alpha", prefixes=("",)), _plan("beta", "alpha", prefixes=("",)))
    processes = [_start(node) for node in nodes.values()]
    world.run(2.0)
    session = processes[0].core.peers.sessions["beta"]
    assert len(session.prefixes) == 1
    processes[1].leave()
    world.run(2.5)
    assert session.is_departed
    assert not session.prefixes


def test_a_loop_does_not_spin_while_a_publisher_waits_for_room() -> None:
    """The time of the flush that nobody may do yet had passed, and the loop planned its next turn for that."""
    settings = NodeSettings(name="alpha", overflow="block", send_queue_bytes=4096)
    world, nodes = _world(_plan("alpha", settings=settings), _plan("beta", "alpha", prefixes=("",)))
    processes = [_start(node) for node in nodes.values()]
    nodes["beta"].stop_consuming()
    world.run(2.0)
    publisher, session = processes[0].core.publisher, processes[0].core.peers.sessions["beta"]
    publisher.publish(SimEvent("alpha", 1, 0, bytes(5000)))  # goes at once, and the queue is full
    publisher.publish(SimEvent("alpha", 1, 1))  # so soon after it waits for company, and then for room
    assert not session.outbox.best_effort.has_room()
    before = world.actions
    world.run(4.0)
    assert publisher.is_blocked()
    assert world.actions - before < 800  # heartbeats, and who looks again every 5 and every 20 ms


DELIVERY: dict[str, DeliveryName] = {"sim/logs": "reliable", "conn/closed": "durable", "conn/open": "durable"}
SPOOL = SpoolPlan(max_bytes=1 << 14, segment_bytes=1 << 9, sync_after_s=0.001, late_sync_s=0.001)


def _settings(name: str, **options: Any) -> NodeSettings:
    return NodeSettings(name=name, delivery=DELIVERY, **options)


def test_two_clones_of_a_store_that_meet_stay_connected() -> None:
    """Each asked the other to be followed, and took the question for a breach of the protocol."""
    clone = StorePlan(is_master=False)
    alpha, beta = (replace(_plan(name, *dials), store=clone) for name, dials in (("alpha", ()), ("beta", ("alpha",))))
    world, nodes = _world(alpha, beta)
    processes = [_start(node) for node in nodes.values()]
    world.run(5.0)
    assert processes[0].core.peers.sessions["beta"].record is not None
    assert not processes[0].core.counters.rejected


def test_durable_events_keep_to_the_credit() -> None:
    """A record was sent whenever there was any credit left, however little: the subscriber hung up."""
    alpha = replace(_plan("alpha", settings=_settings("alpha")), spool=SPOOL)
    beta = replace(_plan("beta", "alpha", prefixes=("",)), settings=NodeSettings(name="beta", window_bytes=2048))
    world, nodes = _world(alpha, beta)
    processes = [_start(node) for node in nodes.values()]
    world.run(2.0)
    for _ in range(10):
        processes[0].publish(5, "conn/closed")
        world.run(world.now + 0.02)
    world.run(world.now + 5.0)
    assert processes[0].core.peers.sessions["beta"].epoch == 1
    assert processes[0].core.peers.sessions["beta"].acknowledged_events == 50


def test_a_checkpointed_subscriber_that_wants_nothing_of_it_does_not_hold_up_a_spool() -> None:
    """It has nothing to commit, so its publisher kept everything for it, and blocked in the end."""
    alpha = replace(_plan("alpha", settings=_settings("alpha", durable_overflow="block")), spool=SPOOL)
    beta = replace(_plan("beta", "alpha", prefixes=("conn/closed",)), is_checkpointed=True)
    gamma = _plan("gamma", "alpha", prefixes=("conn/open",))
    world, nodes = _world(alpha, beta, gamma)
    processes = [_start(node) for node in nodes.values()]
    world.run(2.0)
    durable = processes[0].core.durable
    assert durable is not None
    for _ in range(100):
        processes[0].publish(10, "conn/open")
        world.run(world.now + 0.2)
    assert durable.spool.next_sequence == 1000
    assert durable.spool.consumers()["beta"].position > 900
    assert durable.has_room()


def test_what_a_peer_had_received_and_not_taken_when_it_died_is_in_the_gap() -> None:
    """Its word at a reconnect, up to where it had received, counted as an acknowledgement."""
    world, nodes = _world(_plan("alpha", settings=_settings("alpha")), _plan("beta", "alpha", prefixes=("",)))
    sender = _start(nodes["alpha"])
    _start(nodes["beta"])
    world.run(2.0)
    nodes["beta"].stop_consuming()
    sender.publish(7, "sim/logs")
    world.run(3.0)
    nodes["alpha"].network.cut(nodes["alpha"].network.live_connections()[0], (0.0, 0.0))
    world.run(6.0)
    assert sender.core.peers.sessions["beta"].epoch == 2
    nodes["beta"].crash("reset")
    nodes["beta"].go_on_consuming()
    receiver = _start(nodes["beta"])
    world.run(12.0)
    assert receiver.core.counters.gaps["alpha"] == {"unacknowledged": 7}
    assert sender.core.peers.sessions["beta"].outbox.dropped == {"unacknowledged": Counter({"sim/logs": 7})}


def test_the_lease_of_a_peer_that_began_to_return_and_did_not_ends() -> None:
    """It had been lost, was admitted, and died before it was up: nothing counted its lease any more."""
    settings = _settings("alpha", lease_s=5.0)
    world, nodes = _world(_plan("alpha", settings=settings), _plan("beta", "alpha", prefixes=("",)))
    sender = _start(nodes["alpha"])
    _start(nodes["beta"])
    world.run(2.0)
    nodes["beta"].crash("reset")
    sender.publish(5, "sim/logs")
    world.run(3.0)
    session = sender.core.peers.sessions["beta"]
    _start(nodes["beta"])
    while session.record is None and not any(r.session is session for r in sender.core.peers.records.values()):
        world.run(world.now + 0.0001)
    nodes["beta"].crash("vanish")
    assert session.record is None
    world.run(60.0)
    assert session.is_departed
    assert session.outbox.kept_bytes == 0


def test_the_batch_that_ends_a_lease_is_in_the_gap_too() -> None:
    """The outbox was full, its peer away: what came last was counted, had no number, and nobody was told.

    And nothing is dropped before: a publisher that would rather wait than drop does not drop for want of some bytes.
    """
    settings = _settings("alpha", send_queue_bytes=2048)
    world, nodes = _world(_plan("alpha", settings=settings), _plan("beta", "alpha", prefixes=("",)))
    sender, receiver = _start(nodes["alpha"]), _start(nodes["beta"])
    world.run(2.0)
    nodes["alpha"].network.block("alpha", "beta")
    nodes["alpha"].network.block("beta", "alpha")
    world.run(8.0)
    for _ in range(60):
        sender.publish(2, "sim/logs")
        world.run(world.now + 0.05)
    session = sender.core.peers.sessions["beta"]
    assert session.is_departed
    nodes["alpha"].network.unblock("alpha", "beta")
    nodes["alpha"].network.unblock("beta", "alpha")
    world.run(world.now + 20.0)
    told = receiver.core.counters.gaps["alpha"]["lease_expired"]
    assert told == session.outbox.dropped["lease_expired"].total() > 0
    assert set(session.outbox.dropped) == {"lease_expired"}


def test_a_full_spool_that_drops_its_oldest_makes_nobody_wait() -> None:
    """What was appended and not synced filled it: from then on every publisher waited, though none is to."""
    spool = SpoolPlan(max_bytes=1 << 13, segment_bytes=1 << 9, sync_after_s=50.0, late_sync_s=50.0)
    alpha = replace(_plan("alpha", settings=_settings("alpha", durable_overflow="drop_oldest")), spool=spool)
    world, nodes = _world(alpha, _plan("beta", "alpha", prefixes=("",)))
    sender = _start(nodes["alpha"])
    _start(nodes["beta"])
    world.run(2.0)
    for _ in range(40):
        sender.publish(10, "conn/closed")
        world.run(world.now + 0.01)
    assert sender.core.counters.not_stored
    assert not sender.core.publisher.is_blocked()


def test_a_node_that_leaves_while_it_is_told_of_a_stream_leaves_in_peace() -> None:
    """Between its goodbye and the answer, the announcement of a durable stream counted as a breach."""
    alpha = replace(_plan("alpha", settings=_settings("alpha")), spool=SPOOL)
    world, nodes = _world(alpha, _plan("beta", "alpha", prefixes=("",)))
    _start(nodes["alpha"])
    leaver = _start(nodes["beta"])
    while not any(record.session is not None for record in leaver.core.peers.records.values()):
        world.run(world.now + 0.00005)
    leaver.leave()
    world.run(world.now + 1.0)
    assert not leaver.core.counters.rejected


def test_nodes_that_dial_each_other_over_plain_keep_one_session() -> None:
    """Each greeted the other as a stranger, for it did not know whom it had reached, and the numbers began anew."""
    plans = [
        replace(_plan(name, other, settings=_settings(name), prefixes=("",)), is_attested=False)
        for name, other in (("alpha", "beta"), ("beta", "alpha"))
    ]
    world, nodes = _world(*plans)
    first = _start(nodes["alpha"])
    world.run(1.0)
    second = _start(nodes["beta"])
    world.run(4.0)
    for _ in range(5):
        first.publish(10, "sim/logs")
        second.publish(10, "sim/logs")
        world.run(world.now + 0.2)
        live = nodes["alpha"].network.live_connections()
        nodes["alpha"].network.cut(live[0], (0.0, 0.01))
        world.run(world.now + 8.0)
    for process, peer in ((first, "beta"), (second, "alpha")):
        session = process.core.peers.sessions[peer]
        assert session.generation == 1
        assert (session.outbox.acknowledged, session.outbox.dropped) == (50, {})
    states = {dial.state for process in (first, second) for dial in process.core.peers.dials}
    assert states == {DialState.UP, DialState.STANDBY}
