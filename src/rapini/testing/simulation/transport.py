"""The node's transport over the simulated network: `rapini.transport.base`, without descriptors.

A node asks for `tcp` or `zmq` and gets this: streams whose bytes arrive cut anywhere, or messages that arrive whole.
A transport belongs to one process; when that is killed, the kernel ends its connections, or nobody does.
"""

from __future__ import annotations

from random import Random
from selectors import SelectorKey
from typing import TYPE_CHECKING, Final

from rapini.transport.base import (
    Address,
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

if TYPE_CHECKING:
    from rapini.testing.simulation.network import Host, SimNetwork
    from rapini.testing.simulation.pipe import Pipe

__all__ = ["SimConnection", "SimTransport"]

_MAX_OUTCOMES: Final = 64
"""Outcomes of one call: the rest is `has_more`, as with the real ones."""

_CUT_CHANCE: Final = 0.15
"""How often what is sent as one arrives in pieces, where the carrier is a stream."""


class SimConnection(Connection):
    """One end of a connection. `out` takes what it sends; `inn` is the other direction."""

    __slots__ = ("inn", "is_answered", "is_closing", "is_ended", "is_over", "other", "out", "owner")

    def __init__(self, owner: SimTransport, endpoint: str, address: str, *, is_dialled: bool) -> None:
        super().__init__(
            endpoint=endpoint, address=address, is_dialled=is_dialled, is_message_based=owner.is_message_based
        )
        self.owner = owner
        self.out: Pipe | None = None
        self.inn: Pipe | None = None
        self.other: SimConnection | None = None
        self.is_answered = True
        """What is sent after the other end is over is answered with a reset."""
        self.is_closing = False
        self.is_ended = False
        """The stream towards us has ended."""
        self.is_over = False
        """Its terminal outcome was reported."""

    # --- the contract ------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> SendResult:
        """See `base.Connection.send`."""
        if self.is_over or self.is_closing or self.is_ended or self.out is None:
            return SendResult.GONE
        owner = self.owner
        pieces = [data] if self.is_message_based else owner.cut(data)
        if not self.out.send(pieces):
            owner.counters.parked += 1
            return SendResult.PARKED
        owner.counters.messages_sent += 1
        owner.counters.bytes_sent += len(data)
        owner.network.noticed_dead_peer(self)
        return SendResult.SENT

    def abort(self) -> None:
        """See `base.Connection.abort`."""
        if self.is_over:
            return
        if self.out is not None:
            self.out.reset(self.out.path.latency())
        self.finish("aborted")

    def close(self, linger_s: float = 0.5) -> None:
        """See `base.Connection.close`."""
        if self.is_over or self.is_closing:
            return
        self.is_closing = True
        if self.out is not None:
            self.out.end("closed")
        owner = self.owner
        owner.network.world.after(owner.random.random() * linger_s, lambda: self.finish("aborted"))

    # --- for pipes and the network -----------------------------------------------------------------------------------

    def arrived(self, data: bytes) -> None:
        """Bytes came out of the pipe into the kernel's buffer."""
        if self.is_over or self.is_closing:
            return
        self.owner.report(Received(self, data))

    def ended(self, code: str) -> None:
        """The stream ends here."""
        self.is_ended = True
        self.finish("aborted" if self.is_closing else code)

    def writable(self) -> None:
        """The pipe has room again."""
        if not self.is_over and not self.is_closing:
            self.owner.report(Writable(self))

    def finish(self, code: str) -> None:
        """Report the terminal outcome, once."""
        if self.is_over:
            return
        self.is_over = True
        self.owner.forget(self)
        self.owner.counters.ended += 1
        self.owner.report(Disconnected(self, code, f"simulated: {code}"))


class SimTransport:
    """Connections of one process. See `base.Transport`.

    Args:
        network: What joins the hosts.
        host: Where the process runs.
        wake: Wakes the node's loop.
        options: Deadlines.
        random: Chance, for the cutting of streams and for lingering.
        is_message_based: Messages, as 0MQ's; else a stream.
    """

    def __init__(
        self,
        network: SimNetwork,
        host: Host,
        wake: Wake,
        options: Options,
        random: Random,
        *,
        is_message_based: bool,
    ) -> None:
        self.network = network
        self.host = host
        self.options = options
        self.random = random
        self.is_message_based = is_message_based
        self.counters = Counters()
        self.connections: dict[SimConnection, None] = {}
        self.is_gone = False
        self._wake = wake
        self._arrived: list[TransportOutcome] = []

    def listen(self, endpoint: Endpoint) -> Endpoint:
        """See `base.Transport.listen`."""
        return self.network.listen(self, endpoint)

    def unlisten(self, endpoint: Endpoint) -> None:
        """See `base.Transport.unlisten`."""
        self.network.unlisten(self, endpoint)
        for connection in [c for c in self.connections if not c.is_dialled and c.endpoint == str(endpoint)]:
            if connection.out is not None:
                connection.out.end("closed")
            connection.finish("unlistened")

    def dial(self, endpoint: Endpoint, address: Address) -> Connection:
        """See `base.Transport.dial`."""
        connection = SimConnection(self, str(endpoint), f"{address[0]}:{address[1]}", is_dialled=True)
        self.network.dial(connection, str(address[0]), int(address[1]))
        return connection

    def on_ready(self, key: SelectorKey, mask: int) -> None:
        """Never called: nothing is registered."""

    def outcomes(self) -> list[TransportOutcome]:
        """See `base.Transport.outcomes`."""
        taken = self._arrived[:_MAX_OUTCOMES]
        del self._arrived[:_MAX_OUTCOMES]
        out: list[TransportOutcome] = []
        for outcome in taken:
            if type(outcome) is Received:
                connection = outcome.connection
                if isinstance(connection, SimConnection) and connection.inn is not None:
                    if connection.is_closing or connection.owner is not self:
                        continue
                    connection.inn.read(len(outcome.data))
                self.counters.messages_received += 1
                self.counters.bytes_received += len(outcome.data)
            out.append(outcome)
        return out

    @property
    def has_more(self) -> bool:
        """See `base.Transport.has_more`."""
        return bool(self._arrived)

    def next_timer(self) -> float | None:
        """See `base.Transport.next_timer`: the world wakes us."""
        return None

    def close(self) -> None:
        """See `base.Transport.close`."""
        self.die("closed")

    # --- for connections and the network ---------------------------------------------------------------------------

    def report(self, outcome: TransportOutcome) -> None:
        """Have something returned by `outcomes()`."""
        if not self.is_gone:
            self._arrived.append(outcome)
            self._wake()

    def failed(self, connection: SimConnection, code: str) -> None:
        """A dialled connection did not come about."""
        if not connection.is_over:
            connection.is_over = True
            self.counters.connect_failed += 1
            self.report(ConnectFailed(connection, code, f"simulated: {code}"))

    def has_unread(self, connection: Connection) -> bool:
        """Whether bytes of a connection lie in the kernel, unread."""
        return any(type(outcome) is Received and outcome.connection is connection for outcome in self._arrived)

    def forget(self, connection: SimConnection) -> None:
        """A connection is over."""
        self.connections.pop(connection, None)

    def cut(self, data: bytes) -> list[bytes]:
        """A stream has no messages: what was sent as one may arrive in pieces."""
        random = self.random
        if len(data) < 2 or random.random() >= _CUT_CHANCE:
            return [data]
        at = random.randrange(1, len(data))
        return [data[:at], data[at:]]

    def die(self, how: str) -> None:
        """The process is gone. The kernel says `closed` or `reset` for it, or the machine went down: `vanish`."""
        self.is_gone = True
        self.network.forget(self)
        for connection in list(self.connections):
            connection.is_over = True
            if connection.inn is not None:
                connection.inn.is_broken = True
            if connection.out is None:
                continue
            if how == "vanish":
                connection.out.swallow()
            elif how == "reset":
                connection.out.reset(connection.out.path.latency())
            else:
                connection.out.end("closed")
        self.connections.clear()
        self._arrived.clear()
