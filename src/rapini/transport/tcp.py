"""The TCP transport: the same visible connections over plain sockets, as byte streams.

Where it sits: beside `zmq`, same contract. It is the listener for hostile networks (no third party's protocol in front
of TLS) and the yardstick for what 0MQ costs. Framing is the owner's business: a `Received` is what one read returned.

Reading is level-triggered: one read a turn and connection, so nobody is starved and nothing is forgotten. Writing goes
to the socket at once; what it does not take is kept, up to a bound, and written when the kernel makes room. Above the
bound `send()` parks. A peer that closes its sending half is over for us: a monitor has no use for half a link, and an
owner who wants a last word says it with `close()`.

Source: tcp(7), connect(2); requirements.md rows 18 and 33, D3 idea 7 (half-close, accept errors).
"""

from __future__ import annotations

import contextlib
import selectors
import socket as sockets
import time
from collections.abc import Callable
from typing import TypeAlias

from rapini.errors import TransportError
from rapini.transport.base import (
    Address,
    Connected,
    ConnectFailed,
    Connection,
    Counters,
    Disconnected,
    Options,
    Registration,
    TransportOutcome,
    Wake,
    format_address,
)
from rapini.transport.endpoint import Endpoint
from rapini.transport.tcp_connection import READ_BYTES, TcpConnection, connect_error
from rapini.transport.tcp_listener import TcpListener

__all__ = ["TcpTransport"]

TURN_BYTES = 2 * 1024 * 1024
"""A turn reads no more than this in all, so that the node's lock is free again soon."""

Target: TypeAlias = TcpListener | TcpConnection


class TcpTransport:
    """Connections over TCP. See `base.Transport`.

    Args:
        poller: The node's selector.
        wake: Makes the node's I/O thread return from it.
        options: Bounds and deadlines.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        poller: selectors.BaseSelector,
        wake: Wake,
        options: Options | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options = options or Options()
        self.clock = clock
        self.counters = Counters()
        self.pending: list[TransportOutcome] = []
        self.read_buffer = memoryview(bytearray(READ_BYTES))
        self._poller = poller
        self._wake = wake
        self._is_awake = False
        self._listeners: dict[str, TcpListener] = {}
        self._connections: set[TcpConnection] = set()
        self._ready: dict[Target, int] = {}
        self._timers: dict[Target, float] = {}

    # --- the node's side ---------------------------------------------------------------------------------------------

    def listen(self, endpoint: Endpoint) -> Endpoint:
        """See `base.Transport.listen`."""
        listener = TcpListener(self, endpoint)
        self._listeners[listener.url] = listener
        self.register(listener.socket, selectors.EVENT_READ, listener)
        return listener.endpoint

    def unlisten(self, endpoint: Endpoint) -> None:
        """See `base.Transport.unlisten`."""
        listener = self._listeners.pop(str(endpoint), None)
        if listener is None:
            return
        self._forget(listener)
        listener.close()
        for connection in [c for c in self._connections if c.listener is listener]:
            self.end(connection, "unlistened", "the endpoint was given up")
        self.wake_up()

    def dial(self, endpoint: Endpoint, address: Address) -> Connection:
        """See `base.Transport.dial`."""
        if endpoint.port == 0 or endpoint.is_wildcard:
            raise TransportError("bad_address", f"nobody can dial {endpoint}")
        family = sockets.AF_INET6 if ":" in str(address[0]) else sockets.AF_INET
        try:
            socket = sockets.socket(family, sockets.SOCK_STREAM | sockets.SOCK_NONBLOCK)
        except OSError as error:
            raise TransportError("dial_failed", f"cannot dial {endpoint}: {error.strerror}") from error
        connection = TcpConnection(self, socket, endpoint=str(endpoint), address=format_address(address))
        self._connections.add(connection)
        self.register(socket, selectors.EVENT_WRITE, connection)
        self.set_timer(connection, self.clock() + self.options.connect_timeout_s)
        try:
            socket.connect(address)
        except BlockingIOError:
            pass
        except OSError as error:
            self.fail(connection, error)
        return connection

    def on_ready(self, key: selectors.SelectorKey, mask: int) -> None:
        """See `base.Transport.on_ready`. A connection that ended since `select()` is known no more."""
        target = key.data.target
        if target in self._connections or target in self._listeners.values():
            self._ready[target] = mask

    def outcomes(self) -> list[TransportOutcome]:
        """See `base.Transport.outcomes`."""
        now = self.clock()
        self._is_awake = True
        self._run_timers(now)
        ready, self._ready = self._ready, {}
        stop_at = self.counters.bytes_received + TURN_BYTES
        for target, mask in ready.items():
            if self.counters.bytes_received >= stop_at:
                self._ready[target] = mask
            elif isinstance(target, TcpListener):
                target.accept(now)
            elif target in self._connections:
                target.work(mask)
        self._is_awake = False
        out, self.pending = self.pending, []
        return out

    @property
    def has_more(self) -> bool:
        """See `base.Transport.has_more`."""
        return bool(self._ready or self.pending)

    def next_timer(self) -> float | None:
        """See `base.Transport.next_timer`."""
        return min(self._timers.values(), default=None)

    def close(self) -> None:
        """See `base.Transport.close`."""
        for connection in list(self._connections):
            self._forget(connection)
            connection.shut()
        for listener in self._listeners.values():
            self._forget(listener)
            listener.close()
        self._connections.clear()
        self._listeners.clear()
        self.pending.clear()

    # --- the connections' side ---------------------------------------------------------------------------------------

    def adopt(self, connection: TcpConnection) -> None:
        """Take an accepted connection in."""
        self._connections.add(connection)
        self.register(connection.socket, selectors.EVENT_READ, connection)

    def register(self, socket: sockets.socket, events: int, target: Target) -> None:
        """Have the node wait for a socket."""
        self._poller.register(socket, events, Registration(self, target))

    def rewatch(self, socket: sockets.socket, events: int, target: Target) -> None:
        """Wait for something else from now on; `epoll` takes that even while the I/O thread waits."""
        self._poller.modify(socket, events, Registration(self, target))

    def pause(self, listener: TcpListener) -> None:
        """Wait for this listener no longer, until it registers again."""
        self._poller.unregister(listener.socket)

    def set_timer(self, target: Target, when: float | None) -> None:
        """When a target must have a turn even if it is not ready."""
        if when is None:
            self._timers.pop(target, None)
            return
        earliest = self.next_timer()
        self._timers[target] = when
        if earliest is None or when < earliest:
            self.wake_up()

    def connected(self, connection: TcpConnection) -> None:
        """A dialled connection is there."""
        self.set_timer(connection, None)
        self.counters.connected += 1
        self.pending.append(Connected(connection))

    def fail(self, connection: TcpConnection, error: OSError) -> None:
        """A dialled connection did not come about."""
        code, detail = connect_error(error, connection.address)
        self.counters.connect_failed += 1
        self._drop(connection, ConnectFailed(connection, code, detail))

    def end(self, connection: TcpConnection, code: str, detail: str) -> None:
        """Close a connection and report its end, once."""
        if connection in self._connections:
            self.counters.ended += 1
            self._drop(connection, Disconnected(connection, code, detail))

    def refuse(self, connection: TcpConnection, cause: str, detail: str) -> None:
        """End an accepted connection because of what it does."""
        self.counters.refused[cause] += 1
        self.end(connection, cause, detail)

    def wake_up(self) -> None:
        """Ask for `outcomes()` to be called soon."""
        if not self._is_awake:
            self._is_awake = True
            self._wake()

    def _drop(self, connection: TcpConnection, last: ConnectFailed | Disconnected) -> None:
        self._forget(connection)
        self._connections.discard(connection)
        connection.shut()
        self.pending.append(last)
        self.wake_up()

    def _forget(self, target: Target) -> None:
        self._ready.pop(target, None)
        self._timers.pop(target, None)
        with contextlib.suppress(KeyError, ValueError):  # a listener in its pause is not registered
            self._poller.unregister(target.socket)

    def _run_timers(self, now: float) -> None:
        for target in [t for t, timer in self._timers.items() if timer <= now]:
            self._timers.pop(target, None)
            target.on_timer(now)
