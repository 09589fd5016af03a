"""The control socket: a running node answers questions about itself to its owner, and to root, on this machine.

A Unix domain socket with a thread of its own, beside the node and not part of it: a fault here ends this thread and
nothing else. One connection, one question, one answer, each a line of JSON:

    {"v":1,"ask":"status"}
    {"v":1,"status":{...}}                                      a `rapini.NodeStatus`
    {"v":1,"error":{"code":"bad_request","detail":"..."}}       `bad_request`, `bad_version`, `denied`, `busy` or
                                                                `internal_error`

*Who may ask.* The folder (0700) and the socket (0600) keep others out, and the kernel tells who called anyway
(`SO_PEERCRED`, unix(7)): somebody else than our user or root is refused.

*What a caller may cost.* A question has `MAX_REQUEST_BYTES` at most, a caller `CLIENT_TIMEOUT_S` for everything, and
there are `MAX_CLIENTS` at a time; while the house is full, those who have been in it for `CROWDED_TIMEOUT_S` leave. An
answer is made once for all who ask within `ANSWER_AGE_S`, so the node's lock is taken ten times a second at most.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from rapini.errors import ConfigError, LocalError
from rapini.node.control_places import AUTO, OFF, auto_path, bind_socket
from rapini.node.node_status import PROTOCOL_VERSION, NodeStatus
from rapini.threads import Thread, ThreadFailure

__all__ = ["ControlServer", "caller_uid", "open_control"]

_log = logging.getLogger("rapini.node")

MAX_CLIENTS: Final = 32
MAX_REQUEST_BYTES: Final = 1024
CLIENT_TIMEOUT_S: Final = 5.0
CROWDED_TIMEOUT_S: Final = 0.5
ANSWER_AGE_S: Final = 0.1

_TURN_S: Final = 0.2
_IDLE_S: Final = 60.0
_MAX_SAME_NAME: Final = 64
"""Nodes of one name in one process that `auto` finds a path for."""

_CREDENTIALS: Final = struct.Struct("3i")
"""`struct ucred`: pid, uid, gid."""


class _Client:
    """A caller. Thread: the server's."""

    __slots__ = ("came_at", "rest", "said", "socket")

    def __init__(self, connection: socket.socket, now: float) -> None:
        self.socket = connection
        self.came_at = now
        self.said = b""
        self.rest = memoryview(b"")
        """What it has not taken of its answer."""


class ControlServer(Thread):
    """Answers questions about one node.

    Args:
        name: The node's name.
        path: Where the socket is.
        listener: The socket, as `bind_socket` makes it; it is ours to close.
        take: Takes the node's status; may raise `LocalError`. Called on this thread.
    """

    def __init__(self, name: str, path: Path, listener: socket.socket, take: Callable[[], NodeStatus]) -> None:
        super().__init__(f"control-{name}")
        self.path = path
        self._listener = listener
        self._take = take
        found = path.lstat()
        self._file = (found.st_dev, found.st_ino)
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._is_accepting = True
        self._waker, self._wakee = socket.socketpair()
        self._selector.register(self._wakee, selectors.EVENT_READ)
        self._clients: set[_Client] = set()
        self._answer = b""
        self._answered_at = float("-inf")
        self._has_complained = False

    def signal_stop(self) -> None:
        """End soon."""
        super().signal_stop()
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")

    def close(self) -> None:
        """End, and remove the socket's file. Thread: the owner's."""
        self.signal_stop()
        if self.wait_stop(2.0):
            self._waker.close()

    def run(self) -> None:
        """Serve until told to stop."""
        try:
            while not self.stopping:
                self.beat()
                for key, _ in self._selector.select(_TURN_S if self._clients or not self._is_accepting else _IDLE_S):
                    if isinstance(key.data, _Client):
                        self._serve(key.data)
                    elif key.fileobj is self._listener:
                        self._accept()
                self._see_out(time.monotonic())
        finally:
            self._shut()

    def failed(self, failure: ThreadFailure) -> None:
        """The node goes on; it has been logged by the base class."""
        _log.error("%s: the control socket is closed; the node goes on", self.path)

    def _shut(self) -> None:
        with contextlib.suppress(OSError):
            found = self.path.lstat()
            if (found.st_dev, found.st_ino) == self._file:  # else somebody has put another there
                self.path.unlink()
        for client in list(self._clients):
            self._drop(client)
        self._listener.close()
        self._wakee.close()
        self._selector.close()

    # -- callers -------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while len(self._clients) < MAX_CLIENTS:
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:  # no descriptor left, say: try again next turn
                break
            client = _Client(connection, time.monotonic())
            connection.setblocking(False)
            self._clients.add(client)
            self._selector.register(connection, selectors.EVENT_READ, client)
            if caller_uid(connection) not in (os.geteuid(), 0):
                self._reply(client, _error("denied", "only the node's own user and root may ask"))
            else:
                self._serve(client)  # most have said what they want by now
        self._accept_again(is_wanted=False)

    def _accept_again(self, *, is_wanted: bool) -> None:
        if is_wanted != self._is_accepting:
            self._is_accepting = is_wanted
            if is_wanted:
                self._selector.register(self._listener, selectors.EVENT_READ)
            else:
                self._selector.unregister(self._listener)

    def _see_out(self, now: float) -> None:
        """Those whose time is up leave; others may come in."""
        patience_s = CLIENT_TIMEOUT_S if len(self._clients) < MAX_CLIENTS else CROWDED_TIMEOUT_S
        for client in [client for client in self._clients if now - client.came_at > patience_s]:
            self._drop(client)
        self._accept_again(is_wanted=len(self._clients) < MAX_CLIENTS)

    def _serve(self, client: _Client) -> None:
        if client.rest:
            self._send(client)
            return
        try:
            part = client.socket.recv(MAX_REQUEST_BYTES + 1 - len(client.said))
        except BlockingIOError:
            return
        except OSError:
            part = b""
        client.said += part
        if b"\n" in client.said:
            self._reply(client, self._answer_to_untrusted(client.said.partition(b"\n")[0]))
        elif not part:
            self._drop(client)
        elif len(client.said) > MAX_REQUEST_BYTES:
            self._reply(client, _error("bad_request", f"a request has {MAX_REQUEST_BYTES} bytes at most"))

    def _reply(self, client: _Client, answer: bytes) -> None:
        client.rest = memoryview(answer)
        self._send(client)

    def _send(self, client: _Client) -> None:
        try:
            client.rest = client.rest[client.socket.send(client.rest) :]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(client)
            return
        if client.rest:
            self._selector.modify(client.socket, selectors.EVENT_WRITE, client)
        else:
            self._drop(client)

    def _drop(self, client: _Client) -> None:
        if client in self._clients:
            self._clients.remove(client)
            self._selector.unregister(client.socket)
            client.socket.close()

    # -- answers -------------------------------------------------------------------------------------------------

    def _answer_to_untrusted(self, line: bytes) -> bytes:
        try:
            request: Any = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return _error("bad_request", "a request is one JSON object on one line")
        if not isinstance(request, dict) or "v" not in request:
            return _error("bad_request", "a request is one JSON object with v and ask")
        if request["v"] != PROTOCOL_VERSION or isinstance(request["v"], bool):
            return _error("bad_version", f"this node answers version {PROTOCOL_VERSION}")
        if request.get("ask") != "status":
            return _error("bad_request", "this node can be asked for status")
        if time.monotonic() - self._answered_at > ANSWER_AGE_S:
            self._answer = self._make_answer()
            self._answered_at = time.monotonic()
        return self._answer

    def _status(self) -> NodeStatus:
        return msgspec.structs.replace(self._take(), control=str(self.path))

    def _make_answer(self) -> bytes:
        try:
            return msgspec.json.encode({"v": PROTOCOL_VERSION, "status": self._status()}) + b"\n"
        except LocalError as error:
            return _error(error.code, error.detail)
        except Exception as error:  # noqa: BLE001 - whatever it is, the one who asks is told, and the node goes on
            if not self._has_complained:
                self._has_complained = True
                _log.error("%s: internal_error: the node's status cannot be told", self.path, exc_info=error)
            return _error("internal_error", f"a fault in this program: {type(error).__name__}")


def _error(code: str, detail: str) -> bytes:
    return msgspec.json.encode({"v": PROTOCOL_VERSION, "error": {"code": code, "detail": detail}}) + b"\n"


def caller_uid(connection: socket.socket) -> int:
    """The user at the other end of a Unix domain socket, as the kernel noted when the connection was made."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(data)[1]
    return uid


def open_control(setting: str, *, name: str, cluster: str, take: Callable[[], NodeStatus]) -> ControlServer | None:
    """Start what the setting `control` asks for; `None` if nothing.

    With `auto`, a socket that cannot be made is logged as a warning; the node does without.

    Raises:
        ConfigError: As `bind_socket`, where the setting is a path.
    """
    if setting in ("", OFF):
        return None
    if setting != AUTO:
        path = Path(setting).absolute()
        return _started(ControlServer(name, path, bind_socket(path, is_shared=False), take))
    try:
        for number in range(1, _MAX_SAME_NAME + 1):
            path = auto_path(cluster, name, number)
            try:
                return _started(ControlServer(name, path, bind_socket(path, is_shared=True), take))
            except ConfigError as error:
                if error.code != "control_in_use" or number == _MAX_SAME_NAME:
                    raise
    except ConfigError as error:
        _log.warning("rapini status will not find this node: %s", error)
    return None


def _started(server: ControlServer) -> ControlServer:
    server.start()
    return server
