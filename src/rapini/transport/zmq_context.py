"""What every 0MQ socket of ours shares: the seeded context, socket options, monitors, descriptors.

Where it sits: below `zmq_listener` and `zmq_dialled`; imports `zmq`.

**Remote abort** (architecture 5a, rule 1). A ROUTER gives each connection an automatic routing id that counts up from a
number drawn by C's `rand()`, which libzmq does not seed: in every process the first is 6b8b4567. A stranger may choose
its own routing id. If it takes the automatic one that comes next, the next honest connection runs into an assertion,
and the whole process aborts. So `rand()` is seeded with 32 random bits before the first context that we make; a
connection whose id is not one that libzmq can have given by now is shut down; no diagnostic shows a routing id. That
leaves an attacker a guess of one in four billion for each connection it makes. It does not mend libzmq: `tcp+tls://` is
the listener for hostile networks. `tests/security/test_remote_abort.py` keeps the attack alive.

**Monitors** (rule 4). A socket's monitor is itself a queue; when it is full, libzmq's I/O thread waits, and every link
with it. So its limit is off and it is read first in every turn.

**Descriptors.** libzmq announces DISCONNECTED *before* it hands over the last messages it has read, and closes the TCP
socket afterwards, all on one thread. So "the descriptor it named is closed, or names another socket by now" proves that
all messages of a connection are readable: an exact barrier, where a pause would be a guess. Sockets have inode numbers
of their own, which is how we tell that a descriptor number was used again.

Source: libzmq 4.3.5 (`router.cpp`, `random.cpp`, `stream_engine_base.cpp`); zmq_setsockopt(3), zmq_socket_monitor(3).
"""

from __future__ import annotations

import ctypes
import itertools
import os
import struct
import threading
from collections.abc import Iterator
from typing import Final

import zmq

from rapini.transport.base import Options

__all__ = ["Monitor", "is_inode_of", "new_context", "socket_inode", "zmq_socket"]

HANDSHAKE_IVL_MS: Final = 5_000
HEARTBEAT_IVL_MS: Final = 5_000
HEARTBEAT_TIMEOUT_MS: Final = 10_000
SEND_LIMIT_MESSAGES: Final = 64
"""ZMQ_SNDHWM: our credit (`defaults.WINDOW_BYTES`) in TLS records of 16 KiB, so a full pipe is the exception."""
RECEIVE_LIMIT_MESSAGES: Final = 16
"""ZMQ_RCVHWM: with the largest message, what one stranger can make libzmq hold (2.5 MiB)."""
BACKLOG: Final = 512
MAX_SOCKETS: Final = 16_384
"""A dialled link takes two, plus one inside libzmq; the default of 1023 is soon reached."""

POLLIN: Final = int(zmq.POLLIN)
POLLOUT: Final = int(zmq.POLLOUT)
EVENTS: Final = int(zmq.EVENTS)
DONTWAIT: Final = int(zmq.DONTWAIT)
SEND_MORE: Final = int(zmq.SNDMORE) | DONTWAIT
"""As plain numbers: an enum's `&` and `|` take as long as asking 0MQ does."""

bare_send: Final = zmq.backend.Socket.send
"""`Socket.send` without the wrapper for draft options, which every message would pay for."""

_names: Final = itertools.count(1)
_seed_lock: Final = threading.Lock()
_is_seeded = False


def new_context() -> zmq.Context[zmq.Socket[bytes]]:
    """Make a node's one context; seeds `rand()` if this is the first of the process.

    A program that makes 0MQ contexts of its own *before* its first Rapini node has drawn from the unseeded sequence by
    then; our seed still changes what follows.
    """
    global _is_seeded
    with _seed_lock:
        if not _is_seeded:
            ctypes.CDLL(None).srand(ctypes.c_uint(int.from_bytes(os.urandom(4), "little")))
            _is_seeded = True
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
    context.set(zmq.MAX_SOCKETS, MAX_SOCKETS)
    context.set(zmq.BLOCKY, 0)
    return context


def zmq_socket(context: zmq.Context[zmq.Socket[bytes]], kind: int, options: Options) -> zmq.Socket[bytes]:
    """A socket with what listeners and dialled connections have in common (rules 5 to 7)."""
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.IPV6, 1)
    socket.setsockopt(zmq.SNDHWM, SEND_LIMIT_MESSAGES)
    socket.setsockopt(zmq.RCVHWM, RECEIVE_LIMIT_MESSAGES)
    socket.setsockopt(zmq.MAXMSGSIZE, options.max_message_bytes)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_IVL_MS)
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_IVL_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TTL, HEARTBEAT_TIMEOUT_MS)
    return socket


class Monitor:
    """A socket's monitor, attached before the socket binds or connects.

    Args:
        context: The node's.
        watched: The socket.
        events: Which events; fewer cost less in a flood.
    """

    _EVENT: Final = struct.Struct("=HI")

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], watched: zmq.Socket[bytes], events: int) -> None:
        name = f"inproc://rapini-monitor-{next(_names)}"
        watched.monitor(name, events)
        self._watched = watched
        self._socket = context.socket(zmq.PAIR)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.connect(name)
        self.fd = int(self._socket.getsockopt(zmq.FD))

    def read(self, limit: int) -> Iterator[tuple[int, int]]:
        """Up to `limit` events as (event, value); fewer means that there are no more."""
        receive, look, unpack = self._socket.recv, self._socket.getsockopt, self._EVENT.unpack
        for _ in range(limit):
            if not int(look(EVENTS)) & POLLIN:  # a third of the price of an `Again`, and nearly every turn's case
                return
            yield unpack(receive(DONTWAIT))
            receive(DONTWAIT)  # the endpoint, which we know

    def close(self) -> None:
        """After its descriptor was unregistered and before the watched socket is closed.

        Our end goes last: a PAIR without its peer blocks who sends, which would be libzmq's I/O thread with the next
        event, for ever, and every connection of the node with it.
        """
        self._watched.disable_monitor()
        self._socket.close(linger=0)


def socket_inode(fd: int) -> int | None:
    """What the descriptor names at present, or `None` if nothing."""
    try:
        return os.fstat(fd).st_ino
    except OSError:
        return None


def is_inode_of(fd: int, inode: int | None) -> bool:
    """Whether the descriptor number still names that socket."""
    return inode is not None and socket_inode(fd) == inode
