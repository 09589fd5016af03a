"""Faults that the simulation found in the real code, each in the smallest world that shows it."""

from __future__ import annotations

from rapini.node.settings import NodeSettings
from rapini.testing.simulation.events import SimEvent
from rapini.testing.simulation.network import SimNetwork
from rapini.testing.simulation.node import NodePlan, SimNode
from rapini.testing.simulation.observer import Observer
from rapini.testing.simulation.world import World


def _world(*plans: NodePlan) -> tuple[World, dict[str, SimNode]]:
    world = World(1)
    network = SimNetwork(world)
    nodes: dict[str, SimNode] = {}
    observer = Observer(network, nodes)
    for plan in plans:
        nodes[plan.name] = SimNode(plan, network, observer)
    return world, nodes


def _plan(name: str, *dials: str, prefixes: tuple[str, ...] = (), settings: NodeSettings | None = None) -> NodePlan:
    settings = settings or NodeSettings(name=name)
    return NodePlan(name=name, settings=settings, does_listen=True, dials=dials, prefixes=prefixes)


def test_a_node_that_leaves_while_a_dial_waits_does_not_spin() -> None:
    """Its loop planned the next turn for the dial's time, which had passed, and did not dial any more."""
    world, nodes = _world(_plan("alpha", "beta"), _plan("beta"))
    process = nodes["alpha"].start()  # beta is not running: every dial is refused
    world.run(5.0)
    before = world.actions
    process.leave()
    world.run(60.0)
    assert world.actions - before < 50


def test_a_peer_that_left_is_owed_nothing_until_it_is_up_again() -> None:
    """Its old subscriptions stayed in force, so events were counted as lost for it while it was coming back."""
    world, nodes = _world(_plan("alpha", prefixes=("",)), _plan("beta", "alpha", prefixes=("",)))
    processes = [node.start() for node in nodes.values()]
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
    processes = [node.start() for node in nodes.values()]
    nodes["beta"].stop_consuming()
    world.run(2.0)
    publisher, session = processes[0].core.publisher, processes[0].core.peers.sessions["beta"]
    publisher.publish(SimEvent("alpha", 1, 0, bytes(5000)))  # goes at once, and the queue is full
    publisher.publish(SimEvent("alpha", 1, 1))  # so soon after it waits for company, and then for room
    assert not session.outbox.has_room()
    before = world.actions
    world.run(4.0)
    assert publisher.is_blocked()
    assert world.actions - before < 400  # heartbeats, and the acknowledgement that looks again every 20 ms
