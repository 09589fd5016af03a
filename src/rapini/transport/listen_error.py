"""Why an endpoint cannot be listened on: one table for every transport.

Where it sits: used by `zmq_listener` and `tcp_listener`.
"""

from __future__ import annotations

import errno
import os

from rapini.errors import TransportError
from rapini.transport.endpoint import Endpoint

__all__ = ["listen_error"]


def listen_error(endpoint: Endpoint, number: int) -> TransportError:
    """Why an endpoint cannot be listened on, by errno; raise it from the `OSError` or `ZMQError`."""
    match number:
        case errno.EADDRINUSE:
            return TransportError(
                "address_in_use",
                f"cannot listen on {endpoint}: something else listens there",
                remedy="choose another port, or stop the other program (see `ss -ltnp`)",
            )
        case errno.EADDRNOTAVAIL | errno.ENODEV | errno.EINVAL | errno.EAFNOSUPPORT:
            return TransportError(
                "bad_address",
                f"cannot listen on {endpoint}: this machine has no such address",
                remedy="listen on one of its own addresses, or on * for all",
            )
        case errno.EACCES | errno.EPERM:
            return TransportError(
                "permission",
                f"cannot listen on {endpoint}: not permitted",
                remedy="choose a port above 1023, or grant CAP_NET_BIND_SERVICE",
            )
        case _:
            return TransportError("listen_failed", f"cannot listen on {endpoint}: {os.strerror(number)}")
