"""Connections inside one process, for tests: the same contract, no sockets, and faults by request.

Where it sits: beside `zmq` and `tcp`; `rapini.testing` shows it to users. Every transport made with the same
`MemoryNetwork` can reach the others by endpoint (`memory+tls://manager:1`). The network's clock is the test's.

Faults are asked for per connection, and act on what its own end sends: `drop()` loses the next messages, `delay()`
makes all later ones late (in order), `stall()` makes sends park until `resume()`, `cut()` ends both sides as a cable
would that somebody pulled, with a reset.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable
from selectors import SelectorKey

from rapini.errors import TransportError
from rapini.transport.base import (
    Accepted,
    Address,
    Connected,
    ConnectFailed,
    Connection,
    Counters,
    Disconnected,
    Options,
    Received,
    SendResult,
    TransportOutcome,
    Wake,
    Writable,
)
from rapini.transport.endpoint import Endpoint

__all__ = ["MemoryConnection", "MemoryNetwork", "MemoryTransport"]


class MemoryNetwork:
    """What joins the transports of one test.

    Args:
        clock: Monotonic seconds, real or virtual.
        is_message_based: Whether its connections keep the bounds of messages, as 0MQ's do.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, is_message_based: bool = True) -> None:
        self.clock = clock
        self.is_message_based = is_message_based
        self.listeners: dict[tuple[str, int], tuple[MemoryTransport, Endpoint]] = {}
        self.ports = itertools.count(1)


class MemoryConnection(Connection):
    """One end; `peer` is the other."""

    __slots__ = ("_delay_s", "_drops", "_is_parked", "_is_stalled", "inbox", "is_over", "owner", "peer")

    def __init__(self, owner: MemoryTransport, endpoint: str, address: str, *, is_dialled: bool) -> None:
        super().__init__(
            endpoint=endpoint,
            address=address,
            is_dialled=is_dialled,
            is_message_based=owner.network.is_message_based,
        )
        self.owner = owner
        self.peer: MemoryConnection | None = None
        self.inbox: deque[tuple[float, Received | Disconnected]] = deque()
        self.is_over = False
        self._is_parked = False
        self._is_stalled = False
        self._delay_s = 0.0
        self._drops = 0

    # --- the contract ------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> SendResult:
        """See `base.Connection.send`."""
        if self.is_over or self.peer is None:
            return SendResult.GONE
        counters = self.owner.counters
        if self._is_stalled:
            counters.parked += 1
            self._is_parked = True
            return SendResult.PARKED
        counters.messages_sent += 1
        counters.bytes_sent += len(data)
        if self._drops:
            self._drops -= 1
        else:
            self.peer.take(Received(self.peer, bytes(data)), self._delay_s)
        return SendResult.SENT

    def abort(self) -> None:
        """See `base.Connection.abort`."""
        self.end("aborted", "we ended the connection", "closed", "the peer closed the connection")

    def close(self, linger_s: float = 0.5) -> None:
        """See `base.Connection.close`; in memory nothing needs to linger."""
        self.abort()

    # --- faults ------------------------------------------------------------------------------------------------------

    def drop(self, count: int = 1) -> None:
        """Lose the next messages sent from this end."""
        self._drops += count

    def delay(self, seconds: float) -> None:
        """Make all that is sent from this end late."""
        self._delay_s = seconds

    def stall(self) -> None:
        """Park every send from this end."""
        self._is_stalled = True

    def resume(self) -> None:
        """Take sends again."""
        self._is_stalled = False
        if self._is_parked and not self.is_over:
            self._is_parked = False
            self.owner.report(Writable(self))

    def cut(self) -> None:
        """End both sides with a reset; what is under way is lost."""
        peer = self.peer
        for end in (self, peer):
            if end is not None:
                end.inbox.clear()
        self.end("reset", "the connection was cut", "reset", "the connection was cut")

    # --- inside ------------------------------------------------------------------------------------------------------

    def take(self, outcome: Received | Disconnected, delay_s: float) -> None:
        """Something is on its way to this end. For the other end."""
        arrives = self.owner.network.clock() + delay_s
        if self.inbox:
            arrives = max(arrives, self.inbox[-1][0])  # never overtakes
        self.inbox.append((arrives, outcome))
        self.owner.wake()

    def end(self, code: str, detail: str, peer_code: str, peer_detail: str) -> None:
        """End both sides, each with its own reason. For the transport."""
        if self.is_over:
            return
        self.is_over = True
        self.inbox.clear()
        self.inbox.append((self.owner.network.clock(), Disconnected(self, code, detail)))
        self.owner.wake()
        peer, self.peer = self.peer, None
        if peer is not None and not peer.is_over:
            peer.is_over = True
            peer.peer = None
            peer.take(Disconnected(peer, peer_code, peer_detail), self._delay_s)

    def take_due(self, now: float, out: list[TransportOutcome]) -> bool:
        """Move what has arrived to `out`; returns whether this end is over. For the transport."""
        counters = self.owner.counters
        while self.inbox and self.inbox[0][0] <= now:
            _, outcome = self.inbox.popleft()
            out.append(outcome)
            if isinstance(outcome, Disconnected):
                counters.ended += 1
                return True
            counters.messages_received += 1
            counters.bytes_received += len(outcome.data)
        return False

    def next_arrival(self) -> float | None:
        """When the next thing arrives. For the transport."""
        return self.inbox[0][0] if self.inbox else None


class MemoryTransport:
    """Connections within a `MemoryNetwork`. See `base.Transport`; there are no descriptors, so `wake` matters.

    Args:
        network: What it is part of.
        wake: Called when `outcomes()` should be.
        options: Unused bounds, kept for symmetry.
    """

    def __init__(self, network: MemoryNetwork, wake: Wake = lambda: None, options: Options | None = None) -> None:
        self.network = network
        self.wake = wake
        self.options = options or Options()
        self.counters = Counters()
        self._pending: list[TransportOutcome] = []
        self.connections: dict[MemoryConnection, None] = {}

    def listen(self, endpoint: Endpoint) -> Endpoint:
        """See `base.Transport.listen`."""
        bound = endpoint if endpoint.port else endpoint.with_port(next(self.network.ports))
        key = (bound.host, bound.port)
        if key in self.network.listeners:
            raise TransportError("address_in_use", f"cannot listen on {bound}: something else listens there")
        self.network.listeners[key] = (self, bound)
        return bound

    def unlisten(self, endpoint: Endpoint) -> None:
        """See `base.Transport.unlisten`."""
        owner, _ = self.network.listeners.get((endpoint.host, endpoint.port), (None, None))
        if owner is not self:
            return
        del self.network.listeners[endpoint.host, endpoint.port]
        for connection in list(self.connections):
            if not connection.is_dialled and connection.endpoint == str(endpoint):
                connection.end("unlistened", "the endpoint was given up", "closed", "the peer closed the connection")

    def dial(self, endpoint: Endpoint, address: Address) -> Connection:
        """See `base.Transport.dial`; the address is as written in the endpoint listened on."""
        connection = MemoryConnection(self, str(endpoint), f"{address[0]}:{address[1]}", is_dialled=True)
        listener, bound = self.network.listeners.get((str(address[0]), int(address[1])), (None, None))
        if listener is None:
            self.counters.connect_failed += 1
            self.report(ConnectFailed(connection, "refused", f"nobody listens on {connection.address}"))
            return connection
        other = MemoryConnection(listener, str(bound), f"memory:{connection.id}", is_dialled=False)
        connection.peer, other.peer = other, connection
        self.connections[connection] = None
        listener.connections[other] = None
        self.counters.connected += 1
        listener.counters.accepted += 1
        self.report(Connected(connection))
        listener.report(Accepted(other))
        return connection

    def on_ready(self, key: SelectorKey, mask: int) -> None:
        """Never called: nothing is registered."""

    def outcomes(self) -> list[TransportOutcome]:
        """See `base.Transport.outcomes`."""
        out, self._pending = self._pending, []
        now = self.network.clock()
        for connection in [c for c in self.connections if c.take_due(now, out)]:
            del self.connections[connection]
        return out

    @property
    def has_more(self) -> bool:
        """See `base.Transport.has_more`."""
        timer = self.next_timer()
        return bool(self._pending) or (timer is not None and timer <= self.network.clock())

    def next_timer(self) -> float | None:
        """See `base.Transport.next_timer`."""
        arrivals = (connection.next_arrival() for connection in self.connections)
        return min((a for a in arrivals if a is not None), default=None)

    def close(self) -> None:
        """See `base.Transport.close`."""
        for key in [k for k, (owner, _) in self.network.listeners.items() if owner is self]:
            del self.network.listeners[key]
        for connection in list(self.connections):
            connection.abort()
        self.connections.clear()
        self._pending.clear()

    def report(self, outcome: TransportOutcome) -> None:
        """Have an outcome returned by the next `outcomes()`. For connections."""
        self._pending.append(outcome)
        self.wake()
