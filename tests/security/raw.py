"""A peer made of `socket`, `ssl` and MessagePack alone, from docs/wire.md: it says whatever a test wants said."""

from __future__ import annotations

import os
import socket
import ssl
import struct
import time
from pathlib import Path
from typing import Any, Final, Self

import msgspec

__all__ = [
    "ACK",
    "EVENTS",
    "GAP",
    "GOODBYE",
    "HELLO",
    "MAX_COUNT",
    "PING",
    "PONG",
    "READY",
    "REJECT",
    "REQUEST",
    "RESPONSE",
    "SUBSCRIBED",
    "SUBSCRIPTIONS",
    "WELCOME",
    "RawPeer",
    "RawServer",
    "batch_of",
    "events_frame",
    "frame",
    "rss_bytes",
    "tls_context",
]

HELLO, WELCOME, REJECT, SUBSCRIPTIONS, SUBSCRIBED, READY, EVENTS, ACK, PING, PONG, GOODBYE, GAP = range(1, 13)
REQUEST, RESPONSE = 16, 17
MAX_COUNT: Final = 2**63 - 1
OPENING: Final = b"RAPINI1\n"
DEADLINE_S: Final = 10.0


def frame(kind: int, *fields: object) -> bytes:
    """One frame with a MessagePack body."""
    body = msgspec.msgpack.encode(fields)
    return struct.pack(">IB", len(body) + 1, kind) + body


def events_frame(first: int, count: int, batch: bytes, delivery: int = 0) -> bytes:
    """An `Events` frame."""
    return struct.pack(">IBBQI", len(batch) + 14, EVENTS, delivery, first, count) + batch


def batch_of(name: str, topic: str, count: int, events: bytes) -> bytes:
    """A batch of one run, its events as they are."""
    return msgspec.msgpack.encode([[name, topic, count, events]])


def tls_context(side: int, options: dict[str, Any]) -> ssl.SSLContext:
    """A context that proves itself with a node's files and asks nothing of the other side."""
    context = ssl.SSLContext(side)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE if side == ssl.PROTOCOL_TLS_CLIENT else ssl.CERT_REQUIRED
    context.load_verify_locations(Path(options["trust"]))
    context.set_alpn_protocols(["rapini/1"])
    context.load_cert_chain(options["certificate"], options["key"])
    return context


def rss_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class RawPeer:
    """One connection over TCP, as the initiator unless it was given a socket.

    Args:
        name: Who it says it is.
        port: Where to.
        options: Key files as `Keys.of` has them; `None` for plain.
        link: An accepted connection, in place of `port`.
    """

    def __init__(
        self, name: str, port: int = 0, options: dict[str, Any] | None = None, link: socket.socket | None = None
    ) -> None:
        self.name = name
        self.cluster = "test" if options is not None else "rapini"
        self.incarnation = os.urandom(16)
        self.heard: list[tuple[int, Any]] = []
        """All frames so far but `Events`, `Ping` and `Pong`, which may be many."""
        self._kept = bytearray()
        raw = link or socket.create_connection(("127.0.0.1", port), DEADLINE_S)
        raw.settimeout(DEADLINE_S)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.link: socket.socket = raw
        if options is not None:
            side = ssl.PROTOCOL_TLS_CLIENT if link is None else ssl.PROTOCOL_TLS_SERVER
            self.link = tls_context(side, options).wrap_socket(raw, server_side=link is not None)
        elif link is None:
            raw.sendall(OPENING)
            assert self._exactly(len(OPENING)) == OPENING

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.link.close()

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size and (piece := self.link.recv(size - len(data))):
            data += piece
        return data

    def greeting(self, **changes: object) -> list[object]:
        """What it says of itself."""
        fields: dict[str, object] = {
            "cluster": self.cluster,
            "node": self.name,
            "role": "",
            "incarnation": self.incarnation,
            "window_bytes": 1 << 20,
            "known_incarnation": b"",
            "known_epoch": 0,
            "reserved": 0,
            "received": [],
        }
        return list({**fields, **changes}.values())

    def say(self, *frames: bytes) -> bool:
        """Send frames in one piece; False if the other side has had enough."""
        try:
            self.link.sendall(b"".join(frames))
        except (OSError, ssl.SSLError):
            return False
        return True

    def hear(self, kind: int, timeout_s: float = DEADLINE_S) -> Any:
        """The next frame of a kind, decoded; others before it are kept in `heard`."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            while len(self._kept) >= 4 and len(self._kept) >= 4 + (size := int.from_bytes(self._kept[:4], "big")):
                got, body = self._kept[4], bytes(self._kept[5 : 4 + size])
                del self._kept[: 4 + size]
                decoded = body if got == EVENTS else msgspec.msgpack.decode(body)
                if got not in (EVENTS, PING, PONG):
                    self.heard.append((got, decoded))
                if got == GAP and decoded[0] == 0:  # an honest answer, else nothing more comes on a small window
                    self.say(frame(ACK, [decoded[1] + decoded[2]]))
                if got == kind:
                    return decoded
            self.link.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                data = self.link.recv(65_536)
            except TimeoutError:
                break
            except OSError as exc:
                raise AssertionError(f"{type(exc).__name__}; heard {self.heard[-5:]}") from exc
            if not data:
                raise AssertionError(f"the connection ended; heard {self.heard[-5:]}")
            self._kept += data
        raise AssertionError(f"no frame of kind {kind} within {timeout_s:g} s; heard {self.heard[-5:]}")

    def ended(self, timeout_s: float = DEADLINE_S) -> bool:
        """Read until the other side ends the connection, or for so long."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            self.link.settimeout(left)
            try:
                if not self.link.recv(1 << 20):
                    return True
            except TimeoutError:
                return False
            except OSError:
                return True
        return False

    def hello(self, **changes: object) -> Self:
        """Greet as an initiator."""
        self.say(frame(HELLO, 2, 2, self.greeting(**changes)))
        return self

    def come_up(self, *prefixes: str, **changes: object) -> Self:
        """Greet, be admitted, exchange states."""
        self.hello(**changes)
        self.hear(WELCOME)
        self.say(frame(SUBSCRIPTIONS, 0, list(prefixes)), frame(SUBSCRIBED, 0))
        self.hear(SUBSCRIPTIONS)
        self.say(frame(READY))
        self.hear(READY)
        return self


class RawServer:
    """A listening socket whose connections become `RawPeer`s on the responder's side.

    Args:
        name: Who it says it is.
        options: Key files; `None` for plain.
    """

    def __init__(self, name: str, options: dict[str, Any] | None = None) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(DEADLINE_S)
        self.port: int = self._listener.getsockname()[1]
        self._name = name
        self._options = options

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def accept(self) -> RawPeer:
        """The next connection; a plain one has said nothing yet."""
        link, _ = self._listener.accept()
        return RawPeer(self._name, options=self._options, link=link)
