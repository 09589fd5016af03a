"""Moves bytes of visible connections: 0MQ, plain TCP, and memory for tests.

Where it sits: below `rapini.node`, beside `rapini.logs`; the only package that imports `zmq`, and the only one of the
library with sockets. It knows no cryptography, no session and no framing. A *connection* here is one TCP connection:
it has an identity for its whole life, never reconnects, and ends in exactly one terminal outcome.

    base       the contract: Connection, outcomes, Transport
    endpoint   URLs
    resolver   names to addresses, off the I/O thread
    gate       how many strangers may be half open
    tcp        plain sockets
    zmq        0MQ: the transport; its listening half is in zmq_listener, its dialled half in zmq_dialled
    memory     two ends in one process, scriptable

`rapini.transport` itself imports neither `zmq` nor sockets, so that who needs endpoints alone pays for nothing else.
"""

from __future__ import annotations

from rapini.transport.base import (
    Accepted,
    Connected,
    ConnectFailed,
    Connection,
    ConnectionId,
    Counters,
    Disconnected,
    Options,
    Received,
    Registration,
    SendResult,
    Transport,
    TransportOutcome,
    Writable,
)
from rapini.transport.endpoint import Endpoint

__all__ = [
    "Accepted",
    "ConnectFailed",
    "Connected",
    "Connection",
    "ConnectionId",
    "Counters",
    "Disconnected",
    "Endpoint",
    "Options",
    "Received",
    "Registration",
    "SendResult",
    "Transport",
    "TransportOutcome",
    "Writable",
]
