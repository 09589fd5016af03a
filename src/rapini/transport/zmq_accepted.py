"""One TCP connection to a ROUTER of ours: what we know of it, and how it is ended alone.

Where it sits: made and kept by `zmq_listener`, whose docstring tells the story; holds a duplicate of the descriptor
that libzmq accepted.
"""

from __future__ import annotations

import os
import socket as sockets
import struct
from typing import TYPE_CHECKING, Final

from rapini.transport.base import Connection, SendResult
from rapini.transport.zmq_context import socket_inode

if TYPE_CHECKING:
    from rapini.transport.zmq_listener import ZmqListener

__all__ = ["DETAILS", "PARK_FIRST_S", "ZmqAccepted"]

PARK_FIRST_S: Final = 0.002
_TCPI_BYTES_RECEIVED: Final = 128  # offset in struct tcp_info (linux/tcp.h), since Linux 4.1
DETAILS: Final = {
    "closed": "the peer closed the connection",
    "aborted": "we ended the connection",
    "silent": "nothing was sent in time",
    "bad_routing_id": "the peer chose a 0MQ routing id",
    "bad_framing": "the peer sent something other than messages of one part",
    "flood": "the peer sent more than an unauthenticated one may",
    "ambiguous": "the connection could not be told from an earlier one",
    "unlistened": "the endpoint was given up",
}


class ZmqAccepted(Connection):
    """One TCP connection to our ROUTER."""

    __slots__ = (
        "accepted_successes",
        "cause",
        "close_at",
        "duplicate",
        "fd",
        "flushed",
        "inode",
        "is_ambiguous",
        "left_at",
        "listener",
        "park_s",
        "parked_until",
        "reported",
        "routing_id",
        "settle_reads",
        "taken_bytes",
    )

    def __init__(self, listener: ZmqListener, fd: int, successes: int) -> None:
        super().__init__(endpoint=listener.url, address="unknown", is_dialled=False, is_message_based=True)
        self.listener = listener
        self.fd = fd
        self.duplicate: sockets.socket | None = None
        self.inode: int | None = None
        self.routing_id: bytes | None = None
        self.is_ambiguous = False
        self.reported = False
        self.cause: str | None = None  # why it is over for the owner; its messages are dropped from then on
        self.left_at: float | None = None  # when DISCONNECTED was read
        self.flushed = False  # all its messages are in the ROUTER
        self.settle_reads = 0
        self.accepted_successes = successes
        self.close_at: float | None = None
        self.parked_until: float | None = None
        self.park_s = PARK_FIRST_S
        self.taken_bytes = 0

    def _on_authenticated(self) -> None:
        self.listener.gate.forget(self)

    def send(self, data: bytes) -> SendResult:
        """See `base.Connection.send`; parks until the peer's first message, which tells its routing id."""
        if self.cause is not None or self.left_at is not None or self.close_at is not None:
            return SendResult.GONE
        return self.listener.send(self, data)

    def abort(self) -> None:
        """See `base.Connection.abort`."""
        if self.cause is None:
            self.listener.refuse(self, "aborted", is_ours=True)

    def close(self, linger_s: float = 0.5) -> None:
        """See `base.Connection.close`."""
        if self.cause is None and self.close_at is None:
            self.close_at = self.listener.transport.clock() + linger_s
            self.listener.closing.add(self)
            self.listener.gate.closing(self)
            self.listener.retime()

    def take_duplicate(self) -> None:
        """Duplicate the descriptor; to be believed only once the monitor was read to its end."""
        self.inode = socket_inode(self.fd)
        try:
            number = os.dup(self.fd)
        except OSError:
            return  # closed already (DISCONNECTED will come), or we are out of descriptors
        try:
            self.duplicate = sockets.socket(fileno=number)
        except OSError:
            os.close(number)  # the number names a file by now

    def drop_duplicate(self) -> None:
        """Give the duplicate back."""
        if self.duplicate is not None:
            self.duplicate.close()
            self.duplicate = None

    def shut_down(self) -> None:
        """End the TCP connection under libzmq, which then reports DISCONNECTED."""
        if self.duplicate is not None:
            try:
                self.duplicate.shutdown(sockets.SHUT_RDWR)
            except OSError:
                pass  # the peer was quicker

    def kernel_bytes(self) -> int:
        """How much the kernel has received from this peer, 0MQ's own bytes included; 0 where it does not say."""
        if self.duplicate is None:
            return 0
        try:
            info = self.duplicate.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_INFO, 256)
        except OSError:
            return 0
        if len(info) < _TCPI_BYTES_RECEIVED + 8:
            return 0
        return int(struct.unpack_from("=Q", info, _TCPI_BYTES_RECEIVED)[0])
