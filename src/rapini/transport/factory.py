"""Makes the transport that an endpoint names, importing its library only then."""

from __future__ import annotations

import selectors
from collections.abc import Callable

from rapini.errors import ConfigError
from rapini.transport.base import Options, Transport, Wake

__all__ = ["TransportMaker", "make_transport"]

TransportMaker = Callable[[str, selectors.BaseSelector, Wake, Options], Transport]
"""As `make_transport`."""


def make_transport(name: str, poller: selectors.BaseSelector, wake: Wake, options: Options) -> Transport:
    """Make a transport by its name: `zmq` or `tcp`.

    Raises:
        ConfigError: `unknown_transport`.
    """
    match name:
        case "zmq":
            from rapini.transport.zmq import ZmqTransport

            return ZmqTransport(poller, wake, options)
        case "tcp":
            from rapini.transport.tcp import TcpTransport

            return TcpTransport(poller, wake, options)
        case _:
            raise ConfigError("unknown_transport", f"no transport is called {name!r}")
