"""Asks running nodes on this machine about themselves: the other end of `rapini.node.control`."""

from __future__ import annotations

import errno
import os
import socket
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from rapini.errors import LocalError
from rapini.node.control import caller_uid
from rapini.node.control_places import check_length, live_sockets
from rapini.node.node_status import PROTOCOL_VERSION, NodeStatus

__all__ = ["read_status", "running_nodes"]

MAX_ANSWER_BYTES: Final = 32 * 1024 * 1024
"""More than the largest status: a thousand peers with sixteen long subscriptions each."""

_RETRY_S: Final = 0.02


def running_nodes() -> list[str]:
    """Paths of the control sockets that processes listen behind, for `read_status`.

    They are looked for where `control = "auto"` puts them: in `$RAPINI_RUNTIME_DIR` if that is set, else in
    `$XDG_RUNTIME_DIR/rapini`, `/run/rapini` (root) and `/tmp/rapini-<uid>`; root finds those of other users too. Any
    thread.
    """
    return [str(path) for path in live_sockets()]


def read_status(path: str | Path, *, timeout_s: float = 2.0) -> NodeStatus:
    """Ask the node with this control socket how it is.

    Args:
        path: The socket's path: `Node.control`, or one of `running_nodes()`.
        timeout_s: How long it may take, in seconds.

    Raises:
        ConfigError: `control_path`: the path is too long for a socket.
        LocalError: `not_running` (nobody is there), `not_permitted` (it is somebody else's), `no_answer` (it did not
            answer in time), `bad_answer` (it does not speak our language), or what the node answered: `busy`,
            `denied`, `bad_version`, `internal_error`.

    Thread: any.
    """
    check_length(path)
    deadline = time.monotonic() + timeout_s
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            _connect(connection, str(path), deadline)
            _check_owner(connection, path)
            answer = _ask(connection, deadline)
        except TimeoutError:
            raise _no_answer(path, timeout_s) from None
        except OSError as exc:
            raise _unreachable(path, exc) from None
    return _status_untrusted(answer, path)


def _connect(connection: socket.socket, path: str, deadline: float) -> None:
    connection.setblocking(False)
    while True:
        try:
            connection.connect(path)
            return
        except BlockingIOError:  # its queue is full; on Unix domain sockets, connect() does not go on by itself
            if time.monotonic() + _RETRY_S >= deadline:
                raise TimeoutError from None
            time.sleep(_RETRY_S)


def _check_owner(connection: socket.socket, path: str | Path) -> None:
    uid, ours = caller_uid(connection), os.geteuid()
    if ours != 0 and uid not in (ours, 0):
        raise LocalError("not_permitted", f"{path}: this node belongs to user {uid}", remedy="ask as that user or root")


def _ask(connection: socket.socket, deadline: float) -> bytes:
    connection.settimeout(_left(deadline))
    try:
        connection.sendall(msgspec.json.encode({"v": PROTOCOL_VERSION, "ask": "status"}) + b"\n")
    except BrokenPipeError:
        pass  # it said what it had to say before it was asked
    answer = bytearray()
    while len(answer) <= MAX_ANSWER_BYTES:
        connection.settimeout(_left(deadline))
        try:
            part = connection.recv(256 * 1024)
        except ConnectionResetError:
            break
        if not part:
            break
        answer += part
        if part.endswith(b"\n"):
            break
    return bytes(answer)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _status_untrusted(answer: bytes, path: str | Path) -> NodeStatus:
    if not answer:
        raise LocalError("not_running", f"{path}: the node ended before it had answered")
    try:
        said: Any = msgspec.json.decode(answer)
        if not isinstance(said, dict):
            raise msgspec.ValidationError("not an object")
        if "error" in said:
            error = msgspec.convert(said["error"], dict[str, str])
            raise LocalError(error.get("code", ""), f"{path}: {error.get('detail', '')}")
        return msgspec.convert(said.get("status"), NodeStatus)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:  # ValidationError is a DecodeError
        raise LocalError("bad_answer", f"{path}: not a node's answer: {exc}", remedy="is it a Rapini node?") from None


def _no_answer(path: str | Path, timeout_s: float) -> LocalError:
    return LocalError("no_answer", f"{path}: no answer within {timeout_s:g} s", remedy="is the process stopped?")


def _unreachable(path: str | Path, exc: OSError) -> LocalError:
    if exc.errno in (errno.EACCES, errno.EPERM):
        return LocalError("not_permitted", f"{path}: not permitted", remedy="ask as the node's user or root")
    if exc.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR, errno.ECONNRESET):
        return LocalError("not_running", f"{path}: no node is running there")
    return LocalError("bad_answer", f"{path}: {exc.strerror or exc}")
