"""A TLS peer of Python's `ssl` alone, over TCP or 0MQ, which obeys none of our rules about its own certificate."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import zmq

from rapini.secure.contexts import ALPN
from rapini.secure.envelope import Accepted, EnvelopeGate, Mechanism

__all__ = ["attempt", "serve_once"]

DEADLINE_S = 10.0
_VERDICT_S = 2.0


def _context(side: int, files: tuple[Path, Path] | None) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([ALPN])
    if files is not None:
        context.load_cert_chain(*files)
    return context


def attempt(scheme: str, port: int, files: tuple[Path, Path] | None) -> str:
    """Dial, handshake, and wait for the server's verdict.

    Returns:
        OpenSSL's symbol of the alert that came back, or how it ended otherwise.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = _context(ssl.PROTOCOL_TLS_CLIENT, files).wrap_bio(incoming, outgoing, server_hostname="localhost")
    if scheme.startswith("tcp"):
        with socket.create_connection(("127.0.0.1", port), 5) as link:
            link.settimeout(1.0)
            return _converse(tls, incoming, outgoing, link.sendall, lambda: link.recv(65_536))
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.RCVTIMEO, 1000)
        dealer.setsockopt(zmq.RECONNECT_IVL, -1)
        dealer.connect(f"tcp://127.0.0.1:{port}")
        gate = EnvelopeGate.initiator(Mechanism.TLS, os.urandom(8))

        def receive() -> bytes:
            try:
                verdict = gate.judge_untrusted(dealer.recv())
            except zmq.Again:
                raise TimeoutError from None
            return bytes(verdict.payload) if isinstance(verdict, Accepted) else b""

        return _converse(tls, incoming, outgoing, lambda data: dealer.send(gate.seal(data)), receive)


def _converse(
    tls: ssl.SSLObject,
    incoming: ssl.MemoryBIO,
    outgoing: ssl.MemoryBIO,
    send: Callable[[bytes], object],
    receive: Callable[[], bytes],
) -> str:
    deadline = time.monotonic() + _VERDICT_S
    done = False
    while time.monotonic() < deadline:
        try:
            if not done:
                tls.do_handshake()
                done = True
            tls.read(65_536)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as exc:
            return exc.reason or "error"
        try:
            if outgoing.pending:
                send(outgoing.read())
            data = receive()
        except TimeoutError:
            continue
        except OSError as exc:
            return type(exc).__name__
        if not data:
            return "closed"
        incoming.write(data)
    return "nothing"


class serve_once:  # noqa: N801 - a context manager, read as a verb
    """A TCP server that takes one connection and handshakes with a given certificate; `heard` is how it ended."""

    def __init__(self, files: tuple[Path, Path]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(DEADLINE_S)
        self.port: int = self._listener.getsockname()[1]
        self.heard = ""
        self._files = files
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(DEADLINE_S)
        self._listener.close()

    def _run(self) -> None:
        link, _ = self._listener.accept()
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = _context(ssl.PROTOCOL_TLS_SERVER, self._files).wrap_bio(incoming, outgoing, server_side=True)
        with link:
            link.settimeout(1.0)
            self.heard = _converse(tls, incoming, outgoing, link.sendall, lambda: link.recv(65_536))
