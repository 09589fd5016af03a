"""The transport in memory: the contract, and the faults it can make, in virtual time."""

from __future__ import annotations

import pytest

from rapini.errors import TransportError
from rapini.transport.base import (
    Accepted,
    Connected,
    ConnectFailed,
    Disconnected,
    Received,
    SendResult,
    TransportOutcome,
    Writable,
)
from rapini.transport.endpoint import Endpoint
from rapini.transport.memory import MemoryConnection, MemoryNetwork, MemoryTransport


class World:
    """Two transports and a clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.network = MemoryNetwork(lambda: self.now)
        self.server = MemoryTransport(self.network)
        self.client = MemoryTransport(self.network)
        self.endpoint = self.server.listen(Endpoint.parse("memory+plain://manager:0"))
        dialled = self.client.dial(self.endpoint, ("manager", self.endpoint.port))
        assert isinstance(dialled, MemoryConnection)
        self.dialled = dialled
        (accepted,) = self.server.outcomes()
        assert isinstance(accepted, Accepted)
        assert isinstance(accepted.connection, MemoryConnection)
        self.accepted = accepted.connection
        assert self.client.outcomes() == [Connected(dialled)]

    def hear(self) -> list[bytes]:
        return [bytes(o.data) for o in self.server.outcomes() if isinstance(o, Received)]


def _codes(outcomes: list[TransportOutcome]) -> list[str]:
    return [o.code for o in outcomes if isinstance(o, Disconnected | ConnectFailed)]


def test_messages_arrive_in_order_then_the_end() -> None:
    world = World()
    for text in (b"a", b"b"):
        assert world.dialled.send(text) is SendResult.SENT
    world.dialled.abort()
    assert [type(o).__name__ for o in world.server.outcomes()] == ["Received", "Received", "Disconnected"]
    assert _codes(world.client.outcomes()) == ["aborted"]
    assert world.accepted.send(b"x") is SendResult.GONE
    world.accepted.abort()
    assert world.server.outcomes() == []


def test_faults_by_request() -> None:
    world = World()
    world.dialled.drop(1)
    for text in (b"lost", b"kept"):
        world.dialled.send(text)
    assert world.hear() == [b"kept"]
    world.dialled.delay(2.0)
    world.dialled.send(b"late")
    world.dialled.delay(0.0)
    world.dialled.send(b"not overtaking")
    assert world.hear() == []
    assert world.server.next_timer() == 2.0
    world.now = 2.0
    assert world.server.has_more
    assert world.hear() == [b"late", b"not overtaking"]
    world.dialled.stall()
    assert world.dialled.send(b"x") is SendResult.PARKED
    world.dialled.resume()
    assert world.client.outcomes() == [Writable(world.dialled)]
    world.dialled.send(b"under way")
    world.dialled.cut()
    assert _codes(world.server.outcomes()) == ["reset"]
    assert _codes(world.client.outcomes()) == ["reset"]


def test_endpoints_come_and_go() -> None:
    world = World()
    with pytest.raises(TransportError) as error:
        world.client.listen(world.endpoint)
    assert error.value.code == "address_in_use"
    world.server.unlisten(world.endpoint)
    assert _codes(world.server.outcomes()) == ["unlistened"]
    assert _codes(world.client.outcomes()) == ["closed"]
    world.client.dial(world.endpoint, ("manager", world.endpoint.port))
    assert _codes(world.client.outcomes()) == ["refused"]
