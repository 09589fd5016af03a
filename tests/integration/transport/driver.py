"""Drives a transport as a node would, and checks the life of every connection against the contract.

Where it sits: used by the tests of this folder and by tests/security; bounded waits only.
"""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rapini.transport.base import (
    Accepted,
    Connected,
    ConnectFailed,
    Connection,
    Disconnected,
    Options,
    Received,
    SendResult,
    Transport,
    TransportOutcome,
    Writable,
)
from rapini.transport.endpoint import Endpoint
from rapini.transport.tcp import TcpTransport
from rapini.transport.zmq import ZmqTransport

T = TypeVar("T")


class Driver:
    """One node's worth of transport; every outcome is kept and checked."""

    def __init__(self, kind: str, options: Options | None = None) -> None:
        self.selector = selectors.DefaultSelector()
        self._waker, self._wakee = socket.socketpair()
        self._waker.setblocking(False)
        self._wakee.setblocking(False)
        self.selector.register(self._wakee, selectors.EVENT_READ, None)
        self.wakes = 0
        self.kind = kind
        make = ZmqTransport if kind == "zmq" else TcpTransport
        self.transport: Transport = make(self.selector, self.wake, options)
        self.outcomes: list[TransportOutcome] = []
        self.data: dict[Connection, list[bytes]] = defaultdict(list)
        self._state: dict[Connection, str] = {}

    def wake(self) -> None:
        self.wakes += 1
        try:
            self._waker.send(b"w")
        except BlockingIOError:
            pass

    def close(self) -> None:
        self.transport.close()
        self.selector.close()
        self._waker.close()
        self._wakee.close()

    def turn(self, timeout_s: float = 0.0) -> list[TransportOutcome]:
        """One round of the loop; waits no longer than `timeout_s`."""
        timer = self.transport.next_timer()
        if self.transport.has_more:
            timeout_s = 0.0
        elif timer is not None:
            timeout_s = max(0.0, min(timeout_s, timer - time.monotonic()))
        for key, mask in self.selector.select(timeout_s):
            if key.data is None:
                self._wakee.recv(4096)
            else:
                key.data.transport.on_ready(key, mask)
        out = self.transport.outcomes()
        for outcome in out:
            self._check(outcome)
        self.outcomes += out
        return out

    def _check(self, outcome: TransportOutcome) -> None:
        """Nothing before the beginning, nothing after the end, each once."""
        connection = outcome.connection
        state = self._state.get(connection, "new")
        match outcome:
            case Accepted() | Connected():
                assert state == "new", (state, outcome)
                assert connection.is_dialled == isinstance(outcome, Connected)
                self._state[connection] = "open"
            case Received():
                assert state == "open", (state, outcome)
                self.data[connection].append(bytes(outcome.data))
            case Writable():
                assert state == "open", (state, outcome)
            case ConnectFailed():
                assert state == "new", (state, outcome)
                self._state[connection] = "over"
            case Disconnected():
                assert state == "open" or (state == "new" and outcome.code == "aborted"), (state, outcome)
                self._state[connection] = "over"

    def of(self, kind: type[T], connection: Connection | None = None) -> list[T]:
        return [o for o in self.outcomes if isinstance(o, kind) and (connection is None or o.connection is connection)]

    def accepted(self, number: int = -1) -> Connection:
        return self.of(Accepted)[number].connection

    def listen(self, host: str = "127.0.0.1") -> Endpoint:
        host = f"[{host}]" if ":" in host else host
        return self.transport.listen(Endpoint.parse(f"{self.kind}+plain://{host}:0"))

    def dial(self, endpoint: Endpoint, host: str | None = None) -> Connection:
        return self.transport.dial(endpoint, (host or endpoint.host, endpoint.port))


def run(drivers: list[Driver], until: Callable[..., object], timeout_s: float = 5.0) -> float:
    """Turn all drivers until something holds; returns how long it took, fails at the deadline."""
    start = time.monotonic()
    while not until():
        assert time.monotonic() - start < timeout_s, f"not within {timeout_s} s: {[d.outcomes[-5:] for d in drivers]}"
        for driver in drivers:
            driver.turn(0.002)
    return time.monotonic() - start


def run_for(drivers: list[Driver], seconds: float) -> None:
    """Turn all drivers for a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for driver in drivers:
            driver.turn(0.002)


@contextmanager
def drivers(kind: str, count: int = 2, options: Options | None = None) -> Iterator[list[Driver]]:
    """Some drivers, closed afterwards."""
    made = [Driver(kind, options) for _ in range(count)]
    try:
        yield made
    finally:
        for driver in made:
            driver.close()


def joined(
    server: Driver, client: Driver, endpoint: Endpoint | None = None, *, authenticated: bool = True
) -> tuple[Connection, Connection]:
    """A connection both ends of which have spoken: (the server's end, the client's)."""
    endpoint = endpoint or server.listen()
    dialled = client.dial(endpoint)
    run([server, client], lambda: client.of(Connected, dialled))
    token = os.urandom(64)
    assert dialled.send(token) is SendResult.SENT
    run([server, client], lambda: any(token in b"".join(pieces) for pieces in server.data.values()))
    accepted = next(connection for connection, pieces in server.data.items() if token in b"".join(pieces))
    accepted.authenticated = authenticated
    assert accepted.send(b"!" * 64) is SendResult.SENT
    run([server, client], lambda: client.data[dialled])
    server.data[accepted].clear()
    client.data[dialled].clear()
    return accepted, dialled
