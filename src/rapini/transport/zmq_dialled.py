"""One dialled 0MQ connection: a DEALER that connects once and never again.

Where it sits: used by `zmq`; imports `zmq`.

The socket lives as long as its one TCP connection, and is closed when that ends. 0MQ's own reconnecting never comes
about: its pause is an hour. Switched off altogether (`ZMQ_RECONNECT_IVL` -1, as architecture 5a has it, or
`ZMQ_IMMEDIATE` 1), libzmq 4.3.5 ends the pipe together with the connection, and messages that had arrived and were not
yet read are gone (`session_base_t::reconnect`, `socket_base_t::hiccuped`), against rule 3; a test holds that.

The monitor tells the connection's story: CONNECTED, then HANDSHAKE_SUCCEEDED (`Connected`: ready to send), then
DISCONNECTED; or CLOSED, if the attempt failed. After CLOSED or DISCONNECTED a send would be taken and vanish, so the
state is asked before each (architecture 5a, rule 7). CLOSED bears no reason. We tell `timeout` by the clock, and
`unreachable` by asking the kernel for a route, which sends nothing; the rest is `refused`. Not every failure shows in
the monitor (an address family the socket cannot use shows nothing at all), so an attempt has a deadline of our own.

A DEALER has one pipe, so POLLOUT does say whether this peer takes more: a parked connection becomes `Writable` as soon
as libzmq makes room.
"""

from __future__ import annotations

import enum
import os
import socket as sockets
from typing import TYPE_CHECKING, Final

import zmq

from rapini.errors import LocalError, TransportError
from rapini.transport.base import (
    Address,
    Connected,
    ConnectFailed,
    Connection,
    Disconnected,
    Received,
    SendResult,
    TransportOutcome,
    Writable,
    format_address,
)
from rapini.transport.endpoint import Endpoint
from rapini.transport.zmq_context import (
    DONTWAIT,
    EVENTS,
    HANDSHAKE_IVL_MS,
    POLLIN,
    POLLOUT,
    Monitor,
    bare_send,
    is_inode_of,
    socket_inode,
    zmq_socket,
)

if TYPE_CHECKING:
    from rapini.transport.zmq import ZmqTransport

__all__ = ["ZmqDialled"]

NEVER_MS: Final = 3_600_000
"""When 0MQ would connect again by itself: the socket is closed at once when its connection ends, so never."""

TURN_MESSAGES: Final = 128
TURN_BYTES: Final = 2 * 1024 * 1024
SETTLE_S: Final = 0.001
SETTLE_MAX_S: Final = 0.05
_EVENTS: Final = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CLOSED
)


class State(enum.Enum):
    """Where a dialled connection is in its life."""

    CONNECTING = "connecting"
    GREETING = "greeting"
    """TCP is there, 0MQ's handshake is under way."""
    OPEN = "open"
    LEAVING = "leaving"
    """Disconnected; its last messages are being read."""
    ENDED = "ended"


class ZmqDialled(Connection):
    """One attempt, and the connection it becomes.

    Args:
        transport: The owner.
        endpoint: What was asked for.
        address: Where that is.

    Raises:
        TransportError: `bad_address` or `dial_failed`.
    """

    __slots__ = (
        "_address",
        "_close_at",
        "_deadline",
        "_dealer",
        "_dealer_fd",
        "_fd",
        "_inode",
        "_is_broken_off",
        "_is_lull",
        "_is_parked",
        "_left_at",
        "_monitor",
        "_started_at",
        "_state",
        "_transport",
    )

    def __init__(self, transport: ZmqTransport, endpoint: Endpoint, address: Address) -> None:
        super().__init__(
            endpoint=str(endpoint), address=format_address(address), is_dialled=True, is_message_based=True
        )
        self._transport = transport
        self._address = address
        self._state = State.CONNECTING
        self._fd = -1
        self._inode: int | None = None
        self._left_at = 0.0
        self._close_at: float | None = None
        self._is_parked = False
        self._is_lull = True  # see `ZmqListener`
        self._is_broken_off = False
        self._started_at = transport.clock()
        timeout_s = transport.options.connect_timeout_s
        self._deadline: float | None = self._started_at + timeout_s + HANDSHAKE_IVL_MS / 1000 + 0.5
        self._dealer = zmq_socket(transport.context, zmq.DEALER, transport.options)
        self._dealer.setsockopt(zmq.RECONNECT_IVL, NEVER_MS)
        self._dealer.setsockopt(zmq.CONNECT_TIMEOUT, max(1, int(timeout_s * 1000)))
        self._monitor = Monitor(transport.context, self._dealer, _EVENTS)
        try:
            self._dealer.connect(_url(address))
        except zmq.ZMQError as error:
            self._monitor.close()
            self._dealer.close(linger=0)
            raise TransportError("bad_address", f"cannot dial {self.address}: {error.strerror}") from error
        self._dealer_fd = int(self._dealer.getsockopt(zmq.FD))
        transport.watch(self, self._dealer_fd, self._monitor.fd)
        self._retime()

    # --- the owner's side --------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> SendResult:
        """See `base.Connection.send`."""
        state = self._state  # compared by `is`: a set of an enum's members calls Python to hash each
        if self._close_at is not None or state is State.LEAVING or state is State.ENDED:
            return SendResult.GONE
        if len(data) > self._transport.options.max_message_bytes:
            raise LocalError("too_large", f"a message of {len(data)} bytes is larger than a carrier takes")
        if state is not State.OPEN:
            self._is_parked = True
            return SendResult.PARKED
        counters = self._transport.counters
        try:
            bare_send(self._dealer, data, DONTWAIT)
        except zmq.Again:
            # Full, or its pipe is already gone; then DISCONNECTED is on its way, and says so.
            counters.parked += 1
            self._is_parked = True
            self._transport.after_send(self, self._dealer, POLLIN | POLLOUT)
            return SendResult.PARKED
        counters.messages_sent += 1
        counters.bytes_sent += len(data)
        self._transport.after_send(self, self._dealer)
        return SendResult.SENT

    def abort(self) -> None:
        """See `base.Connection.abort`."""
        if self._state is not State.ENDED:
            out = self._transport.pending
            self._end(out, Disconnected(self, "aborted", "we ended the connection"))
            self._transport.wake_up()

    def close(self, linger_s: float = 0.5) -> None:
        """See `base.Connection.close`."""
        if self._state is not State.OPEN:
            self.abort()
        elif self._close_at is None:
            self._close_at = self._transport.clock() + linger_s
            self._retime()
            self._transport.wake_up()

    # --- the turn ----------------------------------------------------------------------------------------------------

    def note_ready(self, fd: int) -> None:
        """One of our descriptors is ready; both are looked at in every turn."""

    def work(self, now: float, out: list[TransportOutcome]) -> bool:
        """One turn; returns whether there is more to do at once."""
        self._read_monitor(now, out)
        if self._state is not State.OPEN and self._state is not State.LEAVING:
            if self._deadline is not None and now >= self._deadline:
                self._fail(now, out)
            return False
        is_flushed = self._state is State.LEAVING and self._is_flushed(now)
        is_drained = self._read_messages(out)
        if is_flushed and is_drained:
            code = "closed" if self._close_at is None else "aborted"
            self._end(out, Disconnected(self, code, "the connection is closed"))
        elif self._close_at is not None and now >= self._close_at:
            self._end(out, Disconnected(self, "aborted", "we ended the connection"))
        elif self._state is State.OPEN and self._is_parked and self._poll() & POLLOUT:
            self._is_parked = False
            out.append(Writable(self))
        self._retime()
        return not is_drained

    def _read_monitor(self, now: float, out: list[TransportOutcome]) -> None:
        for event, value in self._monitor.read(64):
            match event:
                case zmq.EVENT_CONNECTED:
                    self._on_connected(value, out)
                case zmq.EVENT_HANDSHAKE_SUCCEEDED if self._state is State.GREETING:
                    self._on_ready(out)
                case zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
                    self._is_broken_off = True
                case zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED:
                    self._on_disconnected(now, out)
                case _:
                    pass
            if self._state is State.ENDED:
                return

    def _on_connected(self, fd: int, out: list[TransportOutcome]) -> None:
        self._fd, self._inode = fd, socket_inode(fd)
        self._state = State.GREETING
        self._deadline = self._transport.clock() + HANDSHAKE_IVL_MS / 1000 + 0.5
        self._retime()
        if _is_connected_to_itself(fd):
            self._transport.counters.connect_failed += 1
            self._end(out, ConnectFailed(self, "refused", f"nobody listens on {self.address}"))

    def _on_ready(self, out: list[TransportOutcome]) -> None:
        self._state = State.OPEN
        self._deadline = None
        self._transport.counters.connected += 1
        self._poll()  # makes libzmq take note of the new pipe
        out.append(Connected(self))
        if self._is_parked:
            self._is_parked = False
            out.append(Writable(self))

    def _on_disconnected(self, now: float, out: list[TransportOutcome]) -> None:
        if self._state is State.OPEN:
            self._state, self._left_at = State.LEAVING, now
        elif self._state in {State.CONNECTING, State.GREETING}:
            self._fail(now, out)

    def _fail(self, now: float, out: list[TransportOutcome]) -> None:
        """The attempt came to nothing: find out why, as far as that is known."""
        took_s = now - self._started_at
        if self._state is State.GREETING:
            # libzmq says HANDSHAKE_FAILED_NO_DETAIL when the connection broke, and when its own deadline passed.
            is_over = self._deadline is not None and now >= self._deadline - 0.6
            if is_over or not self._is_broken_off:
                code, detail = "not_zmq", f"what answers on {self.address} does not speak 0MQ to us"
            else:
                code, detail = "closed", f"{self.address} closed the connection before it was ready"
        elif took_s >= self._transport.options.connect_timeout_s * 0.95:
            code, detail = "timeout", f"{self.address} did not answer within {took_s:.1f} s"
        else:
            code, detail = _why_not(self._address, self.address)
        self._transport.counters.connect_failed += 1
        self._end(out, ConnectFailed(self, code, detail))

    def _is_flushed(self, now: float) -> bool:
        """Whether its last messages are with us for certain (see `zmq_context`)."""
        if is_inode_of(self._fd, self._inode) and now - self._left_at < SETTLE_MAX_S:
            return False
        self._poll()
        return True

    def _read_messages(self, out: list[TransportOutcome]) -> bool:
        """Read messages within a turn's bounds; returns whether the end was reached."""
        is_lull, self._is_lull = self._is_lull and self._state is State.OPEN, False
        receive, counters = self._dealer.recv, self._transport.counters
        left_bytes = TURN_BYTES
        for number in range(TURN_MESSAGES):
            if number == 1 and is_lull:
                self._is_lull = True
                self._transport.settle_later(self)
                return True
            if number and not self._poll() & POLLIN:  # an `Again` costs three times as much as asking
                self._is_lull = number == 1
                return True
            try:
                frame = receive(DONTWAIT, copy=False)
            except zmq.Again:
                self._is_lull = True
                return True
            size = len(frame)
            if frame.more or not size:
                counters.refused["bad_framing"] += 1
                self._end(out, Disconnected(self, "bad_framing", "the peer sent no message of one part"))
                return True
            if self._close_at is not None:
                counters.dropped["aborted"] += 1
                continue
            counters.messages_received += 1
            counters.bytes_received += size
            out.append(Received(self, frame.buffer))
            left_bytes -= size
            if left_bytes <= 0:
                return False
        return False

    def is_settled(self) -> bool:
        """After `settle_later`: whether there was no other message to read."""
        self._is_lull = not self._poll() & POLLIN
        return self._is_lull

    def _poll(self) -> int:
        return int(self._dealer.getsockopt(EVENTS))

    def _end(self, out: list[TransportOutcome], last: ConnectFailed | Disconnected) -> None:
        """Close both sockets and report the last outcome."""
        if self._state is State.ENDED:
            return
        if self._state in {State.OPEN, State.LEAVING}:
            self._transport.counters.ended += 1
        self._state = State.ENDED
        out.append(last)
        self.release()

    def release(self) -> None:
        """Close both sockets; says nothing."""
        self._state = State.ENDED
        self._transport.unwatch(self, self._dealer_fd, self._monitor.fd)
        self._monitor.close()
        self._dealer.close(linger=0)

    def _retime(self) -> None:
        if self._state is State.ENDED:
            return
        timer = self._deadline
        if self._state is State.LEAVING:
            timer = self._transport.clock() + SETTLE_S
        elif self._close_at is not None:
            timer = self._close_at
        self._transport.set_timer(self, timer)


def _url(address: Address) -> str:
    host, port = str(address[0]), address[1]
    if ":" not in host:
        return f"tcp://{host}:{port}"
    scope = address[3] if len(address) > 3 else 0
    if scope and "%" not in host:
        host = f"{host}%{sockets.if_indextoname(scope)}"
    return f"tcp://[{host}]:{port}"


def _is_connected_to_itself(fd: int) -> bool:
    """A dial to a dead port of this machine can, by the rules of TCP, meet itself when it is given that very port."""
    try:
        with sockets.socket(fileno=os.dup(fd)) as duplicate:
            return bool(duplicate.getsockname() == duplicate.getpeername())
    except OSError:
        return False


def _why_not(address: Address, text: str) -> tuple[str, str]:
    """Connecting a datagram socket asks for a route and sends nothing."""
    family = sockets.AF_INET6 if ":" in str(address[0]) else sockets.AF_INET
    try:
        with sockets.socket(family, sockets.SOCK_DGRAM) as probe:
            probe.connect(address)
    except OSError as error:
        return "unreachable", f"{text} cannot be reached: {error.strerror}"
    return "refused", f"nobody listens on {text}"
