"""Invariant: strangers cost an honest peer less than a second, memory a bound, and reach no code of the application."""

from __future__ import annotations

import functools
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import pytest
import zmq

from rapini import Event, Node, PeerInfo, PeerState
from rapini.secure.envelope import EnvelopeGate, Mechanism
from tests.integration.node.support import SCHEMES, Keys, eventually, port_of, running
from tests.integration.transport import zmtp
from tests.programs.events import Tick
from tests.security.raw import rss_bytes

pytestmark = pytest.mark.parametrize("scheme", SCHEMES)

GROWTH_BYTES = 64 << 20
HONEST_S = 1.0
CROWD = 300
"""More than a listener's half-open limit (256)."""


@functools.cache
def client_hello() -> bytes:
    """The first flight of somebody who then says no more."""
    outgoing = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["rapini/1"])
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


class Stranger:
    """One connection that can send pieces as its transport carries them: as they are, or sealed in 0MQ messages."""

    def __init__(self, scheme: str, port: int, *, is_raw: bool = False) -> None:
        self.gate: EnvelopeGate | None = None
        if scheme.startswith("zmq") and not is_raw:
            self.gate = EnvelopeGate.initiator(Mechanism.TLS, os.urandom(8))
        self.link = zmtp.connect(port) if self.gate else socket.create_connection(("127.0.0.1", port), 5)
        self.link.settimeout(2.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.link.close()

    def say(self, data: bytes) -> None:
        self.link.sendall(zmtp.frame(self.gate.seal(data)) if self.gate else data)


def come_and_say(scheme: str, port: int, kind: str) -> Stranger | None:
    """One of a crowd; `None` if it was not let in."""
    try:
        stranger = Stranger(scheme, port, is_raw=kind in RAW)
    except OSError:
        return None
    try:
        stranger.say(RAW[kind] if kind in RAW else TLS[kind]())
    except OSError:
        pass  # refused already
    return stranger


@contextmanager
def besieged(keys: Keys, scheme: str, **options: Any) -> Iterator[tuple[Node, str, list[PeerInfo]]]:
    """A node with every callback there is; at the end none of them has heard of anybody but the honest peer."""
    asked: list[PeerInfo] = []
    events: list[tuple[Event, str]] = []

    def admit(peer: PeerInfo) -> bool:
        asked.append(peer)
        return True

    before = rss_bytes()
    with running(Node("server", **keys.of("server"), admit=admit, **options)) as (server, seen):
        server.subscribe("", callback=lambda event, origin: events.append((event, origin.peer)))
        yield server, server.listen(f"{scheme}://127.0.0.1:0"), asked
        assert {peer.name for peer in asked} <= {"honest"}
        assert all(peer == "honest" for _, peer in events)
        assert {status.peer for status in seen.statuses() if status.state is not PeerState.REJECTED} <= {"honest"}
        assert server.failure is None
        assert rss_bytes() - before < GROWTH_BYTES


def check_honest(keys: Keys, server: Node, url: str) -> None:
    """An honest peer comes in and is heard."""
    with running(Node("honest", **keys.of("honest"))) as (honest, _):
        before = server.counters().received.get("honest", 0)
        began = time.monotonic()
        honest.connect(url)
        assert time.monotonic() - began < HONEST_S
        honest.publish(Tick(sender="honest", number=1))
        assert honest.flush(2.0)
        assert server.counters().received["honest"] == before + 1


RAW = {
    "silent": b"",
    "one byte": b"\x16",
    "web": b"GET / HTTP/1.1\r\nHost: a.very.long.name.example\r\nUser-Agent: something\r\n\r\n",
    "zeros": bytes(4096),
}
TLS: dict[str, Callable[[], bytes]] = {
    "half a handshake": lambda: client_hello()[:100],
    "a damaged handshake": lambda: b"\x16\x03\x01\x00\x40" + b"\xee" * 64,
}


@pytest.mark.parametrize("kind", [*RAW, *TLS])
def test_a_crowd_that_stays(keys: Keys, scheme: str, kind: str) -> None:
    """More strangers than may be half open, all still there when the honest peer comes."""
    with besieged(keys, scheme) as (server, url, _):
        crowd = [come_and_say(scheme, port_of(url), kind) for _ in range(CROWD)]
        if kind in ("silent", "one byte", "zeros") or (kind == "web" and scheme.startswith("zmq")):
            time.sleep(0.3)  # what the gate gives everybody to say a first word
        try:
            if kind == "half a handshake":
                # Somebody who takes the trouble can fill the limit for the deadline; the node must stay sound.
                time.sleep(0.5)
                assert server.failure is None
            else:
                check_honest(keys, server, url)
        finally:
            for stranger in crowd:
                if stranger is not None:
                    stranger.link.close()
        eventually(lambda: server.failure is None)


@pytest.mark.parametrize("kind", ["web", "a damaged handshake"])
def test_a_stream_of_strangers(keys: Keys, scheme: str, kind: str) -> None:
    """As fast as one thread can connect, say something wrong and come again."""
    over = threading.Event()
    count = 0

    def flood(port: int) -> None:
        nonlocal count
        deadline = time.monotonic() + 10
        while not over.is_set() and time.monotonic() < deadline:
            stranger = come_and_say(scheme, port, kind)
            if stranger is not None:
                stranger.link.close()
                count += 1

    with besieged(keys, scheme) as (server, url, _):
        thread = threading.Thread(target=flood, args=(port_of(url),), daemon=True)
        thread.start()
        try:
            time.sleep(0.5)
            for _ in range(3):
                check_honest(keys, server, url)
        finally:
            over.set()
            thread.join(11)
        assert count > 100


def test_a_dribble(keys: Keys, scheme: str) -> None:
    """A byte at a time, of a right beginning: cut at the deadline, though it never stopped sending."""
    with besieged(keys, scheme, handshake_timeout_s=1.5) as (server, url, _):
        with Stranger(scheme, port_of(url)) as stranger:
            stranger.say(client_hello()[:90])
            stranger.link.settimeout(0.02)
            began = time.monotonic()
            check_honest(keys, server, url)
            ended = False
            while not ended and time.monotonic() - began < 8:
                try:
                    stranger.say(b"\0")
                    ended = not stranger.link.recv(4096)
                except TimeoutError:
                    pass
                except OSError:
                    ended = True
            assert ended
            assert time.monotonic() - began < 4
        assert server.counters().rejected["handshake_timeout"] == 1


def test_an_endless_first_message(keys: Keys, scheme: str) -> None:
    """More than an unauthenticated peer may send is not kept, however it is cut."""
    with besieged(keys, scheme) as (server, url, _):
        began = time.monotonic()
        record = b"\x16\x03\x01\x40\x00\x01\x00\xff\xff" + bytes(0x4000 - 4)  # a ClientHello of 64 KiB, in records
        ended = False
        with Stranger(scheme, port_of(url)) as stranger:
            while not ended and time.monotonic() < began + 5:
                try:
                    stranger.say(record)
                except OSError:
                    ended = True
        assert ended
        assert time.monotonic() < began + 3
        check_honest(keys, server, url)


def test_tls_strangers_learn_nothing_and_end_nothing(keys: Keys, scheme: str) -> None:
    """Messages of channels that do not exist, on a connection of their own, do not touch the channels that do."""
    if scheme.startswith("tcp"):
        with besieged(keys, scheme) as (server, url, _):
            with socket.create_connection(("127.0.0.1", port_of(url)), 5) as stranger:
                stranger.sendall(b"\x17\x03\x03\x40\x00" + os.urandom(0x4000))  # a data record before any handshake
                stranger.settimeout(5)
                assert stranger.recv(4096)[:1] in (b"", b"\x15")
            check_honest(keys, server, url)
        return
    with besieged(keys, scheme) as (server, url, _), running(Node("honest", **keys.of("honest"))) as (honest, seen):
        honest.connect(url)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        with context, context.socket(zmq.DEALER) as dealer:
            dealer.setsockopt(zmq.LINGER, 0)
            dealer.connect(f"tcp://127.0.0.1:{port_of(url)}")
            for kind in range(256):
                dealer.send(bytes((0x52, 1, kind, kind)) + os.urandom(8) + b"x" * kind)
            time.sleep(0.3)
        honest.publish(Tick(sender="honest", number=1))
        assert honest.flush(2.0)
        assert seen.states("server") == ["up"]
