"""ZMTP 3 by hand, for peers that do what no libzmq would.

Where it sits: used by the tests of 0MQ's transport. Source: RFC 23/ZMTP.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

GREETING: Final = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)


def ready(routing_id: bytes = b"", kind: bytes = b"DEALER") -> bytes:
    """A READY command; an empty routing id means: choose one for me."""
    properties = b"".join(
        bytes([len(name)]) + name + struct.pack("!I", len(value)) + value
        for name, value in ((b"Socket-Type", kind), (b"Identity", routing_id))
    )
    body = b"\x05READY" + properties
    return bytes([4, len(body)]) + body


def frame(data: bytes, *, more: bool = False) -> bytes:
    if len(data) < 256:
        return bytes([int(more), len(data)]) + data
    return struct.pack("!BQ", 2 | int(more), len(data)) + data


def connect(port: int, routing_id: bytes = b"", kind: bytes = b"DEALER") -> socket.socket:
    """A raw connection with the handshake behind it; libzmq takes messages sent earlier for a fault.

    Against a socket type that does not go with `kind` the handshake is left unfinished.
    """
    raw = socket.create_connection(("127.0.0.1", port), timeout=5)
    try:
        raw.sendall(GREETING + ready(routing_id, kind))
        _read(raw, 64)
        _read(raw, _read(raw, 2)[1])
    except ConnectionError:
        pass
    return raw


def _read(raw: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = raw.recv(size - len(data))
        if not piece:
            raise ConnectionResetError
        data += piece
    return data


def reset(raw: socket.socket) -> None:
    """Close with RST instead of FIN."""
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()
