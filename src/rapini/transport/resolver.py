"""Names to addresses, off the I/O thread.

Where it sits: used by the node before it dials. `getaddrinfo()` blocks for as long as a name server pleases, and cannot
be interrupted; on the I/O thread it would stall every link. So each look-up has a thread of its own, which is abandoned
(as a daemon) at its deadline, and no more than a few may be under way. A numeric address needs no look-up.

Source: architecture.md 5a rule 7; getaddrinfo(3).
"""

from __future__ import annotations

import socket as sockets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from rapini import defaults
from rapini.transport.base import Address

__all__ = ["ResolveCallback", "ResolveFailed", "Resolved", "Resolver", "numeric_address"]

MAX_LOOKUPS: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A name has these addresses, the system's first choice first; never empty."""

    host: str
    port: int
    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolveFailed:
    """A name has no address, or nobody says so in time."""

    host: str
    port: int
    code: str
    """Always `cannot_resolve`."""
    detail: str


ResolveCallback: TypeAlias = Callable[[Resolved | ResolveFailed], None]


def numeric_address(host: str, port: int) -> Address | None:
    """The socket address of a numeric host, without asking anybody; `None` if it is a name."""
    try:
        found = sockets.getaddrinfo(
            host, port, type=sockets.SOCK_STREAM, flags=sockets.AI_NUMERICHOST | sockets.AI_NUMERICSERV
        )
    except (OSError, UnicodeError):  # the latter for what is no name either; the look-up says so
        return None
    return found[0][4]


class Resolver:
    """Looks names up in threads.

    Args:
        timeout_s: After this long a look-up has failed.
    """

    def __init__(self, timeout_s: float = defaults.CONNECT_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._lookups = 0
        self._is_closed = False

    def submit(self, host: str, port: int, callback: ResolveCallback) -> None:
        """Look a name up; `callback` is called exactly once, unless `close()` comes first.

        It is called on a thread of the resolver's, with no lock held; for a numeric address, and when too many look-ups
        are under way, on the caller's before `submit` returns.

        Thread: any.
        """
        address = numeric_address(host, port)
        if address is not None:
            callback(Resolved(host=host, port=port, addresses=(address,)))
            return
        with self._lock:
            is_full = self._lookups >= MAX_LOOKUPS
            if not is_full:
                self._lookups += 1
        if is_full:
            detail = f"cannot look up {host}: {MAX_LOOKUPS} look-ups are still without an answer"
            callback(ResolveFailed(host=host, port=port, code="cannot_resolve", detail=detail))
            return
        lookup = _Lookup(host, port, lambda outcome: self._deliver(callback, outcome))
        lookup.start(self._timeout_s, self._finished)

    def close(self) -> None:
        """No callback is called from now on (one may be under way)."""
        with self._lock:
            self._is_closed = True

    def _deliver(self, callback: ResolveCallback, outcome: Resolved | ResolveFailed) -> None:
        with self._lock:
            is_closed = self._is_closed
        if not is_closed:
            callback(outcome)

    def _finished(self) -> None:
        with self._lock:
            self._lookups -= 1


class _Lookup:
    """One name; the first of answer and deadline counts."""

    def __init__(self, host: str, port: int, callback: ResolveCallback) -> None:
        self._host = host
        self._port = port
        self._callback = callback
        self._lock = threading.Lock()
        self._is_answered = False

    def start(self, timeout_s: float, finished: Callable[[], None]) -> None:
        timer = threading.Timer(timeout_s, self._on_deadline, (timeout_s,))
        timer.daemon = True
        timer.name = "rapini-resolver-deadline"

        def run() -> None:
            try:
                self._answer(self._look_up())
            finally:
                timer.cancel()
                finished()

        thread = threading.Thread(target=run, name="rapini-resolver", daemon=True)
        timer.start()
        thread.start()

    def _look_up(self) -> Resolved | ResolveFailed:
        try:
            found = sockets.getaddrinfo(self._host, self._port, type=sockets.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not a valid name"
            return self._failed(f"cannot look up {self._host}: {why}")
        addresses = tuple(dict.fromkeys(entry[4] for entry in found))
        return Resolved(host=self._host, port=self._port, addresses=addresses)

    def _on_deadline(self, timeout_s: float) -> None:
        self._answer(self._failed(f"cannot look up {self._host}: no answer within {timeout_s:g} s"))

    def _failed(self, detail: str) -> ResolveFailed:
        return ResolveFailed(host=self._host, port=self._port, code="cannot_resolve", detail=detail)

    def _answer(self, outcome: Resolved | ResolveFailed) -> None:
        with self._lock:
            if self._is_answered:
                return
            self._is_answered = True
        self._callback(outcome)
