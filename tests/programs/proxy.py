"""A TCP proxy in the test's own process that can be told to damage the link: cut in mid-record, go deaf, reset."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Self

__all__ = ["Proxy"]

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends RST


@dataclass(eq=False)
class _Pair:
    client: socket.socket
    server: socket.socket
    is_deaf: bool = False


class Proxy:
    """Forwards to a port of this machine. One thread; every control takes effect at its next turn.

    Args:
        port: Where the real listener is.
        own_port: Where to listen; a free port by default.
    """

    def __init__(self, port: int, own_port: int = 0) -> None:
        self._target = ("127.0.0.1", port)
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", own_port))
        self.port: int = self._listener.getsockname()[1]
        self.accepted = 0
        self.refuses = False
        """End new connections at once."""
        self.cuts = 0
        self._pairs: list[_Pair] = []
        self._budget: int | None = None
        self._cut_from = "client"
        self._is_over = False
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over = True
        self._thread.join(5)
        for pair in list(self._pairs):
            self._end(pair)
        self._listener.close()
        self._selector.close()

    # -- controls ------------------------------------------------------------------------------------------------

    def cut_after(self, size: int, sender: str) -> None:
        """Forward `size` more bytes from `"client"` or `"server"`, drop what follows, and reset both ends."""
        with self._lock:
            self._budget, self._cut_from = size, sender

    def deafen(self) -> None:
        """Forward nothing more on the present connections, and keep them open: a cut cable. New ones work."""
        with self._lock:
            for pair in self._pairs:
                pair.is_deaf = True

    def reset(self) -> None:
        """Reset all present connections."""
        with self._lock:
            for pair in list(self._pairs):
                self._end(pair)

    # -- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._is_over:
            for key, _ in self._selector.select(0.05):
                with self._lock:
                    if key.fileobj is self._listener:
                        self._accept()
                    elif isinstance(key.data, _Pair) and key.data in self._pairs:
                        self._forward(key.data, key.fileobj)  # type: ignore[arg-type]

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        try:
            if self.refuses:
                raise ConnectionRefusedError
            server = socket.create_connection(self._target, 5)
        except OSError:
            client.close()
            return
        self.accepted += 1
        pair = _Pair(client, server)
        self._pairs.append(pair)
        for end in (client, server):
            self._selector.register(end, selectors.EVENT_READ, pair)

    def _forward(self, pair: _Pair, source: socket.socket) -> None:
        if pair.is_deaf:
            self._selector.unregister(source)  # let the kernel's buffers fill, as behind a cut cable
            return
        try:
            data = source.recv(16_384)
        except OSError:
            data = b""
        target = pair.server if source is pair.client else pair.client
        if self._budget is not None and (source is pair.client) == (self._cut_from == "client"):
            cut = len(data) >= self._budget
            data = data[: self._budget]
            self._budget = None if cut else self._budget - len(data)
            if cut:
                self.cuts += 1
                with contextlib.suppress(OSError):
                    target.sendall(data)
                    target.shutdown(socket.SHUT_WR)  # what was forwarded arrives, then the end
                self._end(pair, gently=target)
                return
        try:
            if not data:
                raise ConnectionResetError
            target.sendall(data)
        except OSError:
            self._end(pair, gently=target)

    def _end(self, pair: _Pair, gently: socket.socket | None = None) -> None:
        if pair in self._pairs:
            self._pairs.remove(pair)
        for end in (pair.client, pair.server):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(end)
            if end is not gently:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            end.close()
