"""One TCP connection, dialled or accepted: its socket, its write buffer, its end.

Where it sits: made and kept by `tcp`, whose docstring tells how reading and writing go.
"""

from __future__ import annotations

import errno
import selectors
import socket as sockets
from collections import deque
from typing import TYPE_CHECKING, Final

from rapini.errors import LocalError
from rapini.transport.base import Connection, Received, SendResult, Writable
from rapini.transport.gate import SPOKEN_BYTES

if TYPE_CHECKING:
    from rapini.transport.tcp import TcpTransport
    from rapini.transport.tcp_listener import TcpListener

__all__ = ["READ_BYTES", "TcpConnection", "connect_error"]

READ_BYTES: Final = 256 * 1024
PARK_BYTES: Final = 256 * 1024
"""With this much unwritten, `send()` parks."""
RESUME_BYTES: Final = 64 * 1024
WRITE_PARTS: Final = 64  # buffers in one writev; Linux takes up to 1024

_KEEPALIVE_S: Final = 15
"""The session's heartbeat is quicker; this is for connections that have no session yet, or lost it."""


class TcpConnection(Connection):
    """See `base.Connection`.

    Args:
        transport: The owner.
        socket: Non-blocking.
        endpoint: The URL dialled or listened on.
        address: The peer's.
        listener: Where it was accepted; `None` if dialled.
    """

    __slots__ = (
        "_is_closing",
        "_is_connecting",
        "_is_over",
        "_is_parked",
        "_unwritten",
        "_unwritten_bytes",
        "listener",
        "socket",
        "taken_bytes",
        "transport",
    )

    def __init__(
        self,
        transport: TcpTransport,
        socket: sockets.socket,
        *,
        endpoint: str,
        address: str,
        listener: TcpListener | None = None,
    ) -> None:
        super().__init__(endpoint=endpoint, address=address, is_dialled=listener is None, is_message_based=False)
        self.transport = transport
        self.socket = socket
        self.listener = listener
        self.taken_bytes = 0
        self._is_connecting = listener is None
        self._is_closing = False
        self._is_over = False
        self._is_parked = False
        self._unwritten: deque[memoryview] = deque()
        self._unwritten_bytes = 0
        _set_options(socket)

    def _on_authenticated(self) -> None:
        if self.listener is not None:
            self.listener.gate.forget(self)

    # --- the owner's side --------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> SendResult:
        """See `base.Connection.send`."""
        if self._is_over or self._is_closing:
            return SendResult.GONE
        if len(data) > self.transport.options.max_message_bytes:
            raise LocalError("too_large", f"a message of {len(data)} bytes is larger than a carrier takes")
        counters = self.transport.counters
        if self._is_connecting or self._unwritten_bytes >= PARK_BYTES:
            counters.parked += 1
            self._is_parked = True
            return SendResult.PARKED
        taken = 0
        if not self._unwritten:
            try:
                taken = self.socket.send(data)
            except BlockingIOError:
                pass
            except OSError:
                return SendResult.GONE  # the read side, ready at once, finds out why and reports it
        if taken < len(data):
            self._keep(memoryview(data)[taken:])
        counters.messages_sent += 1
        counters.bytes_sent += len(data)
        return SendResult.SENT

    def abort(self) -> None:
        """See `base.Connection.abort`."""
        self.transport.end(self, "aborted", "we ended the connection")

    def close(self, linger_s: float = 0.5) -> None:
        """See `base.Connection.close`; the peer sees the stream's end after the last byte, not a reset."""
        if self._is_connecting:
            self.abort()
        elif not self._is_over and not self._is_closing:
            self._is_closing = True
            if self.listener is not None:
                self.listener.gate.closing(self)
            self.transport.set_timer(self, self.transport.clock() + linger_s)
            if not self._unwritten:
                self._finish_writing()

    # --- the transport's side ----------------------------------------------------------------------------------------

    def work(self, mask: int) -> None:
        """Its turn: finish connecting, write, read."""
        if self._is_connecting:
            self._finish_connecting()
            return
        if mask & selectors.EVENT_WRITE:
            self._write()
        if mask & selectors.EVENT_READ and not self._is_over:
            self._read()

    def on_timer(self, now: float) -> None:
        """The deadline of connecting, or of lingering."""
        if self._is_connecting:
            self.transport.fail(self, TimeoutError(errno.ETIMEDOUT, "no answer in time"))
        else:
            self.abort()

    def make_room(self) -> None:
        """End it for a newcomer."""
        if self._is_closing:
            self.abort()
        else:
            self.transport.refuse(self, "silent", "nothing was sent while others waited")

    def shut(self) -> None:
        """Close the socket; for the transport, which reports it."""
        self._is_over = True
        self._unwritten.clear()
        if self.listener is not None:
            self.listener.gate.forget(self)
        self.socket.close()

    def _finish_connecting(self) -> None:
        number = self.socket.getsockopt(sockets.SOL_SOCKET, sockets.SO_ERROR)
        if number == 0 and _is_connected_to_itself(self.socket):
            number = errno.ECONNREFUSED
        if number:
            self.transport.fail(self, OSError(number, "connect"))
            return
        self._is_connecting = False
        self.transport.rewatch(self.socket, selectors.EVENT_READ, self)
        self.transport.connected(self)
        self._unpark()

    def _read(self) -> None:
        buffer = self.transport.read_buffer
        try:
            size = self.socket.recv_into(buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._on_error(error)
            return
        if size == 0:
            code = "aborted" if self._is_closing else "closed"
            self.transport.end(self, code, "the peer closed the connection")
            return
        counters = self.transport.counters
        if self._is_closing:
            counters.dropped["aborted"] += 1
            return
        self.taken_bytes += size
        counters.messages_received += 1
        counters.bytes_received += size
        if self.listener is not None and self.taken_bytes >= SPOKEN_BYTES:
            self.listener.gate.spoke(self)
        self.transport.pending.append(Received(self, bytes(buffer[:size])))

    def _on_error(self, error: OSError) -> None:
        match error.errno:
            case errno.ECONNRESET:
                code, detail = "reset", "the peer reset the connection"
            case errno.ETIMEDOUT | errno.EHOSTUNREACH | errno.ENETUNREACH:
                code, detail = "timeout", "the peer answers no more"
            case _:
                code, detail = "closed", "the connection broke"
        self.transport.end(self, "aborted" if self._is_closing else code, detail)

    def _keep(self, rest: memoryview) -> None:
        if not self._unwritten:
            self.transport.rewatch(self.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, self)
        self._unwritten.append(rest)
        self._unwritten_bytes += len(rest)

    def _write(self) -> None:
        """Write what was kept, as much as the kernel takes."""
        while self._unwritten:
            parts = [self._unwritten[i] for i in range(min(len(self._unwritten), WRITE_PARTS))]
            try:
                taken = self.socket.sendmsg(parts)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self._on_error(error)
                return
            self._unwritten_bytes -= taken
            while taken:
                first = self._unwritten.popleft()
                if taken < len(first):
                    self._unwritten.appendleft(first[taken:])
                    break
                taken -= len(first)
        if not self._unwritten:
            self.transport.rewatch(self.socket, selectors.EVENT_READ, self)
            if self._is_closing:
                self._finish_writing()
        if self._unwritten_bytes <= RESUME_BYTES:
            self._unpark()

    def _unpark(self) -> None:
        if self._is_parked and not self._is_closing:
            self._is_parked = False
            self.transport.pending.append(Writable(self))

    def _finish_writing(self) -> None:
        try:
            self.socket.shutdown(sockets.SHUT_WR)
        except OSError:
            self.abort()


def _set_options(socket: sockets.socket) -> None:
    socket.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
    socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_KEEPALIVE, 1)
    socket.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_KEEPIDLE, _KEEPALIVE_S)
    socket.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_KEEPINTVL, _KEEPALIVE_S)
    socket.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_KEEPCNT, 4)


def _is_connected_to_itself(socket: sockets.socket) -> bool:
    """A dial to a dead port of this machine can, by the rules of TCP, meet itself when it is given that very port."""
    try:
        return bool(socket.getsockname() == socket.getpeername())
    except OSError:
        return False


def connect_error(error: OSError, address: str) -> tuple[str, str]:
    """Code and detail of a failed connect."""
    match error.errno:
        case errno.ECONNREFUSED:
            return "refused", f"nobody listens on {address}"
        case errno.ETIMEDOUT:
            return "timeout", f"{address} did not answer in time"
        case errno.ENETUNREACH | errno.EHOSTUNREACH | errno.EADDRNOTAVAIL | errno.EAFNOSUPPORT | errno.EACCES:
            return "unreachable", f"{address} cannot be reached"
        case errno.ECONNRESET:
            return "closed", f"{address} closed the connection before it was ready"
        case _:
            return (
                "connect_failed",
                f"cannot connect to {address}: errno {error.errno}",
            )
