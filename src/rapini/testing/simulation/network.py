"""The simulated network: hosts, the paths between them, and what can go wrong on the way.

Everything follows from the seed. Hosts have addresses `127.0.0.N`, which the node's resolver takes as they are, so that
no look-up and no thread is needed. Faults are applied by `rapini.testing.simulation.nemesis`; here is what they do.

This models connections. A channel over datagrams, which lose, repeat and overtake, gets a `Pipe` of its own that puts
its items in another order (`Pipe._put` is the one place that keeps it); nothing else here knows of streams.
"""

from __future__ import annotations

import itertools

from rapini.errors import TransportError
from rapini.testing.simulation.pipe import Path, Pipe
from rapini.testing.simulation.transport import SimConnection, SimTransport
from rapini.testing.simulation.world import World
from rapini.transport.base import Accepted, Connected
from rapini.transport.endpoint import Endpoint

__all__ = ["Host", "SimNetwork"]

_SYN_RETRIES_S = (0.0, 1.0, 3.0)
"""When a connection request is sent, and sent again: Linux's first three."""


_ANSWERED_CHANCE = 0.5
"""How often a kernel's reset reaches whoever still sends on a connection that has ended there."""


class Host:
    """A machine with one address and at most one process of ours."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.is_on = True
        """Off, it answers nothing; on without a process, it refuses."""
        self.ports: dict[int, tuple[SimTransport, Endpoint]] = {}


class SimNetwork:
    """Joins the hosts of one simulation.

    Args:
        world: Whose time and chance count.
        capacity: What a connection holds in one direction before it takes no more, in bytes.
    """

    def __init__(
        self, world: World, *, capacity: int = 1 << 16, delay_s: float = 0.001, jitter_s: float = 0.004
    ) -> None:
        self.world = world
        self.capacity = capacity
        self.hosts: dict[str, Host] = {}
        self.connections: dict[SimConnection, None] = {}
        """Dialled ends of all connections that may still be alive at either end."""
        self.random = world.random("network")
        self.refusals: dict[str, int] = {}
        """Dials to a host that will be refused, by its name."""
        self.accept_delay_s: dict[str, float] = {}
        """How late a host accepts, by its name."""
        self._delay_s = delay_s
        self._jitter_s = jitter_s
        self._paths: dict[tuple[str, str], Path] = {}
        self._by_address: dict[str, Host] = {}
        self._ports = itertools.count(20_000)

    def add_host(self, name: str) -> Host:
        """Add a machine; its address follows from how many there are."""
        host = Host(name, f"127.0.0.{len(self.hosts) + 1}")
        self.hosts[name] = host
        self._by_address[host.address] = host
        return host

    def path(self, source: str, target: str) -> Path:
        """The way from one host to another."""
        path = self._paths.get((source, target))
        if path is None:
            random = self.world.random("path", source, target)
            path = Path(self._delay_s * (0.5 + random.random()), self._jitter_s * random.random(), random)
            self._paths[source, target] = path
        return path

    # --- for transports ----------------------------------------------------------------------------------------------

    def listen(self, transport: SimTransport, endpoint: Endpoint) -> Endpoint:
        """Open a port of the transport's host."""
        bound = endpoint if endpoint.port else endpoint.with_port(next(self._ports))
        ports = transport.host.ports
        if bound.port in ports:
            raise TransportError("address_in_use", f"cannot listen on {bound}: something else listens there")
        ports[bound.port] = (transport, bound)
        return bound

    def unlisten(self, transport: SimTransport, endpoint: Endpoint) -> None:
        """Close a port."""
        if transport.host.ports.get(endpoint.port, (None, None))[0] is transport:
            del transport.host.ports[endpoint.port]

    def forget(self, transport: SimTransport) -> None:
        """A process is gone: its ports are closed."""
        ports = transport.host.ports
        for port in [port for port, (owner, _) in ports.items() if owner is transport]:
            del ports[port]

    def dial(self, connection: SimConnection, address: str, port: int) -> None:
        """Begin to connect."""
        host = self._by_address.get(address)
        timeout_s = connection.owner.options.connect_timeout_s
        self.world.after(timeout_s, lambda: _fail(connection, "timeout"))
        if host is None:
            return
        there = self.path(connection.owner.host.name, host.name)
        for pause_s in _SYN_RETRIES_S:
            if pause_s < timeout_s:
                self.world.after(pause_s + there.latency(), lambda: self._request(connection, host, port))

    def _request(self, connection: SimConnection, host: Host, port: int) -> None:
        """A connection request reaches a host, if it does."""
        dialler = connection.owner
        if connection.is_over or connection.other is not None or dialler.is_gone:
            return
        there, back = self.path(dialler.host.name, host.name), self.path(host.name, dialler.host.name)
        if not host.is_on or there.is_blocked or back.is_blocked:
            return
        listener, bound = host.ports.get(port, (None, None))
        refusals = self.refusals.get(host.name, 0)
        if listener is None or refusals > 0:
            self.refusals[host.name] = max(0, refusals - 1)
            self.world.after(back.latency(), lambda: _fail(connection, "refused"))
            return
        self._join(connection, listener, str(bound), there, back)

    def _join(self, ours: SimConnection, listener: SimTransport, bound: str, there: Path, back: Path) -> None:
        now = self.world.now
        theirs = SimConnection(listener, bound, f"{ours.owner.host.address}:0", is_dialled=False)
        ours.other, theirs.other = theirs, ours
        ours.is_answered = theirs.is_answered = self.random.random() < _ANSWERED_CHANCE
        connected_at = now + back.latency()
        accepted_at = connected_at + there.latency() + self.accept_delay_s.get(listener.host.name, 0.0)
        ours.out = theirs.inn = Pipe(
            self.world, there, theirs, ours.writable, capacity=self.capacity, opened_at=accepted_at
        )
        theirs.out = ours.inn = Pipe(
            self.world, back, ours, theirs.writable, capacity=self.capacity, opened_at=connected_at
        )
        ours.owner.connections[ours] = None
        listener.connections[theirs] = None
        self.connections[ours] = None
        self.world.at(connected_at, lambda: self._connected(ours))
        self.world.at(accepted_at, lambda: self._accepted(theirs))

    def _connected(self, connection: SimConnection) -> None:
        if not connection.is_over:
            connection.owner.counters.connected += 1
            connection.owner.report(Connected(connection))

    def _accepted(self, connection: SimConnection) -> None:
        if not connection.is_over:
            connection.owner.counters.accepted += 1
            connection.owner.report(Accepted(connection))

    def noticed_dead_peer(self, connection: SimConnection) -> None:
        """Bytes for a connection that is no more: the kernel there, where one runs, answers with a reset."""
        other, inn = connection.other, connection.inn
        if other is None or inn is None or not other.is_over or not other.owner.host.is_on:
            return
        if not (connection.is_answered or other.owner.is_gone):
            return  # something between lost its memory of the connection, and the reset with it
        if not (inn.path.is_blocked or other.inn is None or other.inn.path.is_blocked):
            delay_s = other.inn.path.latency() + inn.path.latency()
            self.world.after(delay_s, lambda: connection.ended("reset"))

    # --- faults ------------------------------------------------------------------------------------------------------

    def live_connections(self, names: tuple[str, str] | None = None) -> list[SimConnection]:
        """Dialled ends of connections that are alive at both ends, of two hosts or of all."""
        for connection in [c for c in self.connections if c.is_over and (c.other is None or c.other.is_over)]:
            del self.connections[connection]
        return [c for c in self.connections if _is_alive(c) and (names is None or _names(c) in (names, names[::-1]))]

    def cut(self, connection: SimConnection, delays_s: tuple[float, float]) -> None:
        """Reset both ends, each so much later."""
        if connection.out is not None:
            connection.out.reset(delays_s[0])
        if connection.inn is not None:
            connection.inn.reset(delays_s[1])

    def block(self, source: str, target: str) -> None:
        """Let nothing through in one direction."""
        self.path(source, target).blocks += 1

    def unblock(self, source: str, target: str, *, dies: float = 0.0) -> None:
        """End a `block`; what stalled goes on, or dies with this chance (the kernel has given up meanwhile)."""
        path = self.path(source, target)
        path.blocks -= 1
        if path.is_blocked:
            return
        path.ended_at = self.world.now
        stalled, path.stalled = path.stalled, []
        for pipe in stalled:
            if self.random.random() < dies:
                pipe.reset(path.latency())
            pipe.healed()


def _fail(connection: SimConnection, code: str) -> None:
    if connection.other is None:
        connection.owner.failed(connection, code)


def _is_alive(connection: SimConnection) -> bool:
    other = connection.other
    return other is not None and not connection.is_over and not other.is_over and not connection.is_closing


def _names(connection: SimConnection) -> tuple[str, str]:
    other = connection.other
    return connection.owner.host.name, other.owner.host.name if other is not None else ""
