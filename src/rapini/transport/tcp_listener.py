"""A listening TCP socket, and what may be half open at it.

Where it sits: made and kept by `tcp`. An accept that fails because this process or machine is out of descriptors leaves
the socket ready for ever; so accepting pauses a moment, instead of turning in a loop.
"""

from __future__ import annotations

import errno
import selectors
import socket as sockets
from typing import TYPE_CHECKING, Final

from rapini.errors import TransportError
from rapini.transport.base import Accepted, format_address
from rapini.transport.endpoint import Endpoint
from rapini.transport.gate import HalfOpenGate
from rapini.transport.listen_error import listen_error
from rapini.transport.tcp_connection import TcpConnection

if TYPE_CHECKING:
    from rapini.transport.tcp import TcpTransport

__all__ = ["TcpListener"]

BACKLOG: Final = 512
ACCEPTS_PER_TURN: Final = 64
PAUSE_S: Final = 0.1


class TcpListener:
    """One bound socket.

    Args:
        transport: The owner.
        endpoint: Where to listen; `endpoint` is what was bound.

    Raises:
        TransportError: It cannot be bound.
    """

    def __init__(self, transport: TcpTransport, endpoint: Endpoint) -> None:
        self.transport = transport
        self.gate: HalfOpenGate[TcpConnection] = HalfOpenGate(transport.options)
        self.socket = _bind(endpoint)
        self.endpoint = endpoint.with_port(self.socket.getsockname()[1])
        self.url = str(self.endpoint)
        self._is_paused = False

    def accept(self, now: float) -> None:
        """Accept what waits, within a turn's bound."""
        for _ in range(ACCEPTS_PER_TURN):
            try:
                socket, address = self.socket.accept()
            except BlockingIOError:
                break
            except OSError as error:
                self.transport.counters.accept_errors[errno.errorcode.get(error.errno or 0, "unknown")] += 1
                if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                    self._pause(now)
                    break
                continue  # ECONNABORTED and its like concern that one connection
            self._take(socket, address, now)
        self._retime()

    def on_timer(self, now: float) -> None:
        """End those silent for too long; go on accepting after a pause."""
        for connection in self.gate.take_overdue(now):
            self.transport.refuse(connection, "silent", "nothing was sent in time")
        if self._is_paused:
            self._is_paused = False
            self.transport.register(self.socket, selectors.EVENT_READ, self)
        self._retime()

    def close(self) -> None:
        """Close the socket; for the transport."""
        self.socket.close()

    def _take(self, socket: sockets.socket, address: object, now: float) -> None:
        socket.setblocking(False)
        try:
            connection = TcpConnection(
                self.transport, socket, endpoint=self.url, address=format_address(address), listener=self
            )
        except OSError:  # reset meanwhile: setsockopt says so
            socket.close()
            return
        is_admitted, pushed_out = self.gate.admit(connection, now)
        if pushed_out is not None:
            pushed_out.make_room()
        if not is_admitted:
            self.transport.counters.refused["half_open_limit"] += 1
            socket.close()
            return
        self.transport.counters.accepted += 1
        self.transport.adopt(connection)
        self.transport.pending.append(Accepted(connection))

    def _pause(self, now: float) -> None:
        self._is_paused = True
        self.transport.pause(self)
        self.transport.set_timer(self, now + PAUSE_S)

    def _retime(self) -> None:
        if not self._is_paused:
            self.transport.set_timer(self, self.gate.next_timer())


def _bind(endpoint: Endpoint) -> sockets.socket:
    """A listening socket; `*` and `::` take IPv4 too, as with 0MQ."""
    try:
        host = "::" if endpoint.host == "*" and sockets.has_dualstack_ipv6() else endpoint.host
        if host == "*":
            host = "0.0.0.0"  # noqa: S104 - asked for
        family, _, _, _, address = sockets.getaddrinfo(host, endpoint.port, type=sockets.SOCK_STREAM)[0]
    except sockets.gaierror as error:
        raise TransportError("bad_address", f"cannot listen on {endpoint}: {error.strerror}") from error
    socket = sockets.socket(family, sockets.SOCK_STREAM | sockets.SOCK_NONBLOCK)
    try:
        socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
        if family == sockets.AF_INET6:
            socket.setsockopt(sockets.IPPROTO_IPV6, sockets.IPV6_V6ONLY, 0)
        socket.bind(address)
        socket.listen(BACKLOG)
    except OSError as error:
        socket.close()
        raise listen_error(endpoint, error.errno or 0) from error
    return socket
